"""The barrier: at most one effect per saga, step and direction, and a memory of what was answered.

It runs in the participant's own transaction, beside the domain change and the outbox row, at READ COMMITTED.
Both directions of a step share one row, and this table decides:

| stored      | a do arrives                              | its undo arrives                        |
|-------------|-------------------------------------------|-----------------------------------------|
| nothing     | run it, store the reply or the refusal    | store a tombstone, answer {}            |
| IN_PROGRESS | run it (resume)                           | run the undo; a tombstone is what stays |
| DONE        | the stored reply; REQUEST_CHANGED if other | run the undo once, store its reply      |
| REFUSED     | the stored refusal                        | answer {}                               |
| TOMBSTONE   | TOMBSTONED                                | the stored reply                        |

The memory is bounded by age: a saga's id tells when it was made, a call of a saga older than BARRIER_HORIZON
is refused before it comes here (`saga_call`), and `chassis.barrier_pruning` deletes what no call can reach.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from google.protobuf.message import Message
from psycopg import errors

from chassis.clock import Clock, SystemClock
from chassis.errors import REFUSALS, Detail, Fault, FaultKind
from chassis.ids import moment_of
from chassis.postgres import RETRY_AFTER, Database, Row, Transaction, statement

Json = dict[str, Any]
PRIMARY_KEY = "barrier_pkey"

# How old a saga may be whose steps are still answered. The engine parks a saga before it is that old.
BARRIER_HORIZON = timedelta(days=30)
# How far ahead of this host's clock the host may be that made the id.
MAX_AHEAD = timedelta(days=1)

# Frozen: migrations that were released run it. A change is a new migration, not an edit.
BARRIER_DDL = """
CREATE TABLE barrier (
    saga_id uuid NOT NULL,
    step text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('IN_PROGRESS', 'DONE', 'REFUSED', 'TOMBSTONE')),
    request_hash bytea,
    reply jsonb,
    undo_reply jsonb,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT barrier_pkey PRIMARY KEY (saga_id, step)
);
"""

_HOST_CLOCK = SystemClock()
# A concurrent duplicate waits here for the first one's end, and then inserts nothing.
_CLAIM = statement(
    "claim_barrier",
    "INSERT INTO barrier (saga_id, step, outcome, request_hash, undo_reply)"
    " VALUES (%(saga_id)s, %(step)s, %(outcome)s, %(request_hash)s, %(undo_reply)s)"
    " ON CONFLICT DO NOTHING RETURNING outcome",
)
_READ = statement(
    "read_barrier",
    "SELECT outcome, request_hash, reply, undo_reply FROM barrier"
    " WHERE saga_id = %(saga_id)s AND step = %(step)s",
)
_LOCK = statement(
    "lock_barrier",
    "SELECT outcome, request_hash, reply, undo_reply FROM barrier"
    " WHERE saga_id = %(saga_id)s AND step = %(step)s FOR UPDATE",
)
_SETTLE = statement(
    "settle_barrier",
    "UPDATE barrier SET outcome = %(outcome)s, reply = %(reply)s"
    " WHERE saga_id = %(saga_id)s AND step = %(step)s",
)
_SETTLE_UNDO = statement(
    "settle_barrier_undo",
    "UPDATE barrier SET outcome = %(outcome)s, undo_reply = %(undo_reply)s"
    " WHERE saga_id = %(saga_id)s AND step = %(step)s",
)


@dataclass(frozen=True, slots=True)
class SagaCall:
    """Which step of which saga a call is, and the hash of its request."""

    saga_id: UUID
    step: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What the barrier remembers of a step."""

    outcome: str  # IN_PROGRESS | DONE | REFUSED | TOMBSTONE
    request_hash: bytes | None  # of the do; None where only an undo came
    reply: Json | None
    undo_reply: Json | None


