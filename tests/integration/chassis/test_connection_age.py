"""Connections end by age, and calls do not: so clients find replicas that came after they connected."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typing_extensions import override

from chassis import grpc_client
from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.grpc_gate import MAX_HANDLER_SECONDS, MAX_STREAM_SECONDS
from chassis.grpc_server import MAX_CONNECTION_AGE_GRACE_SECONDS, Allow, Server, build_server
from chassis.identity import ServiceIdentity, Verifier, new_key_pair
from chassis.readiness import READINESS_SERVICE
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from tests.e2e.eventually import eventually

WAIT_SECONDS = 60.0
AGE_SECONDS = 0.3
CALLS_IN_FLIGHT = 4
CONNECTIONS_TO_SEE = 4
QUESTIONS_TO_SEE = 4
PRIVATE_KEY, PUBLIC_KEY = new_key_pair("gateway")
NAME = "inventory-headless.test"
NO_SUCH_NAME = 3
# What gRPC waits by itself before it looks a name up again. Who does not wait so long is there by half of it.
GRPC_DNS_INTERVAL_SECONDS = 30.0


@dataclass
class Inventory(inventory_pb2_grpc.InventoryServicer):
    """Remembers by which connections it was called; the product "HELD" is answered when it may be."""

    peers: list[str] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    @override
    async def GetProduct(self, request: Any, context: Any) -> Any:
        self.peers.append(context.peer())
        if request.sku == "HELD":
            self.began.set()
            await self.may_end.wait()
        return inventory_pb2.GetProductResponse()


def new_server(inventory: Inventory, *, age_seconds: float = AGE_SECONDS) -> Server:
    server = build_server(
        domain="sagacity.inventory",
        policies={"GetProduct": Allow(frozenset({"gateway"}))},
        verifier=Verifier({"keys": [PUBLIC_KEY]}),
        max_connection_age_seconds=age_seconds,
    )
    inventory_pb2_grpc.add_InventoryServicer_to_server(inventory, server.server)
    return server


@pytest.fixture
async def inventory() -> Inventory:
    return Inventory()  # type: ignore[abstract]  # the RPCs that no test calls are left out


@pytest.fixture
async def connection(inventory: Inventory) -> AsyncIterator[Connection]:
    server = new_server(inventory)
    port = await server.start("127.0.0.1:0")
    connected = Connection(f"127.0.0.1:{port}", ServiceIdentity("gateway", PRIVATE_KEY))
    yield connected
    await connected.close()
    await server.stop()


async def get(connection: Connection, sku: str) -> None:
    rpc = inventory_pb2_grpc.InventoryStub(connection.channel).GetProduct
    await connection.call(rpc, inventory_pb2.GetProductRequest(sku=sku), timeout_seconds=WAIT_SECONDS)


async def see_connections(connection: Connection, inventory: Inventory, number: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while len(set(inventory.peers)) < number:
            await get(connection, "SKU-1")


async def test_no_call_fails_while_connections_end_by_age_one_after_the_other(
    connection: Connection, inventory: Inventory
) -> None:
    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLS_IN_FLIGHT):
            callers.create_task(see_connections(connection, inventory, CONNECTIONS_TO_SEE))
    assert len(set(inventory.peers)) >= CONNECTIONS_TO_SEE


async def test_a_call_under_way_outlives_the_age_of_its_connection(
    connection: Connection, inventory: Inventory
) -> None:
    held = asyncio.create_task(get(connection, "HELD"))
    async with asyncio.timeout(WAIT_SECONDS):
        await inventory.began.wait()
    await see_connections(connection, inventory, CONNECTIONS_TO_SEE)
    assert not held.done()
    inventory.may_end.set()
    await held


def test_an_old_connection_stays_longer_than_any_call_may_take() -> None:
    assert max(MAX_STREAM_SECONDS, MAX_HANDLER_SECONDS) < MAX_CONNECTION_AGE_GRACE_SECONDS


class Names(asyncio.DatagramProtocol):
    """A DNS server for one name: answers with the addresses that it has at this moment."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.code_without = 0  # the answer's code where there are no addresses: no error, or NO_SUCH_NAME
        self.times_asked = 0

    @override
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    @override
    def datagram_received(self, data: bytes, addr: Any) -> None:
        (number,) = struct.unpack("!H", data[:2])
        end_of_name = data.index(b"\0", 12) + 1
        question = data[12 : end_of_name + 4]
        (kind,) = struct.unpack("!H", data[end_of_name : end_of_name + 2])
        found = self.addresses if kind == 1 else []  # A records; there are none of IPv6
        self.times_asked += 1
        records = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(one) for one in found]
        flags = 0x8580 if self.addresses else 0x8580 | self.code_without
        header = struct.pack("!HHHHHH", number, flags, 1, len(records), 0, 0)
        self._transport.sendto(header + question + b"".join(records), addr)


