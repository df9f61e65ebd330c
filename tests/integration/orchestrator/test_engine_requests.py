"""Whoever drives a saga calls by the id of the request that began it, whatever woke it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
import structlog
from typing_extensions import override

from chassis.ids import new_id
from orchestrator.entries import State, Verb
from orchestrator.saga import Action
from orchestrator.saga_log import Acceptance
from tests.integration.orchestrator.scripted import (
    AWAY,
    FULL,
    LATER,
    Params,
    Replica,
    Script,
    is_gone,
    replica,
    until,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
REQUEST = "the-clients-request"
NewDatabase = Callable[..., str]


@dataclass
class Listening(Script):
    """Keeps by which request each call was made, as `GrpcParticipants` hands it on."""

    by: list[tuple[UUID, str | None]] = field(default_factory=list)

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        try:
            return await super().call(action, request, timeout_seconds=timeout_seconds)
        finally:
            self.by.append((self.seen[-1].saga_id, request_id))

    def of(self, saga_id: UUID) -> set[str | None]:
        return {request_id for seen, request_id in self.by if seen == saga_id}


@pytest.fixture(autouse=True)
async def _another_request() -> AsyncIterator[None]:
    """What goes on where a saga is woken has a request of its own."""
    with structlog.contextvars.bound_contextvars(request_id="of-somebody-else"):
        yield


def acceptance(one: Replica, *, key: UUID | None = None, request_id: str | None = REQUEST) -> Acceptance:
    saga_id = new_id()
    return Acceptance(
        saga_id=saga_id,
        kind=FULL.kind,
        version=FULL.version,
        definition_hash=FULL.hash,
        key=key or new_id(),
        context=dataclasses.asdict(Params()),
        deadline=FULL.deadline,
        events=(),
        owner=one.name,
        caller="user",
        rpc="Test",
        idempotency_key=str(saga_id),
        request_hash=b"hash",
        request_id=request_id,
    )


async def begun(one: Replica, *, request_id: str | None = REQUEST) -> UUID:
    return (await one.executor.accept(FULL, Params(), acceptance(one, request_id=request_id))).saga_id


@pytest.mark.parametrize("request_id", [REQUEST, None])
async def test_whoever_takes_a_saga_over(new_database: NewDatabase, request_id: str | None) -> None:
    dsn = new_database(DATABASE)
    stuck = Script(holds={"c": asyncio.Event()})
    async with replica(dsn, stuck, "dead") as dead:
        saga_id = await begun(dead, request_id=request_id)
        await stuck.asked_for("c")
    await is_gone(dsn, "dead")
    script = Listening()
    async with replica(dsn, script, "heir") as heir:
        await heir.leases.sweep()
        assert (await heir.end_of(saga_id)).state is State.COMPLETED
    assert script.names == ["c", "pivot", "last"]
    assert script.of(saga_id) == {request_id}


async def test_whoever_goes_on_after_a_back_off(new_database: NewDatabase) -> None:
    script = Listening({"c": [LATER]})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await begun(one)
        await one.left_memory(saga_id)
        await one.make_due(saga_id)
        await one.leases.sweep()
        assert (await one.end_of(saga_id)).state is State.COMPLETED
    assert script.names.count("c") == 2
    assert script.of(saga_id) == {REQUEST}


async def test_whoever_starts_one_that_waited_its_turn(new_database: NewDatabase) -> None:
    script = Listening(holds={"c": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        first = acceptance(one, request_id="of-the-first")
        await one.executor.accept(FULL, Params(), first)
        await script.asked_for("c")
        behind = await one.executor.accept_behind(acceptance(one, key=first.key))
        assert behind.waiting
        script.holds["c"].set()
        assert (await one.end_of(first.saga_id)).state is State.COMPLETED
        await one.leases.sweep()
        assert (await one.end_of(behind.saga_id)).state is State.COMPLETED
    assert script.of(first.saga_id) == {"of-the-first"}
    assert script.of(behind.saga_id) == {REQUEST}


async def test_whoever_goes_on_because_an_operator_said_so(new_database: NewDatabase) -> None:
    script = Listening({"c": [AWAY]}, holds={"c": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await begun(one)
        await script.asked_for("c")
        await one.ask(saga_id, Verb.PAUSE)
        script.holds["c"].set()
        await until(lambda: saga_id not in one.executor.in_memory)
        await one.ask(saga_id, Verb.RESUME)
        assert (await one.end_of(saga_id)).state is State.COMPLETED
    assert script.of(saga_id) == {REQUEST}
