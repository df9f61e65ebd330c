"""Streams of a server: the same identity, policy, validation, faults and metrics as for any call; bounded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from typing_extensions import override

from chassis import grpc_errors, grpc_gate
from chassis.errors import Fault, FaultKind
from chassis.grpc_gate import Allow
from chassis.grpc_metadata import ROLE_KEY, USER_KEY
from chassis.grpc_server import Server, build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, current_caller, new_key_pair
from chassis.ids import new_id
from chassis.rpc_metrics import RPC_HANDLED
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

TIMEOUT_SECONDS = 20.0
SERVICES = ("gateway", "operator", "users")
PAIRS = {name: new_key_pair(name) for name in SERVICES}
POLICY = Allow(frozenset({"gateway", "operator"}), frozenset({"admin"}), userless=frozenset({"operator"}))


@dataclass
class Watched(sagas_pb2_grpc.SagaOperatorServicer):
    """Sends so many messages, and then does what a test wants."""

    messages: int = 3
    then: Callable[[], Any] | None = None
    callers: list[Caller] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @override
    async def WatchSagas(self, request: Any, context: Any) -> AsyncIterator[sagas_pb2.WatchSagasResponse]:
        self.callers.append(current_caller())
        try:
            for number in range(self.messages):
                yield sagas_pb2.WatchSagasResponse(sagas=[sagas_pb2.Saga(sequence=number)])
            if self.then is not None:
                await self.then()
        finally:
            self.ended.set()


@dataclass
class World:
    server: Server
    watched: Watched
    port: int
    channel: grpc.aio.Channel

    def watch(self, *, by: str = "operator", user: Caller | None = None, saga_id: str = "") -> Any:
        token = ServiceIdentity(by, PAIRS[by][0]).token()
        metadata = [("authorization", f"Bearer {token}")]
        if user is not None:
            metadata += [(USER_KEY, str(user.user_id)), (ROLE_KEY, user.role or "")]
        stub: Any = sagas_pb2_grpc.SagaOperatorStub(self.channel)
        return stub.WatchSagas(
            sagas_pb2.WatchSagasRequest(saga_id=saga_id), metadata=metadata, timeout=TIMEOUT_SECONDS
        )

    async def numbers(self, **options: Any) -> list[int]:
        return [message.sagas[0].sequence async for message in self.watch(**options)]

    async def fault(self, **options: Any) -> Fault:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.numbers(**options)
        return grpc_errors.from_error(caught.value)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    watched = Watched()  # type: ignore[abstract]  # the RPCs that no test calls are left out
    server = build_server(
        domain="sagacity.test",
        policies={"WatchSagas": POLICY},
        verifier=Verifier({"keys": [public for _, public in PAIRS.values()]}),
    )
    sagas_pb2_grpc.add_SagaOperatorServicer_to_server(watched, server.server)
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield World(server, watched, port, channel)
    await server.stop()


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_stream_that_is_allowed_is_served_to_its_end(world: World) -> None:
    counted = RPC_HANDLED.labels("sagacity.sagas.v1.SagaOperator", "WatchSagas", "OK")
    before = counted._value.get()
    assert await world.numbers() == [0, 1, 2]
    assert world.watched.callers == [Caller("operator")]
    assert counted._value.get() == before + 1


async def test_the_gateway_streams_for_an_admin_and_for_nobody_else(world: World) -> None:
    admin = Caller("gateway", new_id(), "admin")
    assert await world.numbers(by="gateway", user=admin) == [0, 1, 2]
    assert world.watched.callers == [admin]
    for user in (None, Caller("gateway", new_id(), "support")):
        assert (await world.fault(by="gateway", user=user)).kind is FaultKind.PERMISSION_DENIED


async def test_a_service_that_the_policy_does_not_name_gets_no_stream(world: World) -> None:
    assert (await world.fault(by="users")).kind is FaultKind.PERMISSION_DENIED
    assert world.watched.callers == []


async def test_who_is_believed_without_a_user_is_believed_about_no_user(world: World) -> None:
    await world.numbers(user=Caller("operator", new_id(), "customer"))
    assert world.watched.callers == [Caller("operator")]


async def test_a_stream_without_a_token_is_unauthenticated(world: World) -> None:
    stub: Any = sagas_pb2_grpc.SagaOperatorStub(world.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.WatchSagas(sagas_pb2.WatchSagasRequest(), timeout=TIMEOUT_SECONDS).read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_request_of_a_stream_is_validated_before_it_begins(world: World) -> None:
    fault = await world.fault(saga_id="garbage")
    assert (fault.kind, fault.fields[0].subject) == (FaultKind.INVALID_ARGUMENT, "saga_id")
    assert world.watched.callers == []


async def test_a_fault_after_some_messages_reaches_the_caller_as_it_is(world: World) -> None:
    async def gone() -> None:
        raise Fault(FaultKind.NOT_FOUND, "SAGA_NOT_FOUND", "there is no such saga")

    world.watched.then = gone
    call = world.watch()
    assert [(await call.read()).sagas[0].sequence for _ in range(3)] == [0, 1, 2]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    fault = grpc_errors.from_error(caught.value)
    assert (fault.kind, fault.reason, fault.domain) == (
        FaultKind.NOT_FOUND,
        "SAGA_NOT_FOUND",
        "sagacity.test",
    )


async def test_a_bug_in_a_stream_is_an_opaque_internal_error(world: World) -> None:
    async def bug() -> None:
        raise ZeroDivisionError("secret")

    world.watched.then = bug
    fault = await world.fault()
    assert fault.kind is FaultKind.INTERNAL
    assert "secret" not in fault.message


async def test_a_stream_ends_with_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_gate, "MAX_STREAM_SECONDS", 0.05)
    world.watched.then = forever
    fault = await world.fault()
    assert (fault.kind, fault.reason) == (FaultKind.DEADLINE_EXCEEDED, "STREAM_TOO_LONG")
    await asyncio.wait_for(world.watched.ended.wait(), TIMEOUT_SECONDS)


async def test_a_reader_that_does_not_read_holds_a_stream_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_gate, "MAX_STREAM_SECONDS", 0.5)
    world.watched.messages = 10**9
    call = world.watch()
    await call.read()
    await asyncio.wait_for(world.watched.ended.wait(), TIMEOUT_SECONDS)
    assert world.server._gate._streams == set()
    call.cancel()


async def test_a_caller_that_leaves_ends_its_stream(world: World) -> None:
    world.watched.then = forever
    call = world.watch()
    await call.read()
    assert not world.watched.ended.is_set()
    call.cancel()
    await asyncio.wait_for(world.watched.ended.wait(), TIMEOUT_SECONDS)


async def test_there_are_only_so_many_streams_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_gate, "MAX_STREAMS", 1)
    world.watched.then = forever
    first = world.watch()
    await first.read()
    fault = await world.fault()
    assert (fault.kind, fault.reason) == (FaultKind.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert fault.retry_after is not None
    first.cancel()
    await asyncio.wait_for(world.watched.ended.wait(), TIMEOUT_SECONDS)


async def test_a_stream_that_waits_for_its_next_message_is_sent_elsewhere_at_a_stop(world: World) -> None:
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await forever()

    world.watched.then = wait
    reading = asyncio.create_task(world.fault())
    await asyncio.wait_for(waiting.wait(), TIMEOUT_SECONDS)
    stopping = asyncio.create_task(world.server.stop())
    fault = await reading
    assert (fault.kind, fault.reason) == (FaultKind.UNAVAILABLE, "STOPPING")
    await stopping


async def test_a_server_that_stops_lets_a_message_that_is_on_its_way_arrive_and_says_why_it_ends(
    world: World,
) -> None:
    world.watched.then = forever
    reading = asyncio.create_task(world.fault())
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not world.server._gate._streams:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.002)
    stopping = asyncio.create_task(world.server.stop())
    fault = await reading
    assert (fault.kind, fault.reason) == (FaultKind.UNAVAILABLE, "STOPPING")
    await stopping
