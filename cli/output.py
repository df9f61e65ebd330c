"""What goes to the terminal: text that cannot move the cursor, colours only where they are wanted, JSON."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any, TextIO

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from rich.console import Console

from chassis.config import environment

# Of what is no terminal: wide enough that no id is folded.
PLAIN_WIDTH = 200
# Which JSON would have as text.
_INTEGERS = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})


def console(stream: TextIO | None = None) -> Console:
    """A console without colours where the stream is no terminal, or NO_COLOR is set."""
    stream = stream or sys.stdout
    terminal = stream.isatty()
    plain = not terminal or bool(environment().get("NO_COLOR"))
    return Console(
        file=stream,
        color_system=None if plain else "auto",
        force_terminal=terminal,
        width=None if terminal else PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def safe(text: str) -> str:
    """Foreign text on one line, without what a terminal would act upon: controls, bidirectional overrides."""
    return "".join(
        " " if character in "\n\t" else character
        for character in text
        if character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    )


def document(value: dict[str, Any], *, indent: int | None = 2) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
    sys.stdout.flush()


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON in the words of the REST API: states in lower case, numbers as numbers."""
    found = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _plain(found, message.DESCRIPTOR)


def word(enum: EnumDescriptor, value: int) -> str:
    """The word for a value: CONSUMER_STATE_PAUSED is `paused`; of a later release than ours: `unknown`."""
    found = enum.values_by_number.get(value)
    return _word(enum, found.name) if found else "unknown"


def _word(enum: EnumDescriptor, name: str) -> str:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return name.removeprefix(prefix).lower()


def _plain(found: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in found.items():
        field = descriptor.fields_by_name[name]
        if field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name:
            made[f"{name}_seconds"] = float(value.removesuffix("s"))
        elif isinstance(value, list):
            made[name] = [_plain_value(field, each) for each in value]
        else:
            made[name] = _plain_value(field, value)
    return made


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        # What JSON writes otherwise than as an object, such as times, is as it should be.
        return _plain(value, field.message_type) if isinstance(value, dict) else value
    if field.enum_type is not None:
        return _word(field.enum_type, value) if isinstance(value, str) else "unknown"
    return int(value) if field.cpp_type in _INTEGERS else value


def complain(reason: str, message: str) -> None:
    """Say on standard error what went wrong, in one line."""
    sys.stderr.write(f"sagacity: {safe(message)} ({reason})\n")
    sys.stderr.flush()
