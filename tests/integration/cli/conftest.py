"""A real orchestrator with participants whose answers a test writes; and all of what `make run` starts."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from aiokafka import AIOKafkaProducer
from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from chassis import grpc_errors
from chassis.cloud_events import to_message
from chassis.config import environment
from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.identity import Caller, ServiceIdentity, new_key_pair
from chassis.ids import new_id
from deploy.local.children import LOOPBACK, free_port
from deploy.local.processes import ChildProcess
from deploy.local.readiness import grpc_probe, wait_until_ready
from deploy.local.suite import EMBEDDED, MAVEN, Suite
from sagacity.orders.v1.orders_pb2 import OrderItem, RefundLine
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc
from sagacity.users.v1 import events_pb2 as users_events
from tests.conftest import JARS, maven_works

USERS_TOPIC = "sagacity.users.v1"
# Of that topic; it cannot apply what has no UUID.
CONSUMER = "orders.customer-deactivations"
CONTEXTS = ("users", "inventory", "payments", "orders")
ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 60.0
CALL_SECONDS = 10.0
USER = Caller("gateway", new_id(), "customer")
STAFF = Caller("gateway", new_id(), "admin")


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Participants(grpc.GenericRpcHandler):
    """All participants in one server: an empty reply to everything, but for what a test says."""

    faults: dict[str, Fault] = field(default_factory=dict)
    replies: dict[str, bytes] = field(default_factory=dict)
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    @override
    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]

        async def answer(_request: bytes, context: Any) -> bytes:
            self.seen.append(name)
            if name in self.holds:
                await self.holds[name].wait()
            if name in self.faults:
                fault = self.faults[name]
                status = grpc_errors.to_status(fault, "sagacity.test").SerializeToString()
                details = ((grpc_errors.STATUS_METADATA_KEY, status),)
                await context.abort(grpc_errors.status_code(fault.kind), fault.message, details)
            return self.replies.get(name, b"")

        return grpc.unary_unary_rpc_method_handler(answer)

    def reset(self) -> None:
        for event in self.holds.values():
            event.set()
        for part in (self.faults, self.replies, self.holds, self.seen):
            part.clear()


@dataclass
class Command:
    """The command as a process of its own, with these variables."""

    variables: dict[str, str]

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        variables = options.pop("variables", {})
        pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            cwd=ROOT,
            env={**environment(), "COLUMNS": "220", **self.variables, **variables},
            **{**pipes, "stderr": asyncio.subprocess.PIPE, **options},
        )

    async def run(self, *arguments: str, **variables: str) -> Said:
        process = await self.start(*arguments, variables=variables)
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())

    async def at_terminal(self, *arguments: str, typed: str = "", **variables: str) -> tuple[int, str]:
        """Run the command on a terminal, type something, and return its exit code and what was on it."""
        master, slave = pty.openpty()
        variables = {"TERM": "xterm-256color", **variables}
        pipes = {"stdin": slave, "stdout": slave, "stderr": slave}
        process = await self.start(*arguments, variables=variables, **pipes)
        os.close(slave)
        os.write(master, typed.encode())
        shown = await asyncio.to_thread(_read_all, master)
        return await asyncio.wait_for(process.wait(), PATIENCE_SECONDS), shown


@dataclass
class Stage(Command):
    """The orchestrator, who is called by it, and the command that operates it."""

    participants: Participants
    address: str
    key_file: Path
    gateway: Connection
    process: ChildProcess
    settings: dict[str, str]

    async def restart(self, *, killed: bool) -> None:
        """Let the orchestrator go, in order or not, and come back."""
        if killed:
            self.process.kill()
        else:
            await self.process.stop(PATIENCE_SECONDS)
        self.process.start(self.settings)
        await wait_until_ready(self.process, grpc_probe(self.address))

    async def place(self) -> sagas_pb2.PlaceOrderResponse:
        """Begin a place_order saga."""
        request = sagas_pb2.PlaceOrderRequest(
            user_id=str(USER.user_id),
            idempotency_key=str(new_id()),
            items=[OrderItem(sku="MUG", quantity=1)],
            currency_code="EUR",
            address_id=str(new_id()),
            payment_method_id=str(new_id()),
            wait=Duration(seconds=0),
        )
        stub = sagas_pb2_grpc.OrderSagasStub(self.gateway.channel)
        reply: sagas_pb2.PlaceOrderResponse = await self.gateway.call(
            stub.PlaceOrder,  # type: ignore[arg-type]
            request,
            timeout_seconds=CALL_SECONDS,
            user=USER,
        )
        return reply

    async def refund(self) -> sagas_pb2.RefundOrderResponse:
        """Begin a refund_order saga that takes units back."""
        request = sagas_pb2.RefundOrderRequest(
            order_id=str(new_id()),
            idempotency_key=str(new_id()),
            reason="broken",
            lines=[RefundLine(sku="MUG", quantity=1)],
            restock=True,
            wait=Duration(seconds=0),
        )
        stub = sagas_pb2_grpc.OrderSagasStub(self.gateway.channel)
        reply: sagas_pb2.RefundOrderResponse = await self.gateway.call(
            stub.RefundOrder,  # type: ignore[arg-type]
            request,
            timeout_seconds=CALL_SECONDS,
            user=STAFF,
        )
        return reply

    def hold(self, name: str) -> None:
        self.participants.holds[name] = asyncio.Event()

    async def asked_for(self, name: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while name not in self.participants.seen:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.005)

    async def until(self, saga_id: str, *states: str) -> dict[str, Any]:
        """Wait until a saga is in one of these states, as the command shows it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                shown = (await self.sagas("show", saga_id, "--json")).json["saga"]
                if shown["state"] in states:
                    return dict(shown)

    async def sagas(self, *arguments: str, **variables: str) -> Said:
        """Run `sagacity sagas ...` as a process of its own."""
        return await self.run("sagas", *arguments, **variables)

    async def on_terminal(self, *arguments: str, typed: str = "", **variables: str) -> tuple[int, str]:
        """Run `sagacity sagas ...` on a terminal."""
        return await self.at_terminal("sagas", *arguments, typed=typed, **variables)


