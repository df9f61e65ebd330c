"""A gateway that serves real HTTP in front of real gRPC servers, whose answers a test writes."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx2
import pytest
from google.protobuf.message import Message
from joserfc import jwt
from joserfc.jwk import OKPKey

from chassis.identity import Caller, Verifier, current_caller, new_key_pair
from gateway.live import LiveUpdates
from sagacity.events.v1 import event_operator_pb2, event_operator_pb2_grpc
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from sagacity.orders.v1 import orders_pb2, orders_pb2_grpc
from sagacity.payments.v1 import payments_pb2, payments_pb2_grpc
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc
from sagacity.users.v1 import users_pb2, users_pb2_grpc

USER = UUID("018f7e9c-5d1a-7c3e-9b1f-2a6d4c8e0f11")
SERVICES = (
    (users_pb2, "Users", users_pb2_grpc),
    (inventory_pb2, "Inventory", inventory_pb2_grpc),
    (payments_pb2, "Payments", payments_pb2_grpc),
    (orders_pb2, "Orders", orders_pb2_grpc),
    (sagas_pb2, "OrderSagas", sagas_pb2_grpc),
    (sagas_pb2, "SagaOperator", sagas_pb2_grpc),
    (event_operator_pb2, "EventOperator", event_operator_pb2_grpc),
)


@dataclass
class Backends:
    """What the backends were asked, and what they are to answer: a message, or an exception to raise."""

    key: OKPKey = field(
        default_factory=lambda: OKPKey.generate_key("Ed25519", {"kid": "u1", "alg": "Ed25519"})
    )
    answers: dict[str, Message | Exception | Callable[[Any], Message]] = field(default_factory=dict)
    calls: list[tuple[str, Any, Caller]] = field(default_factory=list)
    live: LiveUpdates = field(default_factory=lambda: LiveUpdates(max_streams=4, max_streams_per_user=2))

    def reset(self) -> None:
        self.answers.clear()
        self.calls.clear()
        text = json.dumps({"keys": [self.key.as_dict(private=False)]})
        self.answers["GetJsonWebKeys"] = users_pb2.GetJsonWebKeysResponse(json=text)

    def last(self, rpc: str) -> tuple[Any, Caller]:
        return next((request, caller) for name, request, caller in reversed(self.calls) if name == rpc)

    def bearer(self, role: str = "customer", user_id: UUID = USER) -> dict[str, str]:
        now = int(time.time())
        claims = {"iss": "sagacity", "aud": "sagacity-api", "sub": str(user_id), "role": role}
        header = {"alg": "Ed25519", "kid": "u1"}
        token = jwt.encode(header, {**claims, "iat": now, "exp": now + 900}, self.key, algorithms=["Ed25519"])
        return {"Authorization": f"Bearer {token}"}

    def servicer(self, base: type, service: Any) -> Any:
        methods = {rpc.name: self._method(rpc) for rpc in service.methods}
        return type(service.name, (base,), methods)()

    def _method(self, rpc: Any) -> Any:
        from google.protobuf.message_factory import GetMessageClass

        reply_class = GetMessageClass(rpc.output_type)

        async def handle(_servicer: Any, request: Any, _context: Any) -> Any:
            self.calls.append((rpc.name, request, current_caller()))
            answer = self.answers.get(rpc.name, reply_class())
            if isinstance(answer, Exception):
                raise answer
            return answer(request) if callable(answer) else answer

        return handle


def services() -> list[tuple[Any, Any]]:
    return [(module.DESCRIPTOR.services_by_name[name], stubs) for module, name, stubs in SERVICES]


@pytest.fixture(scope="session")
def scripted() -> Backends:
    return Backends()


@pytest.fixture
def backends(scripted: Backends) -> Backends:
    scripted.reset()
    return scripted


@pytest.fixture(scope="session")
async def gateway_url(scripted: Backends) -> AsyncIterator[str]:
    import asyncio

    from chassis.clock import SystemClock
    from chassis.grpc_client import Connection
    from chassis.grpc_server import Allow, build_server
    from chassis.identity import ServiceIdentity
    from chassis.ids import new_id
    from gateway.__main__ import HttpServer, build_gateway, listen_on
    from gateway.app import create_app

    private, public = new_key_pair("gateway")
    allowed = Allow(frozenset({"gateway"}))
    policies = {rpc.name: allowed for service, _ in services() for rpc in service.methods}
    server = build_server(domain="sagacity.test", policies=policies, verifier=Verifier({"keys": [public]}))
    for service, stubs in services():
        servicer = scripted.servicer(getattr(stubs, f"{service.name}Servicer"), service)
        getattr(stubs, f"add_{service.name}Servicer_to_server")(servicer, server.server)
    port = await server.start("127.0.0.1:0")
    scripted.reset()
    identity = ServiceIdentity("gateway", private)
    names = ("users", "inventory", "payments", "orders", "orchestrator")
    connections = {name: Connection(f"127.0.0.1:{port}", identity) for name in names}
    gateway = build_gateway(connections, scripted.live)
    app = create_app(gateway, clock=SystemClock(), new_id=new_id, with_docs=True)
    listening = listen_on("127.0.0.1:0")
    http = HttpServer(app, listening)
    async with asyncio.TaskGroup() as group:
        group.create_task(http.run_until_stopped())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        await http.stop()
    for connection in connections.values():
        await connection.close()
    await server.stop()


@pytest.fixture(scope="session")
async def shared_client(gateway_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=gateway_url, timeout=20) as client:
        yield client


@pytest.fixture
def client(shared_client: httpx2.AsyncClient, backends: Backends) -> httpx2.AsyncClient:
    return shared_client
