"""The generations of the projection. Each step is one transaction that any replica may take, at any time.

A generation is COPYING, then FOLLOWING, and RETIRED once another one is active. Its rows and the marks of its
consumer's inbox are copied together, from one snapshot, before its consumer starts: so the consumer drops
what the copy has, and applies what came later. An order that was placed behind the copy's back has all its
events after the copy's beginning, where the consumer finds them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from chassis.postgres import Database, Row, Transaction, statement
from services.orders.events import AGGREGATE_TYPE, TOPIC

COPY_BATCH = 500
DELETE_BATCH = 1_000


class GenerationState(StrEnum):
    """Where a generation stands."""

    COPYING = "COPYING"
    FOLLOWING = "FOLLOWING"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation.

    Attributes:
        copied: orders that were copied so far.
        active: whether the lists are read from it.
    """

    number: int
    state: GenerationState
    copied: int
    create_time: datetime
    switch_time: datetime | None
    active: bool


_READ = statement(
    "read_listing_generations",
    """
    SELECT g.generation, g.state, g.copied, g.create_time, g.switch_time,
        g.generation = head.active_generation AS active
    FROM order_listing_generation AS g, order_listing_head AS head WHERE head.singleton ORDER BY g.generation
    """,
)
_LOCK_HEAD = statement(
    "lock_listing_head",
    "SELECT active_generation FROM order_listing_head WHERE singleton FOR UPDATE",
)
_BEGIN = statement(
    "begin_listing_generation",
    """
    WITH next AS (
        UPDATE order_listing_head SET last_generation = last_generation + 1 WHERE singleton
        RETURNING last_generation
    )
    INSERT INTO order_listing_generation (generation, state) SELECT last_generation, 'COPYING' FROM next
    RETURNING generation, state, copied, create_time, switch_time, false AS active
    """,
)
# Who finds it locked leaves the batch to who is at it.
_LOCK_COPYING = statement(
    "lock_copying_listing_generation",
    """
    SELECT generation FROM order_listing_generation
    WHERE generation = %(generation)s AND state = 'COPYING' FOR UPDATE SKIP LOCKED
    """,
)
COLUMNS = """
    order_id, user_id, order_number, state, refund_state, currency_code, total_minor, refunded_minor,
    sequence, create_time, update_time
"""
# An order as its events make it; the names of COLUMNS, but for the id.
_COPY = statement(
    "copy_orders_to_listing",
    f"""
    WITH batch AS (
        SELECT id AS {COLUMNS.strip()} FROM orders
        WHERE id > (SELECT copied_to FROM order_listing_generation WHERE generation = %(generation)s)
        ORDER BY id LIMIT {COPY_BATCH}
    ), copied AS (
        INSERT INTO order_listing (generation, {COLUMNS}) SELECT %(generation)s, batch.* FROM batch
    ), marked AS (
        INSERT INTO inbox (consumer, generation, aggregate, sequence)
        SELECT %(consumer)s, %(generation)s, '{TOPIC}/{AGGREGATE_TYPE}/' || order_id, sequence FROM batch
    ), found AS (
        SELECT count(*) AS orders, (array_agg(order_id ORDER BY order_id DESC))[1] AS last FROM batch
    )
    UPDATE order_listing_generation SET
        copied = copied + found.orders,
        copied_to = COALESCE(found.last, copied_to),
        state = CASE WHEN found.orders < {COPY_BATCH} THEN 'FOLLOWING' ELSE state END
    FROM found WHERE generation = %(generation)s
    RETURNING state
    """,  # noqa: S608 - constants of this module
)
# Records that are no events tell nothing of an order: a fact that is lost shows as a gap of its order.
_HALTED = statement(
    "count_halted_listing_keys",
    """
    SELECT count(DISTINCT aggregate) AS halted FROM dead_letter
    WHERE consumer = %(consumer)s AND generation = %(generation)s AND type <> ''
    """,
)
_SWITCH = statement(
    "switch_listing_generation",
    """
    UPDATE order_listing_head SET active_generation = %(generation)s
    WHERE singleton AND active_generation < %(generation)s AND EXISTS (
        SELECT FROM order_listing_generation WHERE generation = %(generation)s AND state = 'FOLLOWING'
    )
    RETURNING active_generation
    """,
)
_RETIRE = statement(
    "retire_listing_generations",
    """
    UPDATE order_listing_generation SET
        state = CASE WHEN generation < %(generation)s THEN 'RETIRED' ELSE state END,
        retire_time = CASE WHEN generation < %(generation)s THEN now() END,
        switch_time = CASE WHEN generation < %(generation)s THEN switch_time ELSE now() END
    WHERE generation <= %(generation)s AND state <> 'RETIRED'
    """,
)
# By place: a batch found by key could be a walk over all that is left.
_DELETE = statement(
    "delete_listing_rows",
    f"""
    WITH rows AS (
        DELETE FROM order_listing WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM order_listing WHERE generation = %(generation)s LIMIT {DELETE_BATCH}
        )) RETURNING 1
    ), marks AS (
        DELETE FROM inbox WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM inbox
            WHERE consumer = %(consumer)s AND generation = %(generation)s LIMIT {DELETE_BATCH}
        )) RETURNING 1
    ), letters AS (
        DELETE FROM dead_letter WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM dead_letter
            WHERE consumer = %(consumer)s AND generation = %(generation)s LIMIT {DELETE_BATCH}
        )) RETURNING 1
    ), control AS (
        DELETE FROM consumer_control WHERE consumer = %(consumer)s AND generation = %(generation)s
        RETURNING 1
    )
    SELECT count(*) AS deleted FROM (
        SELECT FROM rows UNION ALL SELECT FROM marks UNION ALL SELECT FROM letters
        UNION ALL SELECT FROM control
    ) AS gone
    """,  # noqa: S608 - constants of this module
)
_FORGET = statement(
    "forget_listing_generation",
    """
    DELETE FROM order_listing_generation
    WHERE generation = %(generation)s AND state = 'RETIRED' AND retire_time < now() - %(retired_for)s
    RETURNING generation
    """,
)


