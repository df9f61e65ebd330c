"""The inbox: what a consumer has applied of each aggregate, and what it had to put aside.

A high-water mark per (consumer, generation, aggregate): the next event is applied, an equal or lower one is
a duplicate, a later one is a gap. An event that cannot be applied is parked in `dead_letter` and halts its
aggregate: what comes after it is parked behind it, until a person replays them in order. A row of
`consumer_control` stops the whole consumer, in every process.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import structlog

from chassis import tracing
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
# Frozen, too; it follows INBOX_DDL. The columns are cheap to add: none of them is filled.
EVENT_OPERATIONS_DDL = """
SET LOCAL lock_timeout = '10s';
-- The event at the mark: another one with its number is another fact. A mark that moved without saying by
-- which event has a higher sequence than event_sequence.
ALTER TABLE inbox ADD COLUMN event_id text, ADD COLUMN event_sequence bigint;
ALTER TABLE dead_letter ADD COLUMN replays bigint NOT NULL DEFAULT 0;
-- A consumer without a row is RUNNING.
CREATE TABLE consumer_control (
    consumer text NOT NULL,
    generation bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('RUNNING', 'PAUSED', 'HALTED')),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, generation)
);
CREATE TABLE event_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL CHECK (char_length(actor) BETWEEN 1 AND 200),
    action text NOT NULL CHECK (action IN ('replay', 'discard', 'pause', 'resume', 'rebuild')),
    target text NOT NULL,
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    outcome text NOT NULL
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
    RETURNING aggregate, sequence, halted,
        CASE WHEN event_sequence = sequence THEN event_id END AS event_id
    """,
)
_MOVE_MARKS = statement(
    "move_inbox_marks",
    """
    UPDATE inbox SET sequence = moved.sequence, event_id = moved.event_id, event_sequence = moved.sequence
    FROM unnest(%(aggregates)s::text[], %(sequences)s::bigint[], %(event_ids)s::text[])
        AS moved (aggregate, sequence, event_id)
    WHERE consumer = %(consumer)s AND generation = %(generation)s AND inbox.aggregate = moved.aggregate
    """,
)
_SET_HALTED = statement(
    "halt_inbox_aggregate",
    "UPDATE inbox SET halted = %(halted)s"
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
    RETURNING sequence
    """,
)
_STATE = statement(
    "consumer_state",
    "SELECT state FROM consumer_control WHERE consumer = %(consumer)s AND generation = %(generation)s",
)
# What an operator said stands: who halts by itself does not make a PAUSED one HALTED.
_HALT_CONSUMER = statement(
    "halt_consumer",
    """
    INSERT INTO consumer_control (consumer, generation, state)
    VALUES (%(consumer)s, %(generation)s, 'HALTED')
    ON CONFLICT (consumer, generation) DO UPDATE SET state = 'HALTED', update_time = now()
    WHERE consumer_control.state = 'RUNNING'
    """,
)
_SET_STATE = statement(
    "set_consumer_state",
    """
    INSERT INTO consumer_control (consumer, generation, state)
    VALUES (%(consumer)s, %(generation)s, %(state)s::text)
    ON CONFLICT (consumer, generation) DO UPDATE SET state = excluded.state, update_time = now()
    """,
)


