"""Orders that are to be cancelled: asked for in the transaction of the fact, worked off by who claims them.

Whether a request is done is not decided by an answer, but by the order: it is, once that is open no more.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from chassis import tracing
from chassis.postgres import Database, Row, Statement, Transaction, statement
from services.orders.cancellations import OPEN_STATES, CancellationCause, CancellationRequest
from services.orders.domain import OrderState

_OPEN = sorted(OPEN_STATES)


def _request(name: str, condition: str) -> Statement:
    return statement(
        name,
        f"""
        INSERT INTO cancellation_request (order_id, cause, traceparent)
        SELECT id, %(cause)s::text, %(traceparent)s::text FROM orders
        WHERE {condition} AND state = ANY(%(open)s::text[]) ORDER BY id
        ON CONFLICT (order_id) DO NOTHING
        """,  # noqa: S608 - constants of this module
    )


_REQUEST_OF_USER = _request("request_cancellations_of_user", "user_id = %(user_id)s::uuid")
_REQUEST_OF_ORDER = _request("request_cancellation_of_order", "id = %(order_id)s::uuid")
# A claim lasts as long as the lease, and no lock does: whoever comes after it asks under the same key. What a
# later release asks for is left to it.
_CLAIM = statement(
    "claim_cancellations",
    """
    WITH due AS MATERIALIZED (
        SELECT order_id FROM cancellation_request
        WHERE state = 'WAITING' AND next_try <= now() AND cause = ANY(%(causes)s::text[])
        ORDER BY next_try LIMIT %(limit)s::bigint FOR UPDATE SKIP LOCKED
    )
    UPDATE cancellation_request AS r SET
        attempts = r.attempts + 1,
        next_try = now() + make_interval(secs => %(lease_seconds)s::float8)
    FROM due WHERE r.order_id = due.order_id
    RETURNING r.order_id, r.cause, r.attempts, r.round, r.traceparent
    """,
)
# What is open no more never is again, so the order need not be locked.
_FINISH = statement(
    "finish_cancellations",
    """
    UPDATE cancellation_request AS r SET state = 'DONE', outcome = o.state, update_time = now()
    FROM orders o
    WHERE r.order_id = ANY(%(order_ids)s::uuid[]) AND r.state = 'WAITING'
        AND o.id = r.order_id AND o.state <> ALL(%(open)s::text[])
    RETURNING r.order_id, r.outcome
    """,
)
_POSTPONE = statement(
    "postpone_cancellation",
    """
    UPDATE cancellation_request SET
        answer = %(answer)s::text,
        round = %(next_round)s::bigint,
        next_try = now() + make_interval(secs => %(delay_seconds)s::float8),
        update_time = now()
    WHERE order_id = %(order_id)s::uuid AND state = 'WAITING' AND round = %(round)s::bigint
    """,
)
_CENSUS = statement(
    "count_cancellations",
    """
    SELECT count(*) AS waiting,
        COALESCE(EXTRACT(epoch FROM now() - min(create_time)), 0)::float8 AS oldest_seconds
    FROM cancellation_request WHERE state = 'WAITING'
    """,
)


class Census(NamedTuple):
    """How many requests wait, and how old the oldest is."""

    waiting: int
    oldest_seconds: float


async def request_of_user(tx: Transaction, user_id: UUID, cause: CancellationCause) -> None:
    """Asks for the cancellation of all open orders of a user that are committed now."""
    await tx.fetch(_REQUEST_OF_USER, {"user_id": user_id} | _asked(cause))


async def request_of_order(tx: Transaction, order_id: UUID, cause: CancellationCause) -> None:
    """Asks for the cancellation of an order where it is open."""
    await tx.fetch(_REQUEST_OF_ORDER, {"order_id": order_id} | _asked(cause))


async def claim(database: Database, *, limit: int, lease_seconds: float) -> list[CancellationRequest]:
    """Takes requests that are due, the longest due first; nobody else does for `lease_seconds`."""
    known = {"causes": list(CancellationCause)}
    rows = await database.fetch(_CLAIM, {"limit": limit, "lease_seconds": lease_seconds} | known)
    return [
        CancellationRequest(
            row["order_id"],
            CancellationCause(row["cause"]),
            row["attempts"],
            row["round"],
            row["traceparent"],
        )
        for row in rows
    ]


async def finish(database: Database, order_ids: Sequence[UUID]) -> dict[UUID, OrderState]:
    """Ends the requests whose orders are open no more.

    Returns:
        Those, with what became of them: what is shipped or delivered was past the point.
    """
    rows = await database.fetch(_FINISH, {"order_ids": list(order_ids), "open": _OPEN})
    return {row["order_id"]: OrderState(row["outcome"]) for row in rows}


async def postpone(
    database: Database,
    request: CancellationRequest,
    *,
    answer: str,
    delay_seconds: float,
    next_round: bool = False,
) -> None:
    """Puts a request off; `answer` is why. With `next_round` it is asked under another key then."""
    await database.fetch(
        _POSTPONE,
        {
            "order_id": request.order_id,
            "round": request.round,
            "next_round": request.round + next_round,
            "answer": answer,
            "delay_seconds": delay_seconds,
        },
    )


async def census(database: Database) -> Census:
    """Counts what waits."""
    row = (await database.fetch(_CENSUS, {}))[0]
    return Census(row["waiting"], row["oldest_seconds"])


def _asked(cause: CancellationCause) -> Row:
    return {"cause": cause, "open": _OPEN, "traceparent": tracing.current()}
