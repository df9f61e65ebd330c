"""How a saga begins on an order that others may be working on: in one transaction, first in first out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from chassis.postgres import Row, Transaction
from orchestrator import statements as sql
from orchestrator.entries import State
from orchestrator.saga_log import MAX_WAITING, Acceptance, Accepted, order_busy, too_many_waiting

KEY_LIFETIME = timedelta(hours=24)


async def begin_behind(tx: Transaction, acceptance: Acceptance) -> Accepted:
    """Journal a saga that waits behind those of its order, or runs where there are none.

    Raises:
        Fault: FAILED_PRECONDITION ORDER_BUSY behind a parked saga, RESOURCE_EXHAUSTED TOO_MANY_WAITING;
            nothing is written.
        UniqueViolation: somebody else began at the same moment; try again.
    """
    # Who comes first, waits first: one at a time for one order.
    await tx.fetch(sql.LOCK_ORDER, {"key": acceptance.key})
    known = await tx.fetch(sql.FIND_KEY, key_of(acceptance))
    if known:
        return found(known[0], acceptance)
    holders = await tx.fetch(sql.LOCK_HOLDER, {"key": acceptance.key})
    if holders and holders[0]["state"] == State.PARKED:
        raise order_busy(holders[0]["id"])
    waiting = len(await tx.fetch(sql.FIND_WAITING, {"key": acceptance.key, "limit": MAX_WAITING}))
    if waiting >= MAX_WAITING:
        raise too_many_waiting()
    waits = bool(holders) or waiting > 0
    named = await tx.fetch(
        sql.NAME_SAGA,
        {
            **key_of(acceptance),
            "request_hash": acceptance.request_hash,
            "saga_id": acceptance.saga_id,
            "lifetime": KEY_LIFETIME.total_seconds(),
        },
    )
    if not named:
        return found((await tx.fetch(sql.FIND_KEY, key_of(acceptance)))[0], acceptance)
    await tx.fetch(
        sql.BEGIN_BEHIND,
        {
            "id": acceptance.saga_id,
            "kind": acceptance.kind,
            "version": acceptance.version,
            "definition_hash": acceptance.definition_hash,
            "key": acceptance.key,
            "state": "WAITING" if waits else "RUNNING",
            "owner": None if waits else acceptance.owner,
            "context": acceptance.context,
            "deadline": acceptance.deadline.total_seconds(),
            "traceparent": acceptance.traceparent,
            "request_id": acceptance.request_id,
        },
    )
    return Accepted(acceptance.saga_id, acceptance.request_hash, None, fresh=True, waiting=waits)


def found(row: Row, acceptance: Acceptance) -> Accepted:
    """What a row of the idempotency keys says to an acceptance under the same key."""
    # A batch whose commit was cut and that was written again finds its own row: it is ours to drive.
    fresh = row["saga_id"] == acceptance.saga_id
    return Accepted(row["saga_id"], bytes(row["request_hash"]), row["answer"], fresh=fresh)


def key_of(acceptance: Acceptance) -> dict[str, Any]:
    """The idempotency key, as the statements have it."""
    return {"caller": acceptance.caller, "rpc": acceptance.rpc, "key": acceptance.idempotency_key}
