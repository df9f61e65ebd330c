"""A real server and real channels on the loopback; nothing here needs a database."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typing_extensions import override

from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.grpc_server import Allow, Server, build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, current_caller, new_key_pair
from chassis.ids import new_id
from chassis.rpc_metrics import RPC_HANDLED
from sagacity.common.v1 import saga_step_pb2
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc

TIMEOUT_SECONDS = 20.0
SERVICES = ("orchestrator", "gateway", "users")
PAIRS = {name: new_key_pair(name) for name in SERVICES}
POLICIES = {
    "Reserve": Allow(frozenset({"orchestrator"})),
    "GetStock": Allow(frozenset({"gateway", "orchestrator"}), frozenset({"admin"})),
}


class StockGone(Exception):  # noqa: N818 - as domains name theirs
    pass


def translate(error: Exception) -> Fault | None:
    if isinstance(error, StockGone):
        subjects = (Detail("SKU-1", "none is left"),)
        return Fault(FaultKind.FAILED_PRECONDITION, "OUT_OF_STOCK", "not enough in stock", subjects=subjects)
    return None


@dataclass
class Inventory(inventory_pb2_grpc.InventoryServicer):
    act: Callable[[], Awaitable[Any]] | None = None
    callers: list[Caller] = field(default_factory=list)

    @override
    async def Reserve(self, request: Any, context: Any) -> Any:
        self.callers.append(current_caller())
        answer = await self.act() if self.act else None
        return answer or inventory_pb2.ReserveResponse()

    @override
    async def GetStock(self, request: Any, context: Any) -> Any:
        self.callers.append(current_caller())
        return inventory_pb2.GetStockResponse()

    @override
    async def GetProduct(self, request: Any, context: Any) -> Any:
        raise AssertionError("no policy names it")


@dataclass
class World:
    server: Server
    inventory: Inventory
    port: int
    connections: dict[str, Connection]
    # Made with the connections, as the code does: one of a closed channel makes gRPC's core abort.
    stubs: dict[str, Any]

    async def call(self, name: str, request: Any, *, by: str = "orchestrator", **options: Any) -> Any:
        connection = self.connections[by]
        rpc = getattr(self.stubs[by], name)
        options = {"timeout_seconds": TIMEOUT_SECONDS} | options
        return await connection.call(rpc, request, **options)

    async def refusal(self, name: str, request: Any, **options: Any) -> Fault:
        with pytest.raises(Fault) as caught:
            await self.call(name, request, **options)
        return caught.value

    async def leave_once(self, began: asyncio.Event) -> None:
        """Call Reserve, hang up when its use case has begun, and wait until the server has noticed."""
        left = RPC_HANDLED.labels("sagacity.inventory.v1.Inventory", "Reserve", "CANCELLED")
        before = left._value.get()
        call = asyncio.create_task(self.call("Reserve", reserve()))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await began.wait()
        call.cancel()
        await asyncio.wait({call})
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while left._value.get() == before:  # noqa: ASYNC110 - a counter sets no Event
                await asyncio.sleep(0.005)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    inventory = Inventory()  # type: ignore[abstract]  # the RPCs that no test calls are left out
    server = build_server(
        domain="sagacity.inventory",
        policies=POLICIES,
        verifier=Verifier({"keys": [public for _, public in PAIRS.values()]}),
        translate=translate,
    )
    inventory_pb2_grpc.add_InventoryServicer_to_server(inventory, server.server)
    port = await server.start("127.0.0.1:0")
    connections = {
        name: Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pem)) for name, (pem, _) in PAIRS.items()
    }
    stubs = {name: inventory_pb2_grpc.InventoryStub(each.channel) for name, each in connections.items()}
    yield World(server, inventory, port, connections, stubs)
    for connection in connections.values():
        await connection.close()
    await server.stop()


def reserve(**changes: Any) -> inventory_pb2.ReserveRequest:
    values: dict[str, Any] = {
        "saga_step": saga_step_pb2.SagaStep(
            saga_id=str(new_id()), step="reserve", operation=saga_step_pb2.OPERATION_DO
        ),
        "reservation_id": str(new_id()),
        "order_id": str(new_id()),
        "lines": [inventory_pb2.ReserveLine(sku="SKU-1", quantity=1)],
        "currency_code": "EUR",
        "ttl": Duration(seconds=60),
    }
    return inventory_pb2.ReserveRequest(**(values | changes))


async def test_a_call_that_is_allowed_is_served(world: World) -> None:
    assert await world.call("Reserve", reserve()) == inventory_pb2.ReserveResponse()
    assert world.inventory.callers == [Caller("orchestrator")]


async def test_a_method_without_a_policy_is_denied_to_everybody(world: World) -> None:
    for name in SERVICES:
        fault = await world.refusal("GetProduct", inventory_pb2.GetProductRequest(sku="SKU-1"), by=name)
        assert fault.kind is FaultKind.PERMISSION_DENIED


async def test_a_service_that_the_policy_does_not_name_is_denied(world: World) -> None:
    fault = await world.refusal("Reserve", reserve(), by="users")
    assert (fault.kind, fault.domain) == (FaultKind.PERMISSION_DENIED, "sagacity.inventory")
    assert world.inventory.callers == []


async def test_the_gateway_names_the_user_it_acts_for(world: World) -> None:
    admin = Caller("gateway", new_id(), "admin")
    await world.call("GetStock", inventory_pb2.GetStockRequest(sku="SKU-1"), by="gateway", user=admin)
    assert world.inventory.callers == [admin]


async def test_a_role_that_the_policy_does_not_name_is_denied(world: World) -> None:
    request = inventory_pb2.GetStockRequest(sku="SKU-1")
    for user in (None, Caller("gateway", new_id(), "customer"), Caller("gateway", new_id(), None)):
        fault = await world.refusal("GetStock", request, by="gateway", user=user)
        assert fault.kind is FaultKind.PERMISSION_DENIED


async def test_nobody_but_the_gateway_is_believed_about_a_user(world: World) -> None:
    admin = Caller("orchestrator", new_id(), "admin")
    fault = await world.refusal("GetStock", inventory_pb2.GetStockRequest(sku="SKU-1"), user=admin)
    assert fault.kind is FaultKind.PERMISSION_DENIED


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer x.y.z"),),
        (("authorization", f"Basic {ServiceIdentity('gateway', PAIRS['gateway'][0]).token()}"),),
        (("authorization", f"Bearer {ServiceIdentity('gateway', new_key_pair('gateway')[0]).token()}"),),
    ],
)
async def test_a_call_without_a_good_token_is_unauthenticated(world: World, metadata: Any) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.port}") as channel:
        stub = inventory_pb2_grpc.InventoryStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Reserve(reserve(), metadata=metadata, timeout=TIMEOUT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert world.inventory.callers == []


async def test_a_probe_needs_no_token_and_sees_the_server_leave(world: World) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(world.server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"garbage", b"\x0a\x05ab"])
async def test_garbage_is_the_callers_error(world: World, raw: bytes) -> None:
    connection = world.connections["orchestrator"]
    rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = connection.channel.unary_unary(
        "/sagacity.inventory.v1.Inventory/Reserve"
    )
    with pytest.raises(Fault) as caught:
        await connection.call(rpc, raw, timeout_seconds=TIMEOUT_SECONDS)
    assert caught.value.kind is FaultKind.INVALID_ARGUMENT
    assert world.inventory.callers == []


async def test_a_request_against_the_rules_names_each_field_by_its_path(world: World) -> None:
    line = inventory_pb2.ReserveLine
    request = reserve(
        lines=[line(sku="SKU-1", quantity=1), line(sku="bad sku", quantity=0)],
        currency_code="euro",
        saga_step=saga_step_pb2.SagaStep(saga_id="x", step="reserve", operation=saga_step_pb2.OPERATION_DO),
    )
    fault = await world.refusal("Reserve", request)
    assert fault.kind is FaultKind.INVALID_ARGUMENT
    named = {detail.subject for detail in fault.fields}
    assert named == {"lines[1].sku", "lines[1].quantity", "currency_code", "saga_step.saga_id"}
    assert all(detail.description for detail in fault.fields)


async def test_a_hundred_wrong_lines_are_a_refusal_and_not_a_broken_call(world: World) -> None:
    lines = [inventory_pb2.ReserveLine(sku="bad sku", quantity=0)] * 100
    fault = await world.refusal("Reserve", reserve(lines=lines))
    assert (fault.kind, len(fault.fields)) == (FaultKind.INVALID_ARGUMENT, 100)


async def test_a_fault_of_the_use_case_arrives_whole(world: World) -> None:
    async def act() -> None:
        raise Fault(FaultKind.ABORTED, "HELD", "held by another", recorded=True)

    world.inventory.act = act
    fault = await world.refusal("Reserve", reserve())
    assert (fault.kind, fault.reason, fault.recorded) == (FaultKind.ABORTED, "HELD", True)
    assert fault.domain == "sagacity.inventory"


async def test_an_exception_of_the_domain_is_translated(world: World) -> None:
    async def act() -> None:
        raise StockGone

    world.inventory.act = act
    fault = await world.refusal("Reserve", reserve())
    assert (fault.kind, fault.subjects) == (
        FaultKind.FAILED_PRECONDITION,
        (Detail("SKU-1", "none is left"),),
    )


async def test_a_bug_is_an_opaque_error_that_leads_to_the_log(world: World) -> None:
    async def act() -> None:
        raise RuntimeError("postgresql://user:hunter2@host")

    world.inventory.act = act
    with structlog.testing.capture_logs() as lines:
        fault = await world.refusal("Reserve", reserve(), request_id="r-17")
    assert (fault.kind, fault.message) == (FaultKind.INTERNAL, "internal error, request id r-17")
    assert "hunter2" not in str(fault.to_json())
    assert [line["event"] for line in lines] == ["rpc_failed"]
    assert isinstance(lines[0]["exc_info"], RuntimeError)


async def test_a_reply_of_the_wrong_type_is_a_bug_like_any_other(world: World) -> None:
    async def act() -> Any:
        return object()

    world.inventory.act = act
    fault = await world.refusal("Reserve", reserve(), request_id="r-18")
    assert (fault.kind, fault.message) == (FaultKind.INTERNAL, "internal error, request id r-18")


async def test_a_use_case_ends_though_its_caller_gave_up(world: World) -> None:
    began, goes_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def act() -> None:
        began.set()
        await goes_on.wait()
        ended.set()

    world.inventory.act = act
    await world.leave_once(began)
    goes_on.set()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await ended.wait()
    assert ended.is_set()


async def test_a_drain_waits_for_what_runs_on_without_its_caller(world: World) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        began.set()
        # Nothing but the drain keeps the server's stop from ending before this.
        await world.server.server.wait_for_termination()
        for _ in range(100):
            await asyncio.sleep(0)
        ended.set()

    world.inventory.act = act
    await world.leave_once(began)
    await world.server.stop()
    assert ended.is_set()


async def test_a_bug_after_the_caller_left_is_logged(world: World) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        began.set()
        await goes_on.wait()
        raise RuntimeError("bug")

    world.inventory.act = act
    with structlog.testing.capture_logs() as lines:
        await world.leave_once(began)
        goes_on.set()
        await world.server.stop()
    assert [line["event"] for line in lines] == ["use_case_failed_after_its_caller_left"]


async def test_a_call_under_way_ends_before_the_server_does(world: World) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        began.set()
        await goes_on.wait()

    world.inventory.act = act
    call = asyncio.create_task(world.call("Reserve", reserve()))
    await began.wait()
    stopping = asyncio.create_task(world.server.stop())
    await asyncio.sleep(0)
    goes_on.set()
    assert await call == inventory_pb2.ReserveResponse()
    await stopping


async def test_a_server_that_is_away_is_unavailable(world: World) -> None:
    await world.server.stop()
    fault = await world.refusal("Reserve", reserve())
    assert (fault.kind, fault.domain) == (FaultKind.UNAVAILABLE, "")


async def test_a_failed_call_holds_its_channel_no_longer_than_it_takes(world: World) -> None:
    # Another channel to the same address would share its wait before it connects again.
    await world.server.stop()
    connection = world.connections["orchestrator"]
    stub = inventory_pb2_grpc.InventoryStub(connection.channel)
    called = weakref.ref(stub.Reserve)
    gc.disable()
    try:
        with suppress(Fault):
            await connection.call(stub.Reserve, reserve(), timeout_seconds=TIMEOUT_SECONDS)
        del stub
        assert called() is None
    finally:
        gc.enable()


async def test_a_call_on_a_closed_connection_is_unavailable(world: World) -> None:
    await world.connections["users"].close()
    fault = await world.refusal("Reserve", reserve(), by="users")
    assert fault.kind is FaultKind.UNAVAILABLE
    with pytest.raises(Fault, match="the connection is being closed"):
        inventory_pb2_grpc.InventoryStub(world.connections["users"].channel)


async def test_a_connection_that_is_closed_under_a_call_cancels_nobody(world: World) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        began.set()
        await goes_on.wait()

    world.inventory.act = act
    call = asyncio.create_task(world.refusal("Reserve", reserve()))
    await began.wait()
    await world.connections["orchestrator"].close()
    assert (await call).kind is FaultKind.UNAVAILABLE
    goes_on.set()


async def test_a_port_that_is_taken_is_said_at_once(world: World) -> None:
    other = build_server(domain="d", policies={}, verifier=Verifier({"keys": [PAIRS["users"][1]]}))
    with pytest.raises(OSError, match=f"127.0.0.1:{world.port}"):
        await other.start(f"127.0.0.1:{world.port}")
    await other.stop()