@asynccontextmanager
async def names() -> AsyncIterator[tuple[Names, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def dns_target(dns_port: int, port: int) -> str:
    return f"dns://127.0.0.1:{dns_port}/{NAME}:{port}"


@asynccontextmanager
async def client(dns_port: int, port: int) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Yield a call that tells how ready the replica is that answers it."""
    target = dns_target(dns_port, port)
    async with grpc.aio.insecure_channel(target, options=grpc_client._OPTIONS) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def answering() -> int:
            request = health_pb2.HealthCheckRequest(service=READINESS_SERVICE)
            return int((await health.Check(request, timeout=WAIT_SECONDS)).status)

        yield answering


async def test_a_client_finds_a_replica_that_came_after_it_connected() -> None:
    old, new = (new_server(Inventory()) for _ in range(2))  # type: ignore[abstract]
    async with names() as (dns, dns_port), AsyncExitStack() as stack:
        port = await old.start("127.0.0.2:0")
        stack.push_async_callback(old.stop)
        await old.tell_readiness(ready=False)  # tells them apart
        dns.addresses = ["127.0.0.2"]
        answering = await stack.enter_async_context(client(dns_port, port))
        assert await answering() == health_pb2.HealthCheckResponse.NOT_SERVING
        await new.start(f"127.0.0.3:{port}")
        stack.push_async_callback(new.stop)
        await new.tell_readiness(ready=True)
        dns.addresses = ["127.0.0.2", "127.0.0.3"]
        async with asyncio.timeout(WAIT_SECONDS):
            while await answering() != health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110 - no Event
                await asyncio.sleep(0)


@pytest.mark.parametrize("code", [0, NO_SUCH_NAME])
async def test_a_client_keeps_its_addresses_while_the_name_has_none(code: int) -> None:
    # So it is in Kubernetes while no replica is ready: their database is away, and they are where they were.
    server = new_server(Inventory())  # type: ignore[abstract]
    async with names() as (dns, dns_port), AsyncExitStack() as stack:
        port = await server.start("127.0.0.2:0")
        stack.push_async_callback(server.stop)
        await server.tell_readiness(ready=True)
        dns.addresses = ["127.0.0.2"]
        answering = await stack.enter_async_context(client(dns_port, port))
        assert await answering() == health_pb2.HealthCheckResponse.SERVING
        dns.addresses, dns.code_without = [], code
        asked = dns.times_asked
        async with asyncio.timeout(WAIT_SECONDS):
            while dns.times_asked < asked + QUESTIONS_TO_SEE:
                assert await answering() == health_pb2.HealthCheckResponse.SERVING
        assert await answering() == health_pb2.HealthCheckResponse.SERVING


async def test_a_client_whose_last_replica_goes_looks_for_its_successor_at_once() -> None:
    # So it is at the end of a rollout: whatever it knew is gone, and it has looked the name up just now.
    inventory = Inventory()  # type: ignore[abstract]
    old, new = new_server(inventory, age_seconds=WAIT_SECONDS), new_server(inventory)
    async with names() as (dns, dns_port), AsyncExitStack() as stack:
        port = await old.start("127.0.0.2:0")
        dns.addresses = ["127.0.0.2"]
        connection = Connection(dns_target(dns_port, port), ServiceIdentity("gateway", PRIVATE_KEY))
        stack.push_async_callback(connection.close)
        await get(connection, "SKU-1")
        await new.start(f"127.0.0.3:{port}")
        stack.push_async_callback(new.stop)
        dns.addresses = ["127.0.0.3"]
        await old.stop()
        answered = partial(answers, connection)
        await eventually(answered, within_seconds=GRPC_DNS_INTERVAL_SECONDS / 2)
    assert len(set(inventory.peers)) > 1


async def answers(connection: Connection) -> bool:
    try:
        await get(connection, "SKU-1")
    except Fault as fault:
        if fault.kind is not FaultKind.UNAVAILABLE:
            raise
        return False
    return True
