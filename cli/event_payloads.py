"""Events as people and scripts read them: payloads decoded by their type, one line or one document each."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Self

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError
from rich.text import Text

from chassis.cloud_events import ReceivedEvent, from_record, unreadable
from cli.output import safe
from sagacity.inventory.v1 import events_pb2 as inventory_events
from sagacity.orders.v1 import events_pb2 as orders_events
from sagacity.payments.v1 import events_pb2 as payments_events
from sagacity.users.v1 import events_pb2 as users_events

# Importing them is what puts their messages into the pool.
KNOWN = (users_events, inventory_events, payments_events, orders_events)
TOPICS = {name: f"sagacity.{name}.v1" for name in ("users", "inventory", "payments", "orders")}
_NAMES = {topic: name for name, topic in TOPICS.items()}
_STYLES = {"users": "magenta", "inventory": "yellow", "payments": "green", "orders": "cyan"}
MAX_SHOWN_BYTES = 200
MAX_SHOWN_ERROR = 120


def decoded(type_name: str, payload: bytes) -> dict[str, Any] | None:
    """The payload as protobuf's JSON with the fields' own names; None where we cannot read it."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name)
        message = message_factory.GetMessageClass(descriptor).FromString(payload)
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    except (KeyError, DecodeError, ValueError):
        return None


@dataclass(frozen=True)
class SeenEvent:
    """A record of a topic: our event, or something else (`error` says what is wrong with it)."""

    event: ReceivedEvent
    key: str
    error: str

    @classmethod
    def of(cls, record: Any) -> Self:
        """Read an aiokafka record, whatever it is."""
        key = (record.key or b"").decode(errors="replace")
        try:
            return cls(from_record(record), key, "")
        except ValueError as error:
            return cls(unreadable(record), key, str(error))

    def is_wanted(self, key: str | None, types: frozenset[str]) -> bool:
        """Whether it has this key, and one of these types: full names, or what is behind the last dot."""
        named = {self.event.type, self.event.type.rpartition(".")[2]}
        return (key is None or key == self.key) and (not types or not types.isdisjoint(named))

    def document(self) -> dict[str, Any]:
        """All of it, for scripts; the same names for every record."""
        event = self.event
        payload = None if self.error else decoded(event.type, event.payload)
        return {
            "topic": event.topic,
            "partition": event.partition,
            "offset": event.offset,
            "key": self.key,
            "time": event.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "id": event.id or None,
            "type": event.type or None,
            "aggregate_type": None if self.error else event.aggregate_type,
            "aggregate_id": None if self.error else event.aggregate_id,
            "sequence": None if self.error else event.sequence,
            "traceparent": event.traceparent,
            "payload": payload,
            "payload_base64": base64.b64encode(event.payload).decode() if payload is None else None,
            "error": self.error or None,
        }

    def line(self) -> Text:
        """When, where, what, of which aggregate, and what it says."""
        event = self.event
        name = _NAMES.get(event.topic, event.topic)
        moment = event.occurred_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        line = Text(f"{moment}  ", style="")
        line.append(f"{safe(name):<9} ", style=_STYLES.get(name, ""))
        line.append(f"{event.partition}:{event.offset:<6} ", style="dim")
        if self.error:
            line.append("unreadable", style="bold red")
            return line.append(f"  {safe(self.error)[:MAX_SHOWN_ERROR]}  {shown_bytes(event.payload)}")
        line.append(safe(event.type.rpartition(".")[2]), style="bold")
        line.append(f"  {safe(event.aggregate_type)}/{safe(event.aggregate_id)} #{event.sequence}  ")
        payload = decoded(event.type, event.payload)
        if payload is None:
            return line.append(f"{safe(event.type)}: {shown_bytes(event.payload)}", style="red")
        return line.append(safe(json.dumps(payload, ensure_ascii=False)), style="dim")


def shown_bytes(payload: bytes) -> str:
    """Bytes that we cannot read, as hexadecimal digits, not too many of them."""
    more = f"... ({len(payload)} bytes)" if len(payload) > MAX_SHOWN_BYTES else ""
    return (payload[:MAX_SHOWN_BYTES].hex() or "(empty)") + more
