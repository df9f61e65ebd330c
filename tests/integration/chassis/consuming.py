"""A database with an inbox and effects in it, what it holds, and conditions that tests wait for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chassis.consumer import ReceivedEvent
from chassis.inbox import EVENT_OPERATIONS_DDL, INBOX_DDL
from chassis.postgres import Database, Transaction, statement
from chassis.telemetry import REGISTRY

DDL = (
    INBOX_DDL
    + EVENT_OPERATIONS_DDL
    + "CREATE TABLE effects (n bigserial, aggregate text NOT NULL, sequence bigint NOT NULL);"
)
PLACED = "sagacity.orders.v1.OrderPlaced"
POISON = b"poison"
PATIENCE_SECONDS = 60.0
ADD = statement("add", "INSERT INTO effects (aggregate, sequence) VALUES (%(aggregate)s, %(sequence)s)")
ALL = statement("all", "SELECT aggregate, sequence FROM effects ORDER BY n")
LETTERS = statement("letters", "SELECT * FROM dead_letter ORDER BY aggregate, sequence")


async def record_effect(tx: Transaction, event: ReceivedEvent) -> None:
    """Have an effect, and fail behind it for poison."""
    await tx.fetch(ADD, {"aggregate": event.aggregate_id, "sequence": event.sequence})
    if event.payload == POISON:
        raise ValueError("poison")


async def effects(database: Database) -> dict[str, list[int]]:
    """Return the sequences of each aggregate, in the order in which they were applied."""
    seen: dict[str, list[int]] = {}
    for row in await database.fetch(ALL, {}):
        seen.setdefault(row["aggregate"], []).append(row["sequence"])
    return seen


async def letters(database: Database) -> list[tuple[str, int]]:
    """Return the aggregate's id and the sequence of each dead letter."""
    return [(row["aggregate_id"], row["sequence"]) for row in await database.fetch(LETTERS, {})]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is the case."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def until_applied(database: Database, expected: dict[str, list[int]]) -> None:
    """Wait until these are the effects."""

    async def done() -> bool:
        return await effects(database) == expected

    await until(done)


async def until_shown(expected: float, name: str, **labels: Any) -> None:
    """Wait until a metric `sagacity_consumer_<name>` has this value."""

    async def done() -> bool:
        return shown(name, **labels) == expected

    await until(done)


def shown(name: str, **labels: Any) -> float | None:
    """Return the value of a metric `sagacity_consumer_<name>`; None where it is not shown."""
    return REGISTRY.get_sample_value(
        f"sagacity_consumer_{name}", {key: str(value) for key, value in labels.items()}
    )
