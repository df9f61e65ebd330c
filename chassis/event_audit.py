"""What operators did to events, written in the transaction of what they did."""

from dataclasses import dataclass
from enum import StrEnum

from chassis.postgres import Database, Row, Transaction, statement

_RECORD = statement(
    "record_event_act",
    """
    INSERT INTO event_audit (actor, action, target, reason, outcome)
    VALUES (%(actor)s::text, %(action)s::text, %(target)s::text, %(reason)s::text, %(outcome)s::text)
    """,
)
_PAGE = statement(
    "list_event_acts",
    """
    SELECT id, at, actor, action, target, reason, outcome FROM event_audit
    WHERE id < %(before)s ORDER BY id DESC LIMIT %(limit)s
    """,
)
NEWEST = 2**63 - 1


class Action(StrEnum):
    """What an operator may do."""

    REPLAY = "replay"
    DISCARD = "discard"
    PAUSE = "pause"
    RESUME = "resume"
    REBUILD = "rebuild"


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and why."""

    actor: str
    reason: str


async def record(tx: Transaction, asked: Asked, action: Action, *, target: str, outcome: str) -> None:
    """Writes what is done in this transaction, to what, and what came of it."""
    params = {
        "actor": asked.actor,
        "reason": asked.reason,
        "action": action,
        "target": target,
        "outcome": outcome,
    }
    await tx.fetch(_RECORD, params)


async def page(database: Database, *, before: int = NEWEST, limit: int) -> list[Row]:
    """Reads entries, the newest first, of those with a lower id than `before`.

    Raises:
        Fault: UNAVAILABLE.
    """
    return await database.fetch(_PAGE, {"before": before, "limit": limit})