def saga_call(request: Message, *, clock: Clock = _HOST_CLOCK) -> SagaCall:
    """Reads the identity of an orchestrated request from its field `saga_step`; every such call passes here.

    Args:
        request: The whole request; its bytes are hashed.
        clock: Tells how old the saga is.

    Raises:
        Fault: INVALID_ARGUMENT SAGA_STEP_INVALID where the saga's id is no UUIDv7 or from the future;
            FAILED_PRECONDITION SAGA_TOO_OLD where it is older than BARRIER_HORIZON. Neither is recorded: of
            such a saga nothing is stored, and what had been stored may be deleted already.
    """
    saga_step = request.saga_step  # type: ignore[attr-defined]
    try:
        saga_id = UUID(saga_step.saga_id)
        age = clock.now() - moment_of(saga_id)
    except ValueError as error:
        raise _invalid_id("must be a UUIDv7") from error
    if age < -MAX_AHEAD:
        raise _invalid_id("is from the future")
    if age > BARRIER_HORIZON:
        message = f"the saga is older than {BARRIER_HORIZON.days} days and no longer remembered"
        raise Fault(FaultKind.FAILED_PRECONDITION, "SAGA_TOO_OLD", message)
    return SagaCall(
        saga_id, saga_step.step, hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    )


def is_duplicate(error: BaseException) -> bool:
    """Whether a statement failed because the barrier row of its call is there already."""
    return isinstance(error, errors.UniqueViolation) and error.diag.constraint_name == PRIMARY_KEY


async def read(source: Database | Transaction, call: SagaCall) -> Stored | None:
    """Returns what is stored for a call, or None; it takes no lock."""
    rows = await source.fetch(_READ, _key(call))
    return Stored(**rows[0]) if rows else None


def replay(stored: Stored, call: SagaCall) -> Json | None:
    """Answers a do from memory: the stored reply, or None where the do is in progress and may be resumed.

    Raises:
        Fault: The stored refusal (recorded); FAILED_PRECONDITION TOMBSTONED (recorded), when its undo came
            first; FAILED_PRECONDITION REQUEST_CHANGED, when the step was called with another request before.
    """
    if stored.outcome != "TOMBSTONE" and stored.request_hash != call.request_hash:
        message = "this step was called before with another request"
        raise Fault(FaultKind.FAILED_PRECONDITION, "REQUEST_CHANGED", message)
    return (
        None
        if stored.outcome == "IN_PROGRESS"
        else outcome({"outcome": stored.outcome, "reply": stored.reply})
    )


def outcome(row: Row) -> Json:
    """Turns the columns outcome and reply of a barrier row into the answer of a do.

    Raises:
        Fault: The stored refusal, or TOMBSTONED; both recorded.
    """
    if row["outcome"] == "DONE":
        return dict(row["reply"])
    if row["outcome"] == "REFUSED":
        raise Fault.from_json(row["reply"], recorded=True)
    if row["outcome"] == "TOMBSTONE":
        message = "this step was undone before it came"
        raise Fault(FaultKind.FAILED_PRECONDITION, "TOMBSTONED", message, recorded=True)
    raise _busy()


async def settle_duplicate(database: Database, call: SagaCall) -> Json:
    """Answers, in a new statement, a one-statement use case that hit the primary key (`is_duplicate`).

    Raises:
        Fault: As `replay`; ABORTED STEP_IN_PROGRESS where nothing is settled yet.
    """
    stored = await read(database, call)
    reply = replay(stored, call) if stored else None
    if reply is None:
        raise _busy()
    return reply


async def do_once(
    database: Database,
    call: SagaCall,
    effect: Callable[[Transaction], Awaitable[Json]],
    *,
    as_refusal: Callable[[Exception], Fault | None],
    store_refusals: bool = True,
) -> Json:
    """Runs the effect of a step unless it has an outcome, and stores the outcome in the same transaction.

    Args:
        database: The participant's own.
        call: Which step.
        effect: Does the change, returns the reply; run again after a serialization failure or a deadlock.
        as_refusal: Which of the effect's exceptions are refusals. They undo the effect, are stored and raised
            as recorded. None, or a Fault of a kind that another attempt could change: nothing is stored.
        store_refusals: False for a step after the pivot: its refusal rolls everything back and is raised,
            not recorded, and the next call is evaluated anew, so that an operator's repair can work.

    Raises:
        Fault: As `replay`; a refusal; UNAVAILABLE with an unknown outcome.
    """

    async def attempt(tx: Transaction) -> Row:
        claim = {
            **_key(call),
            "outcome": "IN_PROGRESS",
            "request_hash": call.request_hash,
            "undo_reply": None,
        }
        if not await tx.fetch(_CLAIM, claim):
            reply = replay(await _locked(tx, call), call)
            if reply is not None:
                return {"outcome": "DONE", "reply": reply}
        if store_refusals:
            row = await _tried(tx, effect, as_refusal)
        else:
            row = {"outcome": "DONE", "reply": await _unrecorded(tx, effect, as_refusal)}
        await tx.fetch(_SETTLE, {**_key(call), **row})
        return row

    return outcome(await database.run(attempt))


