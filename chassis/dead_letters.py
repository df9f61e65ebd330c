"""Dead letters: what a consumer had to put aside, as operators list, replay and discard it.

Whoever changes the letters of an aggregate holds the lock of its mark in the inbox, as the consumer does when
it applies or parks: so a replay and the live consumer never have the same event under way, and the last
letter is gone and the aggregate flows again in one step.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import psycopg

from chassis.cloud_events import ReceivedEvent
from chassis.errors import Detail, Fault, FaultKind
from chassis.event_audit import Action, Asked, record
from chassis.inbox import Inbox, storable
from chassis.postgres import Database, Row, Transaction, statement

# Less than the server lets a transaction idle: a handler that hangs is a failure, and not an outage.
HANDLER_SECONDS = 4.0
# What is counted for the metrics, at most.
MAX_COUNTED = 10_000

_SHOWN = """
    consumer, generation, aggregate, sequence, type, event_id, topic, partition, kafka_offset, error, replays,
    occurred_at, create_time
"""
_PAGE = statement(
    "list_dead_letters",
    f"""
    SELECT {_SHOWN} FROM dead_letter
    WHERE (consumer, generation, aggregate, sequence)
            > (%(after_consumer)s::text, %(after_generation)s, %(after_aggregate)s::text, %(after_sequence)s)
        AND (%(consumer)s::text = '' OR consumer = %(consumer)s::text)
        AND (%(aggregate)s::text = '' OR aggregate = %(aggregate)s::text)
        AND (%(type)s::text = '' OR type = %(type)s::text)
    ORDER BY consumer, generation, aggregate, sequence LIMIT %(limit)s
    """,  # noqa: S608 - constants of this module
)
# A consumer's name has one generation; where there should be more, the newest is the one that matters.
_FIND = statement(
    "find_dead_letter",
    f"""
    SELECT {_SHOWN}, payload FROM dead_letter
    WHERE consumer = %(consumer)s::text AND aggregate = %(aggregate)s::text AND sequence = %(sequence)s
    ORDER BY generation DESC LIMIT 1
    """,  # noqa: S608 - constants of this module
)
_COUNTS = statement(
    "count_dead_letters",
    """
    SELECT consumer, generation, count(*) AS letters, count(DISTINCT aggregate) AS keys
    FROM dead_letter GROUP BY consumer, generation
    """,
)
_OF_CONSUMER = "consumer = %(consumer)s::text AND generation = %(generation)s"
_OF_AGGREGATE = f"{_OF_CONSUMER} AND aggregate = %(aggregate)s::text"
_LEFT = statement(
    "count_letters_of_consumer",
    f"""
    SELECT count(*) AS letters FROM dead_letter
    WHERE {_OF_CONSUMER} AND (%(aggregate)s::text = '' OR aggregate = %(aggregate)s::text)
    """,  # noqa: S608 - constants of this module
)
# Counting stops at the limit: it is done every few seconds, and more than that is "very many".
_STOCK = statement(
    "stock_of_dead_letters",
    f"""
    SELECT count(*) AS letters, count(DISTINCT aggregate) AS keys FROM (
        SELECT aggregate FROM dead_letter WHERE {_OF_CONSUMER}
        ORDER BY aggregate, sequence LIMIT %(limit)s::bigint
    ) AS first
    """,  # noqa: S608 - constants of this module
)
_NEXT_KEY = statement(
    "next_key_with_letters",
    f"SELECT min(aggregate) AS aggregate FROM dead_letter WHERE {_OF_CONSUMER} AND aggregate > %(after)s",  # noqa: S608
)
_FIRST = statement(
    "first_dead_letter",
    f"SELECT * FROM dead_letter WHERE {_OF_AGGREGATE} ORDER BY sequence LIMIT 1",  # noqa: S608
)
_DELETE = statement(
    "delete_dead_letter",
    f"""
    WITH gone AS (
        DELETE FROM dead_letter WHERE {_OF_AGGREGATE} AND sequence = %(sequence)s RETURNING sequence
    )
    SELECT count(*) AS letters FROM dead_letter, gone
    WHERE {_OF_AGGREGATE} AND dead_letter.sequence <> gone.sequence
    """,  # noqa: S608 - constants of this module
)
_FAILED = statement(
    "dead_letter_failed",
    f"""
    UPDATE dead_letter SET error = %(error)s::text, replays = replays + 1
    WHERE {_OF_AGGREGATE} AND sequence = %(sequence)s
    """,  # noqa: S608 - constants of this module
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of letters ends."""

    consumer: str = ""
    generation: int = 0
    aggregate: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Stock:
    """The letters of a consumer that are there, MAX_COUNTED at most, and the aggregates that they halt."""

    letters: int
    keys: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the first letter of an aggregate; `error` is empty where it is applied."""

    sequence: int
    error: str


async def page(
    database: Database, *, after: Place, limit: int, consumer: str = "", aggregate: str = "", type_: str = ""
) -> list[Row]:
    """Lists letters without their payload, by consumer, generation, aggregate and sequence.

    Raises:
        Fault: UNAVAILABLE.
    """
    params = {
        "after_consumer": after.consumer,
        "after_generation": after.generation,
        "after_aggregate": after.aggregate,
        "after_sequence": after.sequence,
        "consumer": consumer,
        "aggregate": aggregate,
        "type": type_,
        "limit": limit,
    }
    return await database.fetch(_PAGE, params)


async def find(database: Database, *, consumer: str, aggregate: str, sequence: int) -> Row:
    """Reads one letter with its payload.

    Raises:
        Fault: NOT_FOUND DEAD_LETTER_NOT_FOUND; UNAVAILABLE.
    """
    params = {"consumer": consumer, "aggregate": aggregate, "sequence": sequence}
    rows = await database.fetch(_FIND, params)
    if not rows:
        raise not_found()
    return rows[0]


async def counts(database: Database) -> dict[tuple[str, int], tuple[int, int]]:
    """Counts letters and halted aggregates per consumer and generation.

    Raises:
        Fault: UNAVAILABLE.
    """
    rows = await database.fetch(_COUNTS, {})
    return {(row["consumer"], row["generation"]): (row["letters"], row["keys"]) for row in rows}


async def left(database: Database, inbox: Inbox, aggregate: str = "") -> int:
    """Counts the letters of a consumer, or of one of its aggregates.

    Raises:
        Fault: UNAVAILABLE.
    """
    rows = await database.fetch(_LEFT, {**inbox.key, "aggregate": aggregate})
    return int(rows[0]["letters"])


async def stock(database: Database, inbox: Inbox) -> Stock:
    """Counts what is there of one consumer, within a bound that keeps it cheap.

    Raises:
        Fault: UNAVAILABLE.
    """
    (row,) = await database.fetch(_STOCK, {**inbox.key, "limit": MAX_COUNTED})
    return Stock(row["letters"], row["keys"])


async def next_key(database: Database, inbox: Inbox, after: str) -> str | None:
    """Returns the first aggregate behind another one, in the database's order, that has letters.

    Raises:
        Fault: UNAVAILABLE.
    """
    rows = await database.fetch(_NEXT_KEY, {**inbox.key, "after": after})
    key: str | None = rows[0]["aggregate"]
    return key


async def replay_first(database: Database, inbox: Inbox, aggregate: str, asked: Asked) -> Replayed | None:
    """Applies the first letter of an aggregate, with mark and audit, in one transaction.

    Where it fails, its effect is undone, and it keeps the new error. Behind the last letter the aggregate
    flows again.

    Returns:
        None where there is no letter.

    Raises:
        Fault: UNAVAILABLE; it may have been applied or not.
    """

    async def attempt(tx: Transaction) -> Replayed | None:
        mark = (await inbox.lock(tx, [aggregate]))[aggregate]
        letter = await _first(tx, inbox, aggregate)
        if letter is None:
            await inbox.set_halted(tx, aggregate, halted=False)
            return None
        error = await _try(tx, inbox, letter, mark.sequence)
        if error:
            key = {**inbox.key, "aggregate": aggregate, "sequence": letter["sequence"]}
            await tx.fetch(_FAILED, {**key, "error": error})
        else:
            await _remove(tx, inbox, letter, mark.sequence)
        outcome = f"failed: {error}" if error else "applied"
        await record(tx, asked, Action.REPLAY, target=_target(letter), outcome=outcome)
        return Replayed(letter["sequence"], error)

    return await database.run(attempt)


async def discard_first(database: Database, inbox: Inbox, aggregate: str, sequence: int, asked: Asked) -> int:
    """Gives the first letter of an aggregate up: the mark moves past it. Returns how many are left of it.

    Raises:
        Fault: NOT_FOUND DEAD_LETTER_NOT_FOUND; FAILED_PRECONDITION NOT_THE_FIRST with the first one's
        sequence; UNAVAILABLE.
    """

    async def attempt(tx: Transaction) -> int:
        mark = (await inbox.lock(tx, [aggregate]))[aggregate]
        letter = await _first(tx, inbox, aggregate)
        if letter is None or letter["sequence"] > sequence:
            raise not_found()
        if letter["sequence"] < sequence:
            first = Detail(aggregate, f"event {letter['sequence']} is the first")
            message = "only the first dead letter of an aggregate can be discarded"
            raise Fault(FaultKind.FAILED_PRECONDITION, "NOT_THE_FIRST", message, subjects=(first,))
        remaining = await _remove(tx, inbox, letter, mark.sequence)
        outcome = f"discarded: {letter['error']}"
        await record(tx, asked, Action.DISCARD, target=_target(letter), outcome=outcome)
        return remaining

    return await database.run(attempt)


def not_found() -> Fault:
    """There is no such dead letter."""
    return Fault(FaultKind.NOT_FOUND, "DEAD_LETTER_NOT_FOUND", "there is no such dead letter")


async def _first(tx: Transaction, inbox: Inbox, aggregate: str) -> Row | None:
    rows = await tx.fetch(_FIRST, {**inbox.key, "aggregate": aggregate})
    return rows[0] if rows else None


async def _remove(tx: Transaction, inbox: Inbox, letter: Row, mark: int) -> int:
    """Takes a letter away, moves the mark to it, and lets the aggregate flow where it was the last."""
    aggregate: str = letter["aggregate"]
    if letter["sequence"] > mark:
        await inbox.move(tx, {aggregate: (letter["sequence"], letter["event_id"])})
    key = {**inbox.key, "aggregate": aggregate, "sequence": letter["sequence"]}
    remaining = int((await tx.fetch(_DELETE, key))[0]["letters"])
    if not remaining:
        await inbox.set_halted(tx, aggregate, halted=False)
    return remaining


async def _try(tx: Transaction, inbox: Inbox, letter: Row, mark: int) -> str:
    """Has the effect of a letter; returns why it has none, and then undoes what its handler did."""
    if letter["sequence"] <= mark:
        return ""
    if not letter["type"]:
        return "a record that is no event can only be discarded"
    if letter["sequence"] > mark + 1:
        return f"event {mark + 1} is missing; discarding this one goes on behind it"
    try:
        async with asyncio.timeout(HANDLER_SECONDS), tx.savepoint():
            await inbox.handle(tx, _event(letter))
    except psycopg.OperationalError:
        raise  # the database's trouble is not the event's: nothing is said about it
    except Exception as error:  # noqa: BLE001 - a handler may raise anything
        return storable(repr(error))
    return ""


def _event(letter: Row) -> ReceivedEvent:
    values: dict[str, Any] = {
        "id": letter["event_id"],
        "offset": letter["kafka_offset"],
        "occurred_at": letter["occurred_at"] or letter["create_time"],
        "payload": bytes(letter["payload"]),
    }
    same = "type", "aggregate_type", "aggregate_id", "sequence", "traceparent", "topic", "partition"
    return ReceivedEvent(**values, **{name: letter[name] for name in same})


def _target(letter: Row) -> str:
    return f"{letter['consumer']} {letter['aggregate']} {letter['sequence']}"
