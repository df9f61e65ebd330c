"""Client and server count the same calls, on a real server and a real channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.grpc_server import Allow, build_server
from chassis.identity import ServiceIdentity, Verifier, new_key_pair
from chassis.telemetry import REGISTRY
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from tests.e2e.eventually import eventually

SECONDS = 10.0
KEY, PUBLIC = new_key_pair("gateway")
METHOD = {"grpc_service": "sagacity.inventory.v1.Inventory", "grpc_method": "GetProduct"}
REQUEST = inventory_pb2.GetProductRequest(sku="SKU-1")


class Inventory(inventory_pb2_grpc.InventoryServicer):
    fault: Fault | None = None

    @override
    async def GetProduct(self, request: Any, context: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return inventory_pb2.GetProductResponse()


def counted(side: str, code: str) -> float:
    return REGISTRY.get_sample_value(f"grpc_{side}_handled_total", {**METHOD, "grpc_code": code}) or 0.0


def timed(side: str) -> float:
    return REGISTRY.get_sample_value(f"grpc_{side}_handling_seconds_count", METHOD) or 0.0


@pytest.fixture
async def served() -> AsyncIterator[tuple[Inventory, Connection]]:
    inventory = Inventory()  # type: ignore[abstract]  # the RPCs that no test calls are left out
    server = build_server(
        domain="sagacity.inventory",
        policies={"GetProduct": Allow(frozenset({"gateway"}))},
        verifier=Verifier({"keys": [PUBLIC]}),
    )
    inventory_pb2_grpc.add_InventoryServicer_to_server(inventory, server.server)
    port = await server.start("127.0.0.1:0")
    connection = Connection(f"127.0.0.1:{port}", ServiceIdentity("gateway", KEY))
    yield inventory, connection
    await connection.close()
    await server.stop()


@pytest.mark.parametrize("kind", [None, FaultKind.NOT_FOUND, FaultKind.UNAVAILABLE, FaultKind.INTERNAL])
async def test_a_call_is_counted_on_both_sides_with_its_status(served: Any, kind: FaultKind | None) -> None:
    inventory, connection = served
    code = "OK" if kind is None else kind.name
    before = {side: (counted(side, code), timed(side)) for side in ("server", "client")}
    rpc = inventory_pb2_grpc.InventoryStub(connection.channel).GetProduct
    if kind is None:
        await connection.call(rpc, REQUEST, timeout_seconds=SECONDS)
    else:
        inventory.fault = Fault(kind, "A_REASON", "said by the test")
        with pytest.raises(Fault):
            await connection.call(rpc, REQUEST, timeout_seconds=SECONDS)

    async def shown() -> dict[str, tuple[float, float]]:
        return {side: (counted(side, code), timed(side)) for side in before}

    # The server counts when its answer is on the way, which may be after the caller has it.
    once_more = {side: (calls + 1, times + 1) for side, (calls, times) in before.items()}
    assert await eventually(shown, until=lambda now: now == once_more) == once_more


async def test_a_server_that_is_not_there_is_counted_by_the_caller(served: Any) -> None:
    _, connection = served
    rpc = inventory_pb2_grpc.InventoryStub(connection.channel).GetProduct
    await connection.close()
    before = counted("client", "UNAVAILABLE")
    with pytest.raises(Fault):
        await connection.call(rpc, REQUEST, timeout_seconds=SECONDS)
    assert counted("client", "UNAVAILABLE") == before + 1


async def test_rpcs_that_nobody_serves_are_one_series_whatever_they_are_called(served: Any) -> None:
    _, connection = served
    labels = {"grpc_service": "unknown", "grpc_method": "unknown", "grpc_code": "UNIMPLEMENTED"}

    async def unknown() -> float:
        return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0

    before = await unknown()
    for name in ("Canary", "OtherCanary"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await connection.channel.unary_unary(f"/canary.v1.Canaries/{name}")(b"", timeout=SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await eventually(unknown, until=lambda now: now >= before + 2) == before + 2
    names = {
        value
        for family in REGISTRY.collect()
        if family.name.startswith("grpc_server")
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert not {name for name in names if "anar" in name}
