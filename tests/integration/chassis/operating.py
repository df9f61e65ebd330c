"""A context that is operated: EventOperator over gRPC, and who calls it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from chassis.consumer import Consumer, Consumers, ReceivedEvent
from chassis.errors import Fault
from chassis.event_operator import EVENT_OPERATOR_POLICIES, EventOperator
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.postgres import Database, Transaction
from chassis.projections import ProjectionState, ProjectionStatus
from sagacity.events.v1 import event_operator_pb2 as pb
from sagacity.events.v1 import event_operator_pb2_grpc
from tests.integration.chassis.consuming import PLACED, letters, record_effect, until

TIMEOUT_SECONDS = 30.0
PAIRS = {name: new_key_pair(name) for name in ("gateway", "operator", "orders")}
ADMIN = Caller("gateway", new_id(), "admin")
OUTBOX_TOPIC = "sagacity.test.v1"
ASKED = {"actor": "ops", "reason": "because"}


@dataclass
class Listing:
    """A projection whose generations are only counted."""

    name: str = "listing"
    generations: int = 1
    building: int | None = None
    moment: datetime = field(default_factory=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

    async def rebuild(self, tx: Transaction) -> ProjectionStatus:
        """Begin a generation."""
        self.building = self.building or self.generations + 1
        return await self.status(tx)

    async def status(self, source: Database | Transaction) -> ProjectionStatus:  # noqa: ARG002
        """Tell which."""
        state = ProjectionState.COPYING if self.building else ProjectionState.SERVING
        return ProjectionStatus(self.name, state, self.generations, self.building, 7, self.moment, None)


@dataclass
class World:
    """A context: its database, its consumers, and callers of its operator's surface."""

    database: Database
    consumers: Consumers
    consumer: Consumer
    connections: dict[str, Connection]
    broken: set[str]

    async def call(
        self, method: str, request: Any = None, *, by: str = "operator", user: Caller | None = None
    ) -> Any:
        """Call an RPC; without a request with an empty one."""
        stub = event_operator_pb2_grpc.EventOperatorStub(self.connections[by].channel)
        empty = getattr(pb, f"{method}Request")()
        return await self.connections[by].call(
            getattr(stub, method), request or empty, timeout_seconds=TIMEOUT_SECONDS, user=user
        )

    async def refusal(self, method: str, request: Any = None, **by: Any) -> Fault:
        """Return how an RPC is refused."""
        with pytest.raises(Fault) as caught:
            await self.call(method, request, **by)
        return caught.value


@asynccontextmanager
async def opened(database: Database, new_consumer: Any, bootstrap_servers: str) -> AsyncIterator[World]:
    """Serve a context whose handler fails for the aggregates that a test names in `broken`."""
    broken: set[str] = set()

    async def handler(tx: Transaction, event: ReceivedEvent) -> None:
        if event.aggregate_id in broken:
            raise ValueError("bad code")
        await record_effect(tx, event)

    consumers = Consumers()
    consumer = new_consumer(database, handler, registry=consumers)
    operator = EventOperator(
        database,
        topic=OUTBOX_TOPIC,
        consumers=consumers,
        kafka=KafkaCluster(bootstrap_servers),
        projections={"listing": Listing()},
    )
    async with served(operator) as connections:
        yield World(database, consumers, consumer, connections, broken)


@asynccontextmanager
async def served(operator: EventOperator) -> AsyncIterator[dict[str, Connection]]:
    """Serve it, and connect those who call."""
    server = build_server(
        domain="sagacity.test",
        policies=EVENT_OPERATOR_POLICIES,
        verifier=Verifier({"keys": [public for _, public in PAIRS.values()]}),
    )
    event_operator_pb2_grpc.add_EventOperatorServicer_to_server(operator, server.server)
    port = await server.start("127.0.0.1:0")
    connections = {
        name: Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pem)) for name, (pem, _) in PAIRS.items()
    }
    yield connections
    for connection in connections.values():
        await connection.close()
    await server.stop()


def aggregate(topic: str, key: str) -> str:
    """Return the name of an order among aggregates."""
    return f"{topic}/order/{key}"


async def until_parked(world: World, *expected: tuple[str, int]) -> None:
    """Wait until these are the dead letters."""

    async def done() -> bool:
        return await letters(world.database) == list(expected)

    await until(done)


async def park(world: World, count: int, topic: str, **changes: Any) -> list[str]:
    """Park two events of each of some keys, without Kafka."""
    keys = [f"key-{number:03}" for number in range(count)]
    for key in keys:
        values: dict[str, Any] = {
            "id": str(new_id()),
            "type": PLACED,
            "aggregate_type": "order",
            "aggregate_id": key,
            "payload": b"",
            "occurred_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "traceparent": None,
            "topic": topic,
            "partition": 0,
            "offset": 0,
        } | changes
        await world.consumer.inbox.park(ReceivedEvent(sequence=1, **values), "ValueError('bad code')")
        await world.consumer.inbox.apply([ReceivedEvent(sequence=2, **values)])
    world.consumers.add(world.consumer)
    return keys
