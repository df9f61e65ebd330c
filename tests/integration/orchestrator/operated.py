"""Sagas brought to every state, and two replicas to ask things of: what the tests of the verbs share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from orchestrator.entries import Verb
from orchestrator.operations import Request
from orchestrator.saga import Parallel, Step
from orchestrator.saga_log import Acceptance
from tests.integration.orchestrator.scripted import (
    FULL,
    NO,
    ORDERS,
    PIVOT,
    UNRECORDED,
    A,
    B,
    C,
    Replica,
    Script,
    action,
    of,
    replica,
    saga,
)

DATABASE = "orchestrator"
NewDatabase = Callable[..., str]

TOLD = Step("told", action(ORDERS, "MarkShipped"), skippable=True)
POINTS = Step("points", action(ORDERS, "RecordRefund"))
# After its pivot two steps at once, one of which a person may take for done.
TELLING = saga("telling", Parallel(A, B), C, PIVOT, Parallel(POINTS, TOLD))
KNOWN = of(FULL, TELLING)


@asynccontextmanager
async def pair(
    new_database: NewDatabase, script: Script, other: Script | None = None
) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas of one journal; nothing sweeps unless told."""
    dsn = new_database(DATABASE)
    async with (
        replica(dsn, script, "one", definitions=KNOWN) as one,
        replica(dsn, other or script, "two", definitions=KNOWN) as two,
    ):
        yield one, two


def plays(one: Replica, script: Script) -> None:
    """Let a replica's participants answer by another script from now on."""
    one.executor._caller._participants = script


def request(saga_id: UUID, verb: Verb, **changes: Any) -> Request:
    values: dict[str, Any] = {"actor": "ops@example.com", "reason": "asked by phone"}
    if verb is Verb.SKIP:
        values |= {"step": "told", "output_json": "{}"}
    return Request(saga_id, verb, **(values | changes))


async def refusal_of(one: Replica, asked: Request) -> Fault:
    with pytest.raises(Fault) as caught:
        await one.operations.perform(asked)
    return caught.value


async def behind(one: Replica, holder: UUID) -> UUID:
    """A saga that waits for the order of another one."""
    key = (await one.row(holder))["key"]
    acceptance = Acceptance(
        saga_id=new_id(),
        kind=TELLING.kind,
        version=1,
        definition_hash=TELLING.hash,
        key=key,
        context={"note": ""},
        deadline=TELLING.deadline,
        events=(),
        owner=one.name,
        caller="user",
        rpc="Behind",
        idempotency_key=str(new_id()),
        request_hash=b"hash",
    )
    return (await one.executor.accept_behind(acceptance)).saga_id


# --- each verb in each state ---


def never() -> asyncio.Event:
    return asyncio.Event()


async def bring(one: Replica, script: Script, where: str) -> UUID:
    """Bring a saga to a state, and let nothing hold it any more."""
    if where == "waiting":
        script.holds["c"] = never()
        holder = await one.begin(TELLING)
        await script.asked_for("c")
        return await behind(one, holder)
    setups: dict[str, tuple[dict[str, list[Fault]], str]] = {
        "running": ({}, "c"),
        "running after the pivot": ({}, "told"),
        "compensating": ({"c": [UNRECORDED]}, "-a"),
        "paused": ({}, "c"),
        "parked before the pivot": ({}, "c"),
        "parked after the pivot": ({"told": [NO]}, ""),
        "parked undo": ({"c": [UNRECORDED], "-c": [NO]}, ""),
        "completed": ({}, ""),
        "compensated": ({"c": [NO]}, ""),
    }
    script.faults, held = setups[where]
    if held:
        script.holds[held] = never()
    saga_id = await one.begin(TELLING)
    if not held:
        await one.end_of(saga_id)
        return saga_id
    await script.asked_for(held)
    if where == "paused":
        await one.ask(saga_id, Verb.PAUSE)
    if where == "parked before the pivot":
        # As by a definition that this code did not have for a while.
        await one.rows(
            "WITH parked AS (UPDATE saga SET state = 'PARKED', epoch = epoch + 1, seq = seq + 1"
            "                 WHERE id = %(id)s RETURNING id, seq)"
            " INSERT INTO saga_event (saga_id, seq, step, op, attempt, outcome, detail, recorded)"
            " SELECT id, seq, '', 'parked', 0, 'intended', 'by the test', false FROM parked",
            id=saga_id,
        )
    return saga_id