async def undo_once(
    database: Database,
    call: SagaCall,
    effect: Callable[[Transaction], Awaitable[Json]],
    *,
    when_nothing: Callable[[Transaction], Awaitable[Json]] | None = None,
) -> Json:
    """Runs the compensation of a step once; where nothing was done it leaves a tombstone and answers {}.

    Args:
        database: The participant's own.
        call: Which step; its request hash is not compared.
        effect: Undoes the change and returns the reply. What it raises rolls back and is not stored.
        when_nothing: What to do and answer, beside the tombstone, where nothing is stored; None: nothing.

    Raises:
        Fault: UNAVAILABLE with an unknown outcome; whatever the effect raises.
    """

    async def attempt(tx: Transaction) -> Json:
        tombstone = {**_key(call), "outcome": "TOMBSTONE", "request_hash": None, "undo_reply": {}}
        if await tx.fetch(_CLAIM, tombstone):
            if when_nothing is None:
                return {}
            reply = await when_nothing(tx)
            await tx.fetch(_SETTLE_UNDO, {**_key(call), "outcome": "TOMBSTONE", "undo_reply": reply})
            return reply
        stored = await _locked(tx, call)
        if stored.undo_reply is not None:
            return stored.undo_reply
        if stored.outcome == "REFUSED":
            return {}
        reply = await effect(tx)
        # A do that was cut off must not be resumed after its undo; one that was done keeps its reply.
        after = "TOMBSTONE" if stored.outcome == "IN_PROGRESS" else stored.outcome
        await tx.fetch(_SETTLE_UNDO, {**_key(call), "outcome": after, "undo_reply": reply})
        return reply

    return await database.run(attempt)


async def _locked(tx: Transaction, call: SagaCall) -> Stored:
    rows = await tx.fetch(_LOCK, _key(call))
    if not rows:
        raise _busy()  # pruned between the two statements
    return Stored(**rows[0])


async def _tried(
    tx: Transaction,
    effect: Callable[[Transaction], Awaitable[Json]],
    as_refusal: Callable[[Exception], Fault | None],
) -> Row:
    try:
        async with tx.savepoint():
            return {"outcome": "DONE", "reply": await effect(tx)}
    except psycopg.OperationalError:
        raise  # lost connection, deadlock: the transaction is over, and nothing was decided
    except Exception as error:
        fault = as_refusal(error)
        if fault is None or fault.kind not in REFUSALS:
            raise
        return {"outcome": "REFUSED", "reply": fault.to_json()}


async def _unrecorded(
    tx: Transaction,
    effect: Callable[[Transaction], Awaitable[Json]],
    as_refusal: Callable[[Exception], Fault | None],
) -> Json:
    try:
        return await effect(tx)
    except psycopg.OperationalError:
        raise  # lost connection, deadlock: the transaction is over, and nothing was decided
    except Exception as error:
        fault = as_refusal(error)
        if fault is None or fault is error:
            raise
        raise fault from error


def _key(call: SagaCall) -> Row:
    return {"saga_id": call.saga_id, "step": call.step}


def _invalid_id(problem: str) -> Fault:
    fields = (Detail("saga_step.saga_id", problem),)
    return Fault(
        FaultKind.INVALID_ARGUMENT, "SAGA_STEP_INVALID", f"saga_step.saga_id {problem}", fields=fields
    )


def _busy() -> Fault:
    message = "the same step is being worked on; ask again"
    return Fault(FaultKind.ABORTED, "STEP_IN_PROGRESS", message, retry_after=RETRY_AFTER)
