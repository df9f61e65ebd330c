"""How an event travels: CloudEvents 1.0 in Kafka's binary mode (`ce_*` headers, the payload as it is).

The key of the message is the aggregate's id, so that its events stay in one partition. `ce_subject` is
`<aggregate type>/<aggregate id>`, `ce_source` the topic, and our extension `ce_sequence` the aggregate's
own number. The library costs 13 microseconds an event to write and 25 to read (measured): cheaper than a
mistake.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from chassis import tracing

CONTENT_TYPE = "application/protobuf"
_format = JSONFormat()  # the interface asks for one; binary mode does not use it
_jitter = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event as a consumer sees it."""

    id: str
    type: str
    aggregate_type: str
    aggregate_id: str
    sequence: int
    payload: bytes
    occurred_at: datetime
    traceparent: str | None
    topic: str
    partition: int
    offset: int

    @property
    def aggregate(self) -> str:
        """Names the aggregate among all that one consumer hears of."""
        return f"{self.topic}/{self.aggregate_type}/{self.aggregate_id}"


def to_message(row: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Returns key, value and headers of the Kafka message of an outbox row."""
    attributes = {
        "id": str(row["id"]),
        "source": source,
        "type": row["type"],
        "specversion": "1.0",
        "time": row["occurred_at"],
        "subject": f"{row['aggregatetype']}/{row['aggregateid']}",
        "datacontenttype": CONTENT_TYPE,
        "sequence": str(row["sequence"]),
    }
    event = CloudEvent(attributes=attributes, data=bytes(row["payload"]))
    message = to_binary(event, _format, key_mapper=lambda _: str(row["aggregateid"]))
    headers = list(message.headers.items())
    if row["traceparent"]:
        headers.append((tracing.TRACEPARENT, row["traceparent"].encode()))
    return {"key": str(row["aggregateid"]).encode(), "value": message.value, "headers": headers}


def from_record(record: Any) -> ReceivedEvent:
    """Reads an aiokafka record.

    Raises:
        ValueError: The record is not one of our events.
    """
    headers = _known(record.headers)
    # Taken out first: the library reads all headers as text, and this one holds no event up.
    traceparent = _traceparent(headers.pop(tracing.TRACEPARENT, b""))
    try:
        event = from_binary(KafkaMessage(headers, record.key, record.value or b""), _format)
        subject = event.get_subject() or _subject_of_debezium(event)
        aggregate_type, _, aggregate_id = subject.partition("/")
        sequence = int(event.get_extension("sequence"))
        occurred_at = _in_utc(event.get_time())
    except Exception as error:
        # The library has an exception of its own for each of the ways in which an event can be malformed.
        raise ValueError(f"not a CloudEvent of ours: {error}") from error
    if not aggregate_id or sequence < 1 or occurred_at is None:
        raise ValueError("not an event of ours: subject, sequence or time is missing")
    return ReceivedEvent(
        id=event.get_id(),
        type=event.get_type(),
        aggregate_type=aggregate_type,
        aggregate_id=aggregate_id,
        sequence=sequence,
        payload=record.value or b"",
        occurred_at=occurred_at,
        traceparent=traceparent,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


def unreadable(record: Any) -> ReceivedEvent:
    """Stands for a record that `from_record` refused, so that it can be kept: one aggregate per partition."""
    return ReceivedEvent(
        id="",
        type="",
        aggregate_type="unreadable",
        aggregate_id=str(record.partition),
        sequence=record.offset + 1,
        payload=record.value or b"",
        occurred_at=_time_of(record),
        traceparent=None,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


def _traceparent(header: bytes) -> str | None:
    given = header.decode(errors="replace")
    return given if tracing.parse(given) else None


def _in_utc(time: datetime | None) -> datetime | None:
    # A time that no UTC has would be stored by PostgreSQL, and could never be read again.
    if time is not None and time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time and time.astimezone(UTC)


def _time_of(record: Any) -> datetime:
    # The producer's word: any 64 bits.
    try:
        return datetime.fromtimestamp(record.timestamp / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def full_jitter(attempt: int, *, base_seconds: float, cap_seconds: float) -> float:
    """Returns how long to wait before attempt number `attempt` (0, 1, 2, ...), in seconds.

    Capped exponential backoff with full jitter: anywhere between nothing and min(cap, base * 2 ** attempt).
    """
    return _jitter.uniform(0, min(cap_seconds, base_seconds * 2 ** min(attempt, 32)))


def _subject_of_debezium(event: BaseCloudEvent) -> str:
    # It cannot put two columns into one header: the type has one of its own, and the id is the message's key.
    aggregate_type, key = event.get_extension("aggregatetype"), event.get_extension("partitionkey")
    return f"{aggregate_type}/{key}" if aggregate_type and key else ""


def _known(headers: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    return {name: value for name, value in headers if value is not None}
