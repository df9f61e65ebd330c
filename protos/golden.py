"""Golden bytes: each version of each event as first published. `python -m protos.golden [PROTOS]` adds.

A version is a file, `<folder>/<full name of the event>/v<N>.json`: the bytes, and what they say in protobuf's
JSON. Every field is set in them. An event that gained a field gains a version; what is there is never written
again, because such bytes lie in topics, outboxes and dead letters for as long as anybody keeps those.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos.event_protos import PROTOS, EventProtos, part_of

FOLDER = PROTOS.parent / "tests" / "unit" / "events" / "golden"

# By the field's name, or by the message's and the field's. Where there are two, the second is for the second
# element of a list.
_EXAMPLES: dict[str, tuple[str, ...]] = {
    "sku": ("KEYBOARD-US", "MOUSE-BT"),
    "name": ("Keyboard, US layout",),
    "quantity": ("2", "1"),
    "available": ("4",),
    "StockBack.available": ("7",),
    "threshold": ("5",),
    "minor_units": ("1999",),
    "currency_code": ("EUR",),
    "order_number": ("SG-3F7K-92QX",),
    "OrderRejected.reason": ("INSUFFICIENT_STOCK",),
    "PaymentDeclined.reason": ("CARD_DECLINED",),
    "PaymentRefunded.provider_reason": ("DISPUTE",),
    "PaymentVoided.provider_reason": ("AUTHORIZATION_EXPIRED",),
    "carrier": ("DHL",),
    "tracking_number": ("00340434161094015902",),
}
_OF_TYPE: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: "text",
    FieldDescriptor.TYPE_BYTES: "AQID",
    FieldDescriptor.TYPE_BOOL: True,
    FieldDescriptor.TYPE_INT32: 7,
    FieldDescriptor.TYPE_INT64: "7",
    FieldDescriptor.TYPE_DOUBLE: 1.5,
}
_WELL_KNOWN = {"google.protobuf.Timestamp": "2026-01-02T03:04:05Z", "google.protobuf.Duration": "90s"}


@dataclass(frozen=True, slots=True)
class Golden:
    """A version of an event."""

    event: str
    version: int
    payload: bytes
    decoded: dict[str, Any]


def goldens(event: str, folder: Path = FOLDER) -> list[Golden]:
    """Reads the versions of an event, from 1 without gaps.

    Raises:
        ValueError: There is a gap, or a file that is none of them.
    """
    paths = {path.name for path in (folder / event).glob("*")}
    found = []
    for version in range(1, len(paths) + 1):
        if f"v{version}.json" not in paths:
            raise ValueError(f"{event}: v{version}.json is missing among {sorted(paths)}")
        stored = json.loads((folder / event / f"v{version}.json").read_text("utf-8"))
        found.append(Golden(event, version, bytes.fromhex(stored["bytes"]), stored["decoded"]))
    return found


def fields_of(message: Descriptor) -> set[str]:
    """The paths of all fields that a message can have, those of its parts included."""
    found = set()
    for field in message.fields:
        found.add(field.name)
        if part := part_of(field):
            found |= {f"{field.name}.{path}" for path in fields_of(part)}
    return found


def fields_in(decoded: dict[str, Any]) -> set[str]:
    """The paths of all fields that are set in a message, given as JSON."""
    found = set()
    for name, value in decoded.items():
        found.add(name)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                found |= {f"{name}.{path}" for path in fields_in(part)}
    return found


def encoded(message: Descriptor, decoded: dict[str, Any]) -> bytes:
    """Returns the bytes of a message that is given as JSON."""
    filled = json_format.ParseDict(decoded, message_factory.GetMessageClass(message)())
    return bytes(filled.SerializeToString(deterministic=True))


def example(message: Descriptor, index: int = 0) -> dict[str, Any]:
    """Returns a message with every field set, as JSON: always the same one.

    Args:
        message: Its type.
        index: Of the element, where it is one of a list.

    Raises:
        ValueError: A field has a type that nothing is known of.
    """
    return {
        field.name: [_value(field, 0), _value(field, 1)] if field.is_repeated else _value(field, index)
        for field in message.fields
    }


def _value(field: FieldDescriptor, index: int) -> Any:
    if part := part_of(field):
        return example(part, index)
    if field.message_type is not None:
        return _known(_WELL_KNOWN, field.message_type.full_name, field)
    if field.enum_type is not None:
        return max(field.enum_type.values, key=lambda value: value.number).name
    known = _EXAMPLES.get(".".join(field.full_name.split(".")[-2:])) or _EXAMPLES.get(field.name)
    if known:
        return known[index % len(known)]
    if field.type == FieldDescriptor.TYPE_STRING and field.name.endswith("_id"):
        return str(uuid5(NAMESPACE_URL, f"sagacity/{field.name}"))
    return _known(_OF_TYPE, field.type, field)


def _known(examples: Mapping[Any, Any], kind: Any, field: FieldDescriptor) -> Any:
    if kind not in examples:
        raise ValueError(f"{field.full_name}: give an example of its type in protos/golden.py")
    return examples[kind]


def add_missing(protos: EventProtos, folder: Path = FOLDER) -> Iterator[Path]:
    """Writes a version of each event that has none with all its fields; yields the files."""
    for event in protos.events():
        name = event.message.full_name
        versions = goldens(name, folder)
        if versions and fields_in(versions[-1].decoded) >= fields_of(event.message):
            continue
        decoded = example(event.message)
        text = json.dumps({"bytes": encoded(event.message, decoded).hex(), "decoded": decoded}, indent=2)
        path = folder / name / f"v{len(versions) + 1}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": what is there is never written again.
        with path.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
        yield path


if __name__ == "__main__":
    for written in add_missing(EventProtos(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS)):
        print(written.relative_to(PROTOS.parent))  # noqa: T201  # a command