class ConsumerState(StrEnum):
    """What a consumer may do."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    """An operator stopped it."""
    HALTED = "HALTED"
    """It stopped itself: too many keys failed in a row."""


class GapError(Exception):
    """An event came whose predecessor has not been seen."""


class NotRunningError(Exception):
    """The consumer may not apply anything now; nothing was changed."""

    def __init__(self, state: ConsumerState) -> None:
        super().__init__(state)
        self.state = state


@dataclass(frozen=True, slots=True)
class Mark:
    """How far an aggregate is: its last event that counts as applied, with its id where that is known."""

    sequence: int
    event_id: str | None
    halted: bool


@dataclass(slots=True)
class Applied:
    """What became of some events."""

    applied: int = 0
    duplicates: int = 0
    parked: int = 0
    # Duplicates by their number, with another id: facts that are not applied, and should have been.
    other_facts: list[ReceivedEvent] = field(default_factory=list)


class Inbox:
    """One consumer's marks, in the database that holds its effects."""

    def __init__(
        self, database: Database, *, consumer: str, generation: int, handlers: Mapping[str, Handler]
    ) -> None:
        self._database = database
        self._handlers = handlers
        self.consumer = consumer
        self.generation = generation
        self.key: Mapping[str, Any] = {"consumer": consumer, "generation": generation}

    async def apply(self, events: list[ReceivedEvent]) -> Applied:
        """Applies events in their order, with their marks, all of them or none, in one transaction.

        An event without a handler moves the mark and has no effect; one of a halted aggregate is parked.

        Raises:
            NotRunningError: The consumer may not apply anything.
            GapError: The predecessor of an event has not been seen.
            Fault: UNAVAILABLE; they may have been applied or not.
            Exception: Whatever a handler raises.
        """

        async def attempt(tx: Transaction) -> Applied:
            return await self._apply(tx, events)

        return await self._database.run(attempt)

    async def park(self, event: ReceivedEvent, error: str) -> bool:
        """Puts an event aside and halts its aggregate; False where it was parked or applied before.

        Raises:
            Fault: UNAVAILABLE.
        """

        async def attempt(tx: Transaction) -> bool:
            mark = (await self.lock(tx, [event.aggregate]))[event.aggregate]
            # Another member, or an operator's replay, may have applied it since it failed here.
            if event.sequence <= mark.sequence:
                return False
            await self.set_halted(tx, event.aggregate, halted=True)
            return bool(await tx.fetch(_PARK, self._letter(event, error)))

        return await self._database.run(attempt)

    async def state(self, source: Database | Transaction | None = None) -> ConsumerState:
        """Reads what this consumer may do.

        Raises:
            Fault: UNAVAILABLE.
        """
        rows = await (source or self._database).fetch(_STATE, self.key)
        return ConsumerState(rows[0]["state"]) if rows else ConsumerState.RUNNING

    async def halt(self) -> None:
        """Stops this consumer in every process, unless an operator has.

        Raises:
            Fault: UNAVAILABLE.
        """
        await self._database.fetch(_HALT_CONSUMER, self.key)

    async def set_state(self, tx: Transaction, state: ConsumerState) -> None:
        """Says what this consumer may do, in every process."""
        await tx.fetch(_SET_STATE, {**self.key, "state": state})

    async def lock(self, tx: Transaction, aggregates: list[str]) -> dict[str, Mark]:
        """Takes the locks of some marks until the transaction ends: nobody else applies or parks of them."""
        rows = await tx.fetch(_LOCK_MARKS, {**self.key, "aggregates": sorted(aggregates)})
        return {row["aggregate"]: Mark(row["sequence"], row["event_id"], row["halted"]) for row in rows}

    async def move(self, tx: Transaction, marks: Mapping[str, tuple[int, str]]) -> None:
        """Moves marks, whose locks are held, to the events of these sequences and ids."""
        moved = {
            "aggregates": list(marks),
            "sequences": [sequence for sequence, _ in marks.values()],
            "event_ids": [event_id for _, event_id in marks.values()],
        }
        await tx.fetch(_MOVE_MARKS, {**self.key, **moved})

    async def set_halted(self, tx: Transaction, aggregate: str, *, halted: bool) -> None:
        """Halts an aggregate, or lets it flow."""
        await tx.fetch(_SET_HALTED, {**self.key, "aggregate": aggregate, "halted": halted})

    async def handle(self, tx: Transaction, event: ReceivedEvent) -> None:
        """Has an event's effect and moves no mark; whatever the handler raises."""
        handler = self._handlers.get(event.type)
        if handler:
            with (
                structlog.contextvars.bound_contextvars(event_id=event.id),
                tracing.event_processed(
                    event.topic,
                    self.consumer,
                    event_id=event.id,
                    event_type=event.type,
                    traceparent=event.traceparent,
                ),
            ):
                await handler(tx, event)

    async def _apply(self, tx: Transaction, events: list[ReceivedEvent]) -> Applied:
        state = await self.state(tx)
        if state is not ConsumerState.RUNNING:
            raise NotRunningError(state)
        marks = await self.lock(tx, list({event.aggregate for event in events}))
        moved: dict[str, tuple[int, str]] = {}
        result = Applied()
        for event in events:
            mark = marks[event.aggregate]
            sequence, event_id = moved.get(event.aggregate, (mark.sequence, mark.event_id))
            if event.sequence <= sequence:
                result.duplicates += 1
                if event.sequence == sequence and event_id not in {None, event.id}:
                    result.other_facts.append(event)
            elif mark.halted:
                letter = self._letter(event, "an earlier event of this aggregate is parked")
                result.parked += len(await tx.fetch(_PARK, letter))
            elif event.sequence > sequence + 1:
                raise GapError(f"{event.aggregate}: event {event.sequence} came after {sequence}")
            else:
                await self.handle(tx, event)
                moved[event.aggregate] = (event.sequence, event.id)
                result.applied += 1
        if moved:
            await self.move(tx, moved)
        return result

    def _letter(self, event: ReceivedEvent, error: str) -> dict[str, Any]:
        return {
            **self.key,
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
            "error": storable(error),
        }


def storable(error: str) -> str:
    """An error as the dead letters keep it."""
    return error[:ERROR_LENGTH_MAX].replace("\x00", "")
