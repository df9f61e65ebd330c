"""What goes to the terminal: text that cannot move the cursor, colours only where they are wanted, JSON."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any, TextIO

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console

from chassis.config import environment

# Of what is no terminal: wide enough that no id is folded.
PLAIN_WIDTH = 200
_NUMBERS = frozenset({"sequence", "epoch", "open", "parked"})
_ENUM = re.compile(r"^SAGA_STATE_")


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
    return {name: _plain(name, value) for name, value in found.items()}


def _plain(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        return int(value)
    if name == "state":
        return _ENUM.sub("", value).lower()
    return value


def complain(reason: str, message: str) -> None:
    """Say on standard error what went wrong, in one line."""
    sys.stderr.write(f"sagacity: {safe(message)} ({reason})\n")
    sys.stderr.flush()
