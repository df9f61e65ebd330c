"""Where the trace goes from RPC to RPC, into the outbox and out of it again, recorded or not."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typing_extensions import override

from chassis import tracing
from chassis.cloud_events import from_record
from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.grpc_server import Allow, build_server
from chassis.identity import ServiceIdentity, Verifier, new_key_pair
from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL
from chassis.postgres import statement
from chassis.relay import Relay
from chassis.telemetry import configure_logging
from chassis.trace_recording import CountingExporter, Recording
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from tests.integration.chassis.consuming import DDL

pytestmark = pytest.mark.integration

TRACE = "0af7651916cd43dd8448eb211c80319c"
GIVEN = f"00-{TRACE}-b7ad6b7169203331-01"
TIMEOUT_SECONDS = 20.0
DRAIN_SECONDS = 30.0
PRIVATE, PUBLIC = new_key_pair("gateway")
_ANSWER = statement("answer", "SELECT 42 AS answer")
_BROKEN = statement("broken", "SELECT 1 / %(zero)s::int AS never, 'canary@example.com' AS canary")


@dataclass
class Inventory(inventory_pb2_grpc.InventoryServicer):
    """Says in which trace it was called; breaks for the SKU that says so."""

    seen: list[str | None]

    @override
    async def GetStock(self, request: Any, context: Any) -> Any:
        self.seen.append(tracing.current())
        if request.sku == "BROKEN":
            raise RuntimeError("a bug")
        return inventory_pb2.GetStockResponse()


@dataclass
class World:
    """A server, and a connection to it."""

    seen: list[str | None]
    connection: Connection

    async def call(self, sku: str = "SKU-1") -> Any:
        rpc = inventory_pb2_grpc.InventoryStub(self.connection.channel).GetStock
        request = inventory_pb2.GetStockRequest(sku=sku)
        return await self.connection.call(
            rpc, request, timeout_seconds=TIMEOUT_SECONDS, request_id="request-1"
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    seen: list[str | None] = []
    policies = {"GetStock": Allow(frozenset({"gateway"}))}
    server = build_server(domain="test", policies=policies, verifier=Verifier({"keys": [PUBLIC]}))
    inventory_pb2_grpc.add_InventoryServicer_to_server(Inventory(seen), server.server)
    port = await server.start("127.0.0.1:0")
    connection = Connection(f"127.0.0.1:{port}", ServiceIdentity("gateway", PRIVATE))
    try:
        yield World(seen, connection)
    finally:
        await connection.close()
        await server.stop()


@pytest.fixture
def recorded() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.record_with(Recording(provider, CountingExporter(exporter)))
    yield exporter
    tracing.record_with(None)


def by_kind(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.kind.name.lower(): span for span in exporter.get_finished_spans()}


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def parent_id(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


async def test_a_call_hands_the_trace_on_though_nothing_is_recorded(world: World) -> None:
    with tracing.handed_on(GIVEN):
        await world.call()
    await world.call()
    assert world.seen == [GIVEN, None]


async def test_both_ends_of_a_call_have_a_span(world: World, recorded: InMemorySpanExporter) -> None:
    with tracing.handed_on(GIVEN):
        await world.call()
    spans = by_kind(recorded)
    client, server = spans["client"], spans["server"]
    assert client.name == server.name == "sagacity.inventory.v1.Inventory/GetStock"
    assert ids(client)[0] == ids(server)[0] == TRACE
    assert parent_id(server) == ids(client)[1]
    assert world.seen == [f"00-{TRACE}-{ids(server)[1]}-01"]


async def test_a_call_outside_of_a_trace_begins_one_at_its_server(
    world: World, recorded: InMemorySpanExporter
) -> None:
    await world.call()
    (span,) = recorded.get_finished_spans()
    assert span.kind.name == "SERVER"
    assert span.parent is None


async def test_the_line_about_a_bug_names_trace_span_and_request(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("inventory", "json")
    try:
        with tracing.handed_on(GIVEN), pytest.raises(Fault):
            await world.call("BROKEN")
    finally:
        structlog.reset_defaults()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "rpc_failed" in line]
    for expected in (f'"trace_id": "{TRACE}"', '"span_id": "b7ad6b7169203331"', '"request_id": "request-1"'):
        assert expected in line


async def test_a_statement_is_a_span_by_its_name_with_no_values(
    open_database: Any, recorded: InMemorySpanExporter
) -> None:
    database = await open_database()
    assert await database.fetch(_ANSWER, {}) == [{"answer": 42}]
    assert recorded.get_finished_spans() == ()
    with tracing.handed_on(GIVEN):
        await database.fetch(_ANSWER, {})
        async with database.transaction() as tx:
            await tx.fetch(_ANSWER, {})
        with pytest.raises(Exception, match="SQLSTATE 22012"):
            await database.fetch(_BROKEN, {"zero": 0})
    *good, bad = recorded.get_finished_spans()
    assert [span.name for span in good] == ["answer", "answer"]
    assert bad.attributes is not None
    assert bad.attributes["error.type"] == bad.attributes["db.response.status_code"] == "22012"
    assert "canary" not in bad.to_json()


@pytest.mark.parametrize("given", [GIVEN, None])
async def test_an_event_is_appended_with_the_trace_of_its_change(
    open_database: Any, publish: Any, rows: Any, given: str | None
) -> None:
    database = await open_database(OUTBOX_DDL)
    with tracing.handed_on(given):
        await publish(database, "order-1", 1)
    assert await rows(database, "SELECT traceparent FROM outbox") == [{"traceparent": given}]


@pytest.mark.kafka
async def test_an_event_has_a_span_of_its_sending_and_consumers_go_on_with_it(
    *,
    open_database: Any,
    publish: Any,
    running: Any,
    read_topic: Any,
    new_consumer: Any,
    topic: str,
    kafka_bootstrap_servers: str,
    recorded: InMemorySpanExporter,
) -> None:
    database = await open_database(OUTBOX_DDL + DDL)
    with tracing.handed_on(GIVEN):
        await publish(database, "order-1", 1)
    recorded.clear()
    relay = Relay(database, kafka=KafkaCluster(kafka_bootstrap_servers), topic=topic, owner="orders")
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    (record,) = await read_topic(topic, 1)
    (sent,) = recorded.get_finished_spans()
    assert (sent.name, sent.kind.name, parent_id(sent)) == (f"send {topic}", "PRODUCER", "b7ad6b7169203331")
    assert from_record(record).traceparent == f"00-{TRACE}-{ids(sent)[1]}-01"

    inside: list[tuple[str | None, Any]] = []

    async def handle(tx: Any, event: Any) -> None:
        await tx.fetch(_ANSWER, {})
        inside.append((tracing.current(), structlog.contextvars.get_contextvars().get("event_id")))

    recorded.clear()
    consumer = new_consumer(database, handle)
    async with running(consumer):
        assert await consumer.drain(DRAIN_SECONDS)
    spans = by_kind(recorded)
    assert spans["consumer"].name == f"process {topic}"
    assert parent_id(spans["consumer"]) == ids(sent)[1]
    assert parent_id(spans["client"]) == ids(spans["consumer"])[1]
    assert inside == [(f"00-{TRACE}-{ids(spans['consumer'])[1]}-01", from_record(record).id)]
    assert len(recorded.get_finished_spans()) == 2
