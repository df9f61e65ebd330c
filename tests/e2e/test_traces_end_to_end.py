"""One order is one trace: real processes, real Kafka, and a collector that keeps every span."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest

from chassis.ids import new_id
from chassis.tracing import ENDPOINT
from deploy.local.kafka import ApacheKafka
from deploy.local.sample_data import ADDRESS
from deploy.local.suite import DRAIN_SECONDS, EMBEDDED, MAVEN, Suite
from orchestrator.sagas.place_order import PLACE_ORDER
from tests.conftest import JARS, maven_works
from tests.e2e.books import received_from_kafka, rows
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import PASSWORD, Market
from tests.e2e.traces import CLIENTS_SPAN, REQUEST, Traced, missing, named, way_to
from tests.trace_collector import Seen, collecting

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REPLICA, OTHER = "orchestrator", "orchestrator-2"
LEASE = {"SAGACITY_ORCHESTRATOR_LEASE_SECONDS": "1"}
# Long enough that an order is under way when its orchestrator is killed.
SLOW = {"SAGACITY_PAYMENTS_SIMULATED_SLOW_SECONDS": "3"}
EXPORT_EVERY = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
CANCEL = "POST /api/v1/orders/{order_id}/cancellation"
REFUND = "POST /api/v1/orders/{order_id}/refunds"
CLOSE = "DELETE /api/v1/users/me"
SENDERS = frozenset({"sagacity-orders", "sagacity-inventory", "sagacity-payments"})
STEPS = {step.name: step for group in PLACE_ORDER.groups for step in group}
# What tells of stock that an order took low and its undo brought back, and the RPC that did it.
LEVELS = {
    "sagacity.inventory.v1.StockLow": "Reserve",
    "sagacity.inventory.v1.StockBack": "ReleaseReservation",
}


def children(spans: Iterable[Seen], parent: Seen) -> list[Seen]:
    return [span for span in spans if span.parent_id == parent.span_id]


def paths(steps: Iterable[str], *, undone: bool = False) -> set[str]:
    """The RPCs of steps, or of their undos."""
    actions = [STEPS[name].undo if undone else STEPS[name].do for name in steps]
    return {action.path[1:] for action in actions if action is not None}


def last_sent(spans: Iterable[Seen]) -> dict[str, Seen]:
    """The last sending of each type of event."""
    return {str(span.attributes["sagacity.event.type"]): span for span in spans if span.kind == "producer"}


def statements(spans: Iterable[Seen]) -> set[tuple[str, str]]:
    return {(span.process, span.name) for span in spans if "db.system.name" in span.attributes}


@pytest.fixture(scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    async with collecting() as collector:
        everywhere = {ENDPOINT: collector.endpoint, **EXPORT_EVERY}
        suite = Suite(
            tmp_path_factory.mktemp("traces"),
            kafka=MAVEN if maven_works() else EMBEDDED,
            jars=JARS,
            orchestrators=2,
            standby={OTHER},
            overrides={"*": everywhere, REPLICA: LEASE, OTHER: LEASE, "payments": SLOW},
            log_format="json",
            fsync=False,
            sample_data=False,
        )
        await suite.start()
        try:
            assert not maven_works() or isinstance(suite.broker, ApacheKafka)
            async with Market(suite) as market:
                yield Traced(market, collector)
        finally:
            await suite.abort()


async def test_an_order_is_one_connected_trace_from_the_request_to_the_consumers(traced: Traced) -> None:
    sku = await traced.market.product(5)
    shopper, trace_id = await traced.shopper("tok_success")
    answer = await shopper.place({sku: 2})
    assert answer.status == 201, answer
    spans = await traced.whole(trace_id)

    (request,) = [span for span in spans if span.parent_id == CLIENTS_SPAN]
    assert (request.process, request.kind, request.name) == (
        "sagacity-gateway",
        "server",
        REQUEST,
    )
    assert request.attributes["http.response.status_code"] == 201
    assert not any(span.failed for span in spans)
    assert all(span.parent_id for span in spans)

    rpcs = paths(STEPS) | {"sagacity.sagas.v1.OrderSagas/PlaceOrder"}
    servers = {span.name: span for span in spans if span.kind == "server" and span is not request}
    assert rpcs <= servers.keys()
    by_id = {span.span_id: span for span in spans}
    for server in servers.values():
        caller = by_id[server.parent_id]
        assert (caller.kind, caller.name) == ("client", server.name)
        assert caller.process != server.process

    (saga,) = named(spans, "internal", "saga place_order")
    assert saga.attributes["sagacity.order.id"] == answer.order_id
    assert by_id[saga.parent_id] is servers["sagacity.sagas.v1.OrderSagas/PlaceOrder"]
    steps = {span.name for span in children(spans, saga) if "sagacity.step" in span.attributes}
    assert steps == {f"{name} do" for name in STEPS}
    journal = {("sagacity-orchestrator", name) for name in ("accept", "write_entries")}
    assert journal <= statements(spans)


async def test_every_fact_of_an_order_is_sent_and_consumed_in_its_trace(traced: Traced) -> None:
    sku = await traced.market.product(5)
    shopper, trace_id = await traced.shopper("tok_success")
    assert (await shopper.place({sku: 1})).status == 201
    spans = await traced.whole(trace_id, SENDERS)
    by_id = {span.span_id: span for span in spans}

    sent = [span for span in spans if span.kind == "producer"]
    assert {span.process for span in sent} == SENDERS
    for span in sent:
        assert by_id[span.parent_id].kind == "server"
        assert by_id[span.parent_id].process == span.process
    consumed_elsewhere = [
        span for span in spans if span.kind == "consumer" and by_id[span.parent_id].process != span.process
    ]
    assert {span.process for span in consumed_elsewhere} == {"sagacity-users"}
    for span in consumed_elsewhere:
        producer = by_id[span.parent_id]
        assert producer.kind == "producer"
        assert span.attributes["messaging.message.id"] == producer.attributes["messaging.message.id"]
        assert statements(children(spans, span))
    assert {process for process, _ in statements(spans)} == {
        f"sagacity-{name}" for name in ("orchestrator", "users", "orders", "inventory", "payments")
    }


async def test_a_declined_order_and_what_undoes_it_are_one_trace(traced: Traced) -> None:
    sku = await traced.market.product(5)
    shopper, trace_id = await traced.shopper("tok_declined")
    assert (await shopper.place({sku: 2})).status == 402
    spans = await traced.whole(trace_id)
    servers = {span.name: span for span in spans if span.kind == "server"}
    assert paths(["order", "reservation"], undone=True) <= servers.keys()
    (charge,) = [servers[name] for name in paths(["payment"])]
    assert charge.attributes["sagacity.reason"] == "CARD_DECLINED"
    assert not charge.failed
    (saga,) = named(spans, "internal", "saga place_order")
    assert saga.attributes["sagacity.saga.state"] == "COMPENSATED"


async def test_stock_that_an_order_took_low_and_its_undo_brought_back_is_told_of_in_its_trace(
    traced: Traced,
) -> None:
    sku = await traced.market.product(5, low_below=4)
    shopper, trace_id = await traced.shopper("tok_declined")
    assert (await shopper.place({sku: 2})).status == 402

    async def spans() -> list[Seen]:
        return traced.collector.of_trace(trace_id)

    def told(seen: list[Seen]) -> bool:
        return LEVELS.keys() <= last_sent(seen).keys() and not missing(seen)

    seen = await eventually(spans, until=told)
    published = last_sent(seen)
    for level, rpc in LEVELS.items():
        *_, begun, sending = way_to(published[level], seen)
        assert begun == ("sagacity-inventory", f"sagacity.inventory.v1.Inventory/{rpc}")
        assert sending == ("sagacity-inventory", "send sagacity.inventory.v1")
    # Nobody in the suite hears of them; whoever does goes on with the span of the sending.
    received = await received_from_kafka(traced.market.suite)
    handed_on = {event.type: event.traceparent for event in received if event.aggregate_id == sku}
    for level in LEVELS:
        assert handed_on[level] == f"00-{trace_id}-{published[level].span_id}-01"


@pytest.mark.parametrize(
    ("verb", "request_name", "senders"),
    [
        ("cancel", CANCEL, SENDERS),
        ("refund", REFUND, frozenset({"sagacity-orders", "sagacity-payments"})),
    ],
)
async def test_what_is_asked_of_a_sold_order_is_one_trace_of_its_own(
    traced: Traced, verb: str, request_name: str, senders: frozenset[str]
) -> None:
    shopper, order_id = await traced.sold()
    client = shopper if verb == "cancel" else await traced.market.clerk()
    trace_id = traced.follow(client)
    answer = await getattr(client, verb)(order_id)
    assert answer.status == 200, answer
    kind, rpc = f"{verb}_order", f"sagacity.sagas.v1.OrderSagas/{verb.title()}Order"
    spans = await traced.whole(trace_id, senders, request=request_name, kind=kind)
    assert not any(span.failed for span in spans)
    (saga,) = named(spans, "internal", f"saga {kind}")
    assert saga.attributes["sagacity.order.id"] == order_id
    assert way_to(saga, spans) == [
        ("sagacity-gateway", request_name),
        ("sagacity-gateway", rpc),
        ("sagacity-orchestrator", rpc),
        ("sagacity-orchestrator", f"saga {kind}"),
    ]


async def test_a_cancellation_that_follows_a_closed_account_is_in_the_trace_of_that(traced: Traced) -> None:
    shopper, order_id = await traced.sold()
    trace_id = traced.follow(shopper)
    await shopper.close_account()
    spans = await traced.whole(trace_id, SENDERS, request=CLOSE, kind="cancel_order")
    (saga,) = named(spans, "internal", "saga cancel_order")
    assert saga.attributes["sagacity.order.id"] == order_id
    rpc = "sagacity.sagas.v1.OrderSagas/CancelOrder"
    assert way_to(saga, spans) == [
        ("sagacity-gateway", CLOSE),
        ("sagacity-gateway", "sagacity.users.v1.Users/DeactivateUser"),
        ("sagacity-users", "sagacity.users.v1.Users/DeactivateUser"),
        ("sagacity-users", "send sagacity.users.v1"),
        ("sagacity-orders", "process sagacity.users.v1"),
        ("sagacity-orders", rpc),
        ("sagacity-orchestrator", rpc),
        ("sagacity-orchestrator", "saga cancel_order"),
    ]


async def test_a_malformed_traceparent_is_ignored(traced: Traced) -> None:
    sku = await traced.market.product(5)
    shopper = await traced.market.shopper()
    shopper.trace(f"00-{'0' * 32}-{CLIENTS_SPAN}-01")
    answer = await shopper.place({sku: 1})
    assert answer.status == 201

    async def saga() -> list[Seen]:
        named_so = named(traced.collector.spans, "internal", "saga place_order")
        return [span for span in named_so if span.attributes["sagacity.order.id"] == answer.order_id]

    (found,) = await eventually(saga)
    assert found.trace_id.strip("0")
    (request,) = named(await traced.whole(found.trace_id), "server", REQUEST)
    assert request.parent_id == ""


async def test_nothing_that_a_person_typed_is_in_a_span_or_a_log(traced: Traced) -> None:
    sku = await traced.market.product(5)
    shopper, trace_id = await traced.shopper("tok_success")
    answer = await shopper.place({sku: 1})
    assert answer.status == 201
    profile = await shopper.get("/users/me?canary-of-a-query=1")
    cancelled = await shopper.cancel(str(answer.order_id), reason="canary of a reason")
    assert cancelled.status == 200, cancelled
    await traced.whole(trace_id)
    await traced.whole(trace_id, request=CANCEL, kind="cancel_order")

    async def read() -> list[Seen]:
        return named(traced.collector.of_trace(trace_id), "server", "GET /api/v1/users/me")

    await eventually(read)

    canaries = [
        profile["email"],
        profile["display_name"],
        PASSWORD,
        "tok_success",
        "canary",
        "Bearer",
        *(ADDRESS[name] for name in ("recipient", "line1", "city")),
        traced.market.suite.password("admin"),
        f"/orders/{answer.order_id}",
    ]
    exported = b"".join(traced.collector.raw)
    logs = [traced.market.suite.logs / f"{name}.log" for name in traced.market.suite.standing]
    logged = b"".join(log.read_bytes() for log in logs)
    assert trace_id.encode() in exported.hex().encode()
    assert [each for each in canaries if each.encode() in exported] == []
    assert [each for each in canaries if each.encode() in logged] == []


async def test_polls_and_probes_make_no_traces(traced: Traced) -> None:
    async def roots() -> set[str]:
        return {span.name for span in traced.collector.spans if not span.parent_id}

    # There is traffic, and every root of it is a request, a call or an event.
    assert await eventually(roots)
    kinds = {span.kind for span in traced.collector.spans if not span.parent_id}
    assert kinds <= {"server", "consumer"}
    polls = {"GET /healthz", "GET /readyz", "grpc.health.v1.Health/Check", "advance_outbox", "renew_replica"}
    assert polls.isdisjoint(span.name for span in traced.collector.spans)


async def test_whoever_takes_a_saga_over_goes_on_with_its_trace(traced: Traced) -> None:
    suite = traced.market.suite
    sku = await traced.market.product(5)
    shopper, trace_id = await traced.shopper("tok_slow")
    answer = await shopper.place({sku: 1}, wait_seconds=0)
    assert answer.status == 202, answer

    async def charging() -> list[dict[str, Any]]:
        query = "SELECT id FROM saga WHERE key = %(key)s::uuid AND step = 'payment' AND state = 'RUNNING'"
        return await rows(suite.dsn("sagas"), query, key=answer.order_id)

    async def placed() -> list[Seen]:
        return named(traced.collector.of_trace(trace_id), "server", "sagacity.sagas.v1.OrderSagas/PlaceOrder")

    await eventually(charging)
    (request,) = await eventually(placed)
    suite.kill(REPLICA)
    suite.start_process(OTHER)
    await suite.wait_ready(OTHER)

    async def taken_over() -> list[Seen]:
        return named(traced.collector.of_trace(trace_id), "internal", "saga place_order")

    (saga,) = await eventually(taken_over)
    assert saga.instance != request.instance
    assert saga.parent_id == request.span_id
    assert saga.attributes["sagacity.saga.state"] == "COMPLETED"
    steps = {span.name for span in traced.collector.of_trace(trace_id) if span.parent_id == saga.span_id}
    assert {"payment do", "stock do", "confirmation do"} <= steps
    assert (await shopper.get(f"/orders/{answer.order_id}"))["state"] == "confirmed"


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
async def test_a_collector_in_trouble_harms_no_order_and_holds_no_stop_up(
    traced: Traced, trouble: str
) -> None:
    suite, collector = traced.market.suite, traced.collector
    sku = await traced.market.product(5)
    shopper = await traced.market.shopper()
    collector.refuses = grpc.StatusCode.INTERNAL if trouble == "refuses" else None
    collector.hangs = trouble == "hangs"
    collector.asked.clear()
    try:
        assert (await shopper.insist({sku: 1}, key=str(new_id()))).status == 201
        async with asyncio.timeout(DRAIN_SECONDS):
            await collector.asked.wait()
        assert await suite.process("inventory").stop(DRAIN_SECONDS)
    finally:
        collector.refuses, collector.hangs = None, False
        await suite.restart("inventory")

    async def the_gateway_has_seen_it() -> bool:
        try:
            return (await shopper.get(f"/products/{sku}"))["sku"] == sku
        except AssertionError:
            return False

    assert await eventually(the_gateway_has_seen_it)
    assert (await shopper.insist({sku: 1}, key=str(new_id()))).status == 201


async def test_without_a_collector_the_clients_trace_is_handed_on_as_it_is(market: Market) -> None:
    sku = await market.product(5)
    shopper = await market.shopper()
    given = f"00-{secrets.token_hex(16)}-{CLIENTS_SPAN}-00"
    shopper.trace(given)
    answer = await shopper.place({sku: 1})
    assert answer.status == 201
    query = "SELECT traceparent FROM saga WHERE key = %(key)s::uuid"
    assert await rows(market.suite.dsn("sagas"), query, key=answer.order_id) == [{"traceparent": given}]

    async def handed_on() -> set[str]:
        return {
            event.topic for event in await received_from_kafka(market.suite) if event.traceparent == given
        }

    contexts = {"sagacity.orders.v1", "sagacity.inventory.v1", "sagacity.payments.v1"}
    await eventually(handed_on, until=lambda topics: topics == contexts)
