"""The inbox: what a consumer has applied of each aggregate, and what it had to put aside.

A high-water mark per (consumer, generation, aggregate): the next event is applied, an equal or lower one is
a duplicate, a later one is a gap. An event that cannot be applied is parked in `dead_letter` and halts its
aggregate: what comes after it is parked behind it, until a person replays them in order.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from chassis.cloud_events import ReceivedEvent
from chassis.postgres import Database, Transaction, statement

Handler: TypeAlias = Callable[[Transaction, ReceivedEvent], Awaitable[None]]
ERROR_LENGTH_MAX = 2_000

# Frozen: migrations that were released run it. A change is a new migration, not an edit.
INBOX_DDL = """
CREATE TABLE inbox (
    consumer text NOT NULL,
    generation bigint NOT NULL,
    aggregate text NOT NULL,
    sequence bigint NOT NULL,
    halted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (consumer, generation, aggregate)
);
CREATE TABLE dead_letter (
    consumer text NOT NULL,
    generation bigint NOT NULL,
    aggregate text NOT NULL,
    sequence bigint NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    payload bytea NOT NULL,
    occurred_at timestamptz,
    traceparent text,
    topic text NOT NULL,
    partition bigint NOT NULL,
    kafka_offset bigint NOT NULL,
    error text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, generation, aggregate, sequence)
);
"""

# Takes the rows' locks in key order, makes those that are missing, and returns what they say, in one
# statement: a consumer that lost the partition and does not know it yet waits here, and then sees what was
# applied meanwhile.
_LOCK_MARKS = statement(
    "lock_inbox_marks",
    """
    INSERT INTO inbox (consumer, generation, aggregate, sequence)
    SELECT %(consumer)s, %(generation)s, aggregate, 0
    FROM unnest(%(aggregates)s::text[]) AS wanted (aggregate) ORDER BY aggregate
    ON CONFLICT (consumer, generation, aggregate) DO UPDATE SET sequence = inbox.sequence
    RETURNING aggregate, sequence, halted
    """,
)
_MOVE_MARKS = statement(
    "move_inbox_marks",
    """
    UPDATE inbox SET sequence = moved.sequence
    FROM unnest(%(aggregates)s::text[], %(sequences)s::bigint[]) AS moved (aggregate, sequence)
    WHERE consumer = %(consumer)s AND generation = %(generation)s AND inbox.aggregate = moved.aggregate
    """,
)
_HALT = statement(
    "halt_inbox_aggregate",
    "UPDATE inbox SET halted = true"
    " WHERE consumer = %(consumer)s AND generation = %(generation)s AND aggregate = %(aggregate)s",
)
_PARK = statement(
    "park_event",
    """
    INSERT INTO dead_letter (consumer, generation, aggregate, sequence, event_id, type, aggregate_type,
        aggregate_id, payload, occurred_at, traceparent, topic, partition, kafka_offset, error)
    VALUES (%(consumer)s, %(generation)s, %(aggregate)s, %(sequence)s, %(event_id)s, %(type)s,
        %(aggregate_type)s, %(aggregate_id)s, %(payload)s, %(occurred_at)s, %(traceparent)s, %(topic)s,
        %(partition)s, %(kafka_offset)s, %(error)s)
    ON CONFLICT DO NOTHING
    """,
)


class GapError(Exception):
    """An event came whose predecessor has not been seen."""


@dataclass(slots=True)
class Applied:
    """What became of some events."""

    applied: int = 0
    duplicates: int = 0
    parked: int = 0


class Inbox:
    """One consumer's marks, in the database that holds its effects."""

    def __init__(
        self, database: Database, *, consumer: str, generation: int, handlers: Mapping[str, Handler]
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._key: dict[str, Any] = {"consumer": consumer, "generation": generation}

    async def apply(self, events: list[ReceivedEvent]) -> Applied:
        """Applies events in their order, with their marks, all of them or none, in one transaction.

        An event without a handler moves the mark and has no effect; one of a halted aggregate is parked.

        Raises:
            GapError: The predecessor of an event has not been seen.
            Fault: UNAVAILABLE; they may have been applied or not.
            Exception: Whatever a handler raises.
        """

        async def attempt(tx: Transaction) -> Applied:
            return await self._apply(tx, events)

        return await self._database.run(attempt)

    async def park(self, event: ReceivedEvent, error: str) -> None:
        """Puts an event aside and halts its aggregate."""

        async def attempt(tx: Transaction) -> None:
            await tx.fetch(_LOCK_MARKS, {**self._key, "aggregates": [event.aggregate]})
            await tx.fetch(_HALT, {**self._key, "aggregate": event.aggregate})
            await tx.fetch(_PARK, self._letter(event, error))

        await self._database.run(attempt)

    async def _apply(self, tx: Transaction, events: list[ReceivedEvent]) -> Applied:
        aggregates = sorted({event.aggregate for event in events})
        rows = await tx.fetch(_LOCK_MARKS, {**self._key, "aggregates": aggregates})
        marks = {row["aggregate"]: row["sequence"] for row in rows}
        halted = {row["aggregate"] for row in rows if row["halted"]}
        moved: dict[str, int] = {}
        result = Applied()
        for event in events:
            mark = moved.get(event.aggregate, marks[event.aggregate])
            if event.sequence <= mark:
                result.duplicates += 1
            elif event.aggregate in halted:
                await tx.fetch(_PARK, self._letter(event, "an earlier event of this aggregate is parked"))
                result.parked += 1
            elif event.sequence > mark + 1:
                raise GapError(f"{event.aggregate}: event {event.sequence} came after {mark}")
            else:
                await self._handle(tx, event)
                moved[event.aggregate] = event.sequence
                result.applied += 1
        if moved:
            marks_now = {"aggregates": list(moved.keys()), "sequences": list(moved.values())}
            await tx.fetch(_MOVE_MARKS, {**self._key, **marks_now})
        return result

    async def _handle(self, tx: Transaction, event: ReceivedEvent) -> None:
        handler = self._handlers.get(event.type)
        if handler:
            await handler(tx, event)

    def _letter(self, event: ReceivedEvent, error: str) -> dict[str, Any]:
        return {
            **self._key,
            "aggregate": event.aggregate,
            "sequence": event.sequence,
            "event_id": event.id,
            "type": event.type,
            "aggregate_type": event.aggregate_type,
            "aggregate_id": event.aggregate_id,
            "payload": event.payload,
            "occurred_at": event.occurred_at,
            "traceparent": event.traceparent,
            "topic": event.topic,
            "partition": event.partition,
            "kafka_offset": event.offset,
            "error": error[:ERROR_LENGTH_MAX].replace("\x00", ""),
        }
