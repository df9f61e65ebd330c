"""After one confirmed order and one declined one every process shows exactly that, and nobody's data."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import httpx2
import pytest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from cli.capacity_model import POOL_MAX
from deploy.local.sample_data import ADDRESS
from deploy.local.suite import EMBEDDED, MAVEN, Suite
from deploy.prometheus.catalogue import load
from gateway.metrics import METHODS
from orchestrator.sagas.place_order import PLACE_ORDER
from tests.conftest import JARS, maven_works
from tests.e2e.books import select
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import PASSWORD, Market, Shopper
from tests.unit.deploy.promql_names import asked
from tests.unit.deploy.test_alerts import ALERTS, RULES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = load()
PROCESSES = ("gateway", "orchestrator", "users", "inventory", "payments", "orders")
WITH_OUTBOX = ("users", "inventory", "payments", "orders")
STEPS = {step.name: step for group in PLACE_ORDER.groups for step in group}
UNTIL_DECLINED = ("order", "customer", "reservation", "quote")
UNDONE = ("reservation", "order")
ORDERS = "/api/v1/orders"
WITHOUT_RELAYS = {
    "sagacity_outbox_slot_active",
    "sagacity_outbox_slot_behind_bytes",
    "sagacity_outbox_slot_stalled_seconds",
}
WITH_STANDBYS = {"sagacity_replication_slot_active", "sagacity_replication_slot_kept_bytes"}
CANARY = "canary-4711"
SECONDS = 10.0

Labels = frozenset[tuple[str, str]]


@dataclass
class Shown:
    """What the processes showed at one moment."""

    families: dict[str, list[Family]]
    samples: dict[tuple[str, str, Labels], float] = field(init=False)

    def __post_init__(self) -> None:
        self.samples = {
            (process, sample.name, frozenset(sample.labels.items())): sample.value
            for process, families in self.families.items()
            for family in families
            for sample in family.samples
        }

    def since(self, before: Shown) -> dict[tuple[str, str, Labels], float]:
        """What rose, and by how much."""
        rises = {key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()}
        return {key: rise for key, rise in rises.items() if rise}


def rose(rises: Mapping[tuple[str, str, Labels], float], process: str, name: str, *by: str) -> Counter[str]:
    """By how much a metric of a process rose, by the values of some labels, joined by a space."""
    found: Counter[str] = Counter()
    for (where, what, labels), rise in rises.items():
        if (where, what) == (process, name):
            found[" ".join(dict(labels)[label] for label in by)] += int(rise)
    return found


async def look(suite: Suite) -> Shown:
    async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        texts = {name: (await client.get(suite.metrics_url(name))).text for name in PROCESSES}
    return Shown({name: list(text_string_to_metric_families(text)) for name, text in texts.items()})


@dataclass
class Told:
    """A suite, what it showed before and after two orders, and the customers who placed them."""

    suite: Suite
    before: Shown
    after: Shown
    shoppers: list[Shopper]
    private: set[str]

    @property
    def rises(self) -> dict[tuple[str, str, Labels], float]:
        return self.after.since(self.before)


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    suite = Suite(
        tmp_path_factory.mktemp("metrics"),
        kafka=MAVEN if maven_works() else EMBEDDED,
        jars=JARS,
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    try:
        async with Market(suite) as market:
            yield await two_orders(market)
    finally:
        await suite.abort()


async def two_orders(market: Market) -> Told:
    suite = market.suite
    sku = await market.product(10)
    buyer, poor = await market.shopper("tok_success"), await market.shopper("tok_declined")
    await quiet(suite)
    before = await look(suite)
    bought = await buyer.place({sku: 2})
    assert bought.status == 201, bought
    refused = await poor.place({sku: 2})
    assert refused.status == 402, refused
    await strange_requests(suite)
    await quiet(suite)

    async def applied() -> Shown:
        return await look(suite)

    after = await eventually(applied, until=lambda shown: has_applied(shown.since(before)))
    private = {
        CANARY, PASSWORD, "tok_success", "tok_declined", sku, "example.com",
        buyer.user_id, poor.user_id, str(bought.order_id), str(refused.order_id),
        suite.password("admin"), *(value for value in ADDRESS.values() if len(value) > 3),
    }  # fmt: skip
    return Told(suite, before, after, [buyer, poor], private)


def has_applied(rises: Mapping[tuple[str, str, Labels], float]) -> bool:
    return rose(rises, "users", "sagacity_consumer_applied_total", "group").total() >= 4


async def quiet(suite: Suite) -> None:
    """Wait until the outboxes are empty: what is published was counted before."""

    async def waiting() -> int:
        counts = [await select(suite.dsn(name), "SELECT count(*) FROM outbox") for name in WITH_OUTBOX]
        return sum(int(count) for found in counts for count in found)

    await eventually(waiting, until=lambda events: events == 0)


async def strange_requests(suite: Suite) -> None:
    """Addresses, methods and headers that somebody made up."""
    async with httpx2.AsyncClient(base_url=suite.gateway_url, trust_env=False, timeout=SECONDS) as client:
        for path in (f"/{CANARY}", f"{ORDERS}/{CANARY}", f"/api/v1/products/{CANARY}?q={CANARY}"):
            answer = await client.get(
                path, headers={"X-Request-ID": CANARY, "Authorization": f"Bearer {CANARY}"}
            )
            assert answer.status_code in {400, 401, 404}
        # One that HTTP has and nobody here; what HTTP has not is refused before anything is counted.
        await client.request("PROPFIND", f"/{CANARY}")
        login = {"email": f"{CANARY}@example.com", "password": CANARY}
        assert (await client.post("/api/v1/sessions", json=login)).status_code == 401


def expected_calls() -> Counter[str]:
    """What the orchestrator asks for: `service method status`."""
    calls: Counter[str] = Counter()

    def add(path: str, code: str = "OK") -> None:
        service, _, method = path.removeprefix("/").partition("/")
        calls[f"{service} {method} {code}"] += 1

    for step in STEPS.values():
        add(step.do.path)
    for name in UNTIL_DECLINED:
        add(STEPS[name].do.path)
    add(STEPS["payment"].do.path, "FAILED_PRECONDITION")
    for name in UNDONE:
        undo = STEPS[name].undo
        assert undo is not None
        add(undo.path)
    return calls


async def test_a_process_may_open_as_many_connections_as_the_capacity_calculator_counts(told: Told) -> None:
    may_open: Counter[str] = Counter()
    for (process, name, _), value in told.after.samples.items():
        if name == "sagacity_pool_connections_max":
            may_open[process] += int(value)
    assert dict(may_open) == POOL_MAX


async def test_the_requests_are_counted_by_route_and_status(told: Told) -> None:
    by = ("http_method", "http_route", "http_status")
    requests = rose(told.rises, "gateway", "http_server_requests_total", *by)
    assert requests[f"POST {ORDERS} 201"] == 1
    assert requests[f"POST {ORDERS} 402"] == 1
    times = rose(told.rises, "gateway", "http_server_request_seconds_count", "http_method", "http_route")
    assert times[f"POST {ORDERS}"] == 2


async def test_every_rpc_of_the_two_orders_is_counted_by_who_called_and_by_who_answered(told: Told) -> None:
    by = ("grpc_service", "grpc_method", "grpc_code")
    called = rose(told.rises, "orchestrator", "grpc_client_handled_total", *by)
    assert called == expected_calls()
    answered: Counter[str] = Counter()
    for process in WITH_OUTBOX:
        answered += rose(told.rises, process, "grpc_server_handled_total", *by)
    assert {call: answered[call] for call in called} == dict(called)
    asked = rose(told.rises, "gateway", "grpc_client_handled_total", *by)
    sagas = {call: count for call, count in asked.items() if ".OrderSagas " in call}
    assert sagas == dict(rose(told.rises, "orchestrator", "grpc_server_handled_total", *by))
    assert sum(sagas.values()) >= 2


@pytest.mark.parametrize("side", ["server", "client"])
async def test_every_rpc_that_was_counted_was_timed(told: Told, side: str) -> None:
    by = ("grpc_service", "grpc_method")
    for process in PROCESSES:
        counted = rose(told.after.samples, process, f"grpc_{side}_handled_total", *by)
        timed = rose(told.after.samples, process, f"grpc_{side}_handling_seconds_count", *by)
        counted.pop("unknown unknown", None)  # nobody worked on it
        assert counted == timed


async def test_the_sagas_their_steps_and_the_provider_are_counted_by_outcome(told: Told) -> None:
    assert rose(told.rises, "orchestrator", "saga_started_total", "kind") == {"place_order": 2}
    finished = rose(told.rises, "orchestrator", "saga_finished_total", "kind", "outcome")
    assert finished == {"place_order COMPLETED": 1, "place_order COMPENSATED": 1}
    steps = rose(told.rises, "orchestrator", "saga_step_seconds_count", "step", "operation", "outcome")
    done = Counter(f"{name} do done" for name in (*STEPS, *UNTIL_DECLINED))
    undone = Counter(f"{name} undo done" for name in UNDONE)
    assert steps == done + undone + Counter({"payment do refused": 1})
    calls = rose(told.rises, "payments", "payments_provider_calls_total", "operation", "outcome")
    assert calls == {"authorise ok": 1, "authorise declined": 1}
    assert rose(told.rises, "payments", "payments_provider_seconds_count", "operation") == {"authorise": 2}


async def test_the_facts_are_counted_as_published_and_as_applied(told: Told) -> None:
    published: Counter[str] = Counter()
    for process in WITH_OUTBOX:
        published += rose(told.rises, process, "sagacity_relay_published_total", "topic")
    assert published == {
        "sagacity.orders.v1": 4,  # placed and confirmed, placed and rejected
        "sagacity.inventory.v1": 4,  # reserved and committed, reserved and released
        "sagacity.payments.v1": 2,  # charged, declined
    }
    applied = rose(told.rises, "users", "sagacity_consumer_applied_total", "group")
    assert applied == {"users.customer-statistics": 4}
    for process in ("users", "orders"):
        assert not rose(told.rises, process, "sagacity_consumer_parked_total", "group")


async def test_statements_and_pools_of_every_database_are_shown(told: Told) -> None:
    for process in ("orchestrator", *WITH_OUTBOX):
        assert rose(told.rises, process, "sagacity_statement_seconds_count", "statement").total() > 0
        pools = rose(told.after.samples, process, "sagacity_pool_connections", "pool")
        assert pools[process] >= 1
        limits = rose(told.after.samples, process, "sagacity_pool_connections_max", "pool")
        assert all(pools[pool] <= limits[pool] for pool in pools)
        assert not rose(told.rises, process, "sagacity_pool_timeouts_total", "pool")


async def test_what_an_alert_asks_for_has_a_value_before_anything_is_wrong(told: Told) -> None:
    asked_for = {selector.metric for rule in ALERTS.values() for selector in asked(rule["expr"]).selectors}
    metrics = [CATALOGUE[name] for name in asked_for if name in CATALOGUE]
    assert len(metrics) > 15
    filled = {(process, name) for process, name, _ in told.after.samples}
    wanted = {(process, metric.name) for metric in metrics for process in metric.processes}
    # A slot is watched in the place of a relay, and here relays publish; nor does anybody receive the log.
    assert {name for _, name in wanted - filled} == WITHOUT_RELAYS | WITH_STANDBYS


async def test_the_label_values_that_a_rule_asks_for_are_there_before_anything_is_wrong(told: Told) -> None:
    """For Prometheus a series that appears with its first failure never rose: that failure is not counted."""
    selectors = {
        selector for rule in RULES for selector in asked(rule["expr"]).selectors if selector.matchers
    }
    shown = {(name, labels) for _, name, labels in told.before.samples}
    ours = {each for each in selectors if each.metric.startswith(("http_", "saga", "payments_", "grpc_"))}
    missing = {
        each
        for each in ours
        if not any(each.metric == name and each.matches(dict(labels)) for name, labels in shown)
    }
    assert len(ours) > 5
    assert missing == set()


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_process_shows_every_metric_that_the_catalogue_says_it_does_and_no_other(
    told: Told, process: str
) -> None:
    families = told.after.families[process]
    shown = {name_of(family) for family in families}
    filled = {name_of(family) for family in families if family.samples}
    wanted = {name for name, metric in CATALOGUE.items() if process in metric.processes}
    assert wanted <= shown
    # What it only imports it may mention, with nothing in it.
    assert filled <= wanted


@pytest.mark.parametrize("process", PROCESSES)
async def test_what_a_metric_shows_has_the_type_and_the_labels_of_the_catalogue(
    told: Told, process: str
) -> None:
    for family in told.after.families[process]:
        metric = CATALOGUE[name_of(family)]
        assert family.type == metric.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


async def test_nobodys_data_and_no_secret_is_shown_by_any_process(told: Told) -> None:
    texts = {
        text
        for families in told.after.families.values()
        for family in families
        for text in (
            family.documentation,
            *(value for sample in family.samples for value in sample.labels.values()),
        )
    }
    assert len(texts) > 100
    leaked = {(secret, text) for secret in told.private for text in texts if secret.lower() in text.lower()}
    assert leaked == set()


async def test_what_somebody_made_up_is_counted_without_a_label_of_its_own(told: Told) -> None:
    by = ("http_method", "http_route")
    requests = rose(told.rises, "gateway", "http_server_requests_total", *by)
    assert requests["GET none"] == 1
    assert {key.split(" ")[0] for key in requests} <= METHODS | {"OTHER"}
    assert requests["OTHER none"] == 1


def name_of(family: Family) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)