@dataclass
class Deployment(Command):
    """What `make run` starts, with a real Kafka where there can be one, and the command beside it."""

    suite: Suite
    producer: AIOKafkaProducer

    async def publish(self, user_id: str, sequence: int, kind: str = "UserRegistered") -> None:
        """Put an event of a user on the topic, past the service whose fact it would be."""
        row = {
            "id": new_id(),
            "type": f"sagacity.users.v1.{kind}",
            "occurred_at": datetime(2026, 11, 21, 12, sequence // 60, sequence % 60, tzinfo=UTC),
            "aggregatetype": "user",
            "aggregateid": user_id,
            "sequence": sequence,
            "payload": getattr(users_events, kind)(user_id=user_id).SerializeToString(),
            "traceparent": None,
        }
        await self.producer.send_and_wait(USERS_TOPIC, **to_message(row, source=USERS_TOPIC))

    async def poison(self, user_id: str = "") -> str:
        """Publish a user's events, of which orders cannot apply the second; returns the aggregate."""
        user_id = user_id or f"nobody-{new_id()}"
        await self.publish(user_id, 1)
        await self.publish(user_id, 2, "UserDeactivated")
        await self.publish(user_id, 3)
        aggregate = f"{USERS_TOPIC}/user/{user_id}"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(await self.letters(aggregate)) < 2:
                pass
        return aggregate

    async def lag(self, consumer: str = CONSUMER) -> dict[str, Any]:
        """How far a consumer is, as the command shows it."""
        said = await self.run("events", "lag", "--context", consumer.partition(".")[0], "--json")
        assert said.code == 0, said.err
        consumers = said.json["contexts"][0]["consumers"]
        found: dict[str, Any] = next(each for each in consumers if each["consumer"] == consumer)
        return found

    async def caught_up(self, consumer: str = CONSUMER) -> dict[str, Any]:
        """Wait until a consumer is at the end; what is shown of it then."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await self.lag(consumer)
                if found["partitions"] and not any(each["lag"] for each in found["partitions"]):
                    return found

    async def letters(self, aggregate: str) -> list[dict[str, Any]]:
        """The dead letters of an aggregate, as the command lists them."""
        said = await self.run(
            *("events", "dead-letters", "list", "--context", "orders", "--json"),
            *("--aggregate", aggregate, "--limit", "1000"),
        )
        assert said.code == 0, said.err
        found: list[dict[str, Any]] = said.json["dead_letters"]
        return found


def _read_all(master: int) -> str:
    found = b""
    try:
        while chunk := os.read(master, 65_536):
            found += chunk
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
    return found.decode()


@pytest.fixture(scope="package")
async def whole_stage(
    new_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    pairs = {name: new_key_pair(name) for name in ("orchestrator", "gateway", "operator")}
    for name, (private, _) in pairs.items():
        (folder / f"{name}.pem").write_text(private)
    (folder / "keys.json").write_text(json.dumps({"keys": [public for _, public in pairs.values()]}))
    participants = Participants()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((participants,))
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    address = f"{LOOPBACK}:{free_port()}"
    contexts = ("USERS", "INVENTORY", "PAYMENTS", "ORDERS")
    process = ChildProcess("orchestrator", "orchestrator", folder / "orchestrator.log", ROOT)
    settings = {
        **{f"SAGACITY_{name}_ADDRESS": f"{LOOPBACK}:{port}" for name in contexts},
        "SAGACITY_ORCHESTRATOR_LISTEN": address,
        "SAGACITY_ORCHESTRATOR_DATABASE_DSN": new_database("orchestrator"),
        "SAGACITY_ORCHESTRATOR_IDENTITY_KEY_FILE": str(folder / "orchestrator.pem"),
        "SAGACITY_IDENTITY_KEYS_FILE": str(folder / "keys.json"),
        "SAGACITY_ORCHESTRATOR_LEASE_SECONDS": "1",
    }
    process.start(settings)
    await wait_until_ready(process, grpc_probe(address))
    gateway = Connection(address, ServiceIdentity("gateway", pairs["gateway"][0]))
    try:
        variables = {
            "SAGACITY_ORCHESTRATOR_ADDRESS": address,
            "SAGACITY_OPERATOR_IDENTITY_KEY_FILE": str(folder / "operator.pem"),
        }
        yield Stage(variables, participants, address, folder / "operator.pem", gateway, process, settings)
    finally:
        participants.reset()
        await gateway.close()
        process.kill()
        await server.stop(None)


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    whole_stage.participants.reset()
    return whole_stage


@pytest.fixture(scope="package")
async def whole_deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    kafka = MAVEN if maven_works() else EMBEDDED
    suite = Suite(tmp_path_factory.mktemp("suite"), kafka=kafka, jars=JARS, fsync=False, sample_data=False)
    await suite.start()
    try:
        variables = {
            **{f"SAGACITY_{name.upper()}_ADDRESS": suite.address(name) for name in CONTEXTS},
            "SAGACITY_DATA_DIR": str(suite.data_dir),
            "SAGACITY_KAFKA_BOOTSTRAP_SERVERS": "",
        }
        async with AIOKafkaProducer(bootstrap_servers=suite.broker.bootstrap_servers) as producer:
            yield Deployment(variables, suite, producer)
    finally:
        await suite.abort()


@pytest.fixture
def deployment(whole_deployment: Deployment) -> Deployment:
    return whole_deployment


@pytest.fixture
async def clean_deployment(deployment: Deployment) -> Deployment:
    """The suite without dead letters of other tests: a new one, where any are left."""
    assert (await deployment.run("events", "dead-letters", "list", "--json")).json["dead_letters"] == []
    return deployment