def consumer_of(generation: int) -> str:
    """The consumer group of a generation, which is also the name of its inbox."""
    return f"orders.order-history.{generation}"


async def read_generations(source: Database | Transaction) -> list[Generation]:
    """Reads every generation that is not wholly deleted, the oldest first."""
    return [_generation(row) for row in await source.fetch(_READ, {})]


async def begin_generation(tx: Transaction) -> Generation:
    """Begins a new generation, or returns the one that is being built already."""
    await tx.fetch(_LOCK_HEAD, {})
    for each in await read_generations(tx):
        if not each.active and each.state is not GenerationState.RETIRED:
            return each
    return _generation((await tx.fetch(_BEGIN, {}))[0])


async def copy_batch(database: Database, generation: int) -> bool:
    """Copies some orders with their marks into a generation; False where nothing is left for this caller."""

    async def attempt(tx: Transaction) -> bool:
        if not await tx.fetch(_LOCK_COPYING, {"generation": generation}):
            return False
        rows = await tx.fetch(_COPY, {"generation": generation, "consumer": consumer_of(generation)})
        return bool(rows[0]["state"] == GenerationState.COPYING)

    return await database.run(attempt)


async def halted_keys(database: Database, generation: int) -> int:
    """Counts the orders of which an event could not be applied to a generation."""
    key = {"generation": generation, "consumer": consumer_of(generation)}
    return int((await database.fetch(_HALTED, key))[0]["halted"])


async def switch_to(database: Database, generation: int) -> bool:
    """Makes a generation the active one and retires those before it; False where it is not the next one."""

    async def attempt(tx: Transaction) -> bool:
        if not await tx.fetch(_SWITCH, {"generation": generation}):
            return False
        await tx.fetch(_RETIRE, {"generation": generation})
        return True

    return await database.run(attempt)


async def delete_batch(database: Database, generation: int, *, retired_for: timedelta) -> bool:
    """Deletes some of a retired generation, and forgets it when nothing is left and it is retired so long.

    Returns:
        Whether there was something to delete.
    """
    key = {"generation": generation, "consumer": consumer_of(generation)}
    if (await database.fetch(_DELETE, key))[0]["deleted"]:
        return True
    await database.fetch(_FORGET, {"generation": generation, "retired_for": retired_for})
    return False


def _generation(row: Row) -> Generation:
    return Generation(
        number=row["generation"],
        state=GenerationState(row["state"]),
        copied=row["copied"],
        create_time=row["create_time"],
        switch_time=row["switch_time"],
        active=row["active"],
    )
