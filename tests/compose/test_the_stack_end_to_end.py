"""deploy/compose.yaml for real: every test of this file runs on the same containers, in this order."""

from __future__ import annotations

import asyncio
import functools
import json
import re

import httpx2
import pytest

from deploy.local.programs import PROGRAMS
from tests.compose.figures import Figures
from tests.compose.stack import IMAGE, NEXT_TAG, PROCESSES, STANDING, TAG, Stack, base_image, inspect, run
from tests.compose.traffic import CONFIRMED, CUT_OFF, DECLINED, ENDS, SHOPPERS, STOCK, Seen, insist, shopping
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import Market

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

MAX_IMAGE_MB = 250
PAGE_SECONDS = 10
# A customer asks one thing at a time, so a gateway that goes away can cut each of them off once. All else
# on the way is to ask again: how often that is says how fast the machine is, and nothing of the promise.
MAX_CUT_OFF_PER_GATEWAY = SHOPPERS
GATEWAYS = ("gateway-1", "gateway-2")
# What an order goes through, and what it needs: each dies once while orders are placed.
VICTIMS = ("orchestrator-1", "payments", "gateway-1", "orders-database", "kafka")
READ_ONLY = """
import pathlib
for folder in ("/app", "/opt/sagacity", "/"):
    try:
        (pathlib.Path(folder) / "x").write_text("x")
    except OSError as error:
        print(type(error).__name__, error.errno)
"""
# All at once: where the host has no DNS, a name that nobody here has takes ten seconds.
FOUND = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def find(name):
    try:
        socket.create_connection((name, 5432), 3).close()
    except socket.gaierror:
        return
    print(name)
with ThreadPoolExecutor() as pool:
    list(pool.map(find, sys.argv[1:]))
"""
METRICS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=5).read().decode())
"""
DDL = """
import pathlib, sys, psycopg
with psycopg.connect(pathlib.Path(sys.argv[1]).read_text()) as connection:
    try:
        connection.execute("CREATE TABLE mine (id int)")
        print("made")
    except psycopg.errors.InsufficientPrivilege:
        print("refused")
"""


def check_seen(seen: Seen) -> None:
    """Whatever was done, every order had an end that its customer was told, within INSIST_SECONDS."""
    assert seen.orders.keys() <= ENDS, seen.orders
    assert seen.orders[CONFIRMED] > 0
    assert seen.orders[DECLINED] > 0


def tell(figures: Figures, what: str, seen: Seen) -> None:
    figures.tell(
        what,
        {
            "seconds": round(seen.seconds),
            "longest order, seconds": round(seen.longest_seconds),
            "confirmed": seen.orders[CONFIRMED],
            "declined": seen.orders[DECLINED],
            "answers on the way": dict(seen.on_the_way.most_common()),
        },
    )


def test_the_image_is_small_and_has_no_root_and_no_pip(stack: Stack, figures: Figures) -> None:
    ours, base = inspect("image", IMAGE), inspect("image", base_image())
    megabytes = (ours["Size"] - base["Size"]) / 1e6
    figures.tell("image over its base, MB", round(megabytes))
    assert 0 < megabytes < MAX_IMAGE_MB
    assert ours["Config"]["User"] == "10001:10001"
    assert ours["Config"]["StopSignal"] == "SIGTERM"
    assert ours["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert stack.execute(
        "users", "python", "-c", "import importlib.util as u; print(u.find_spec('pip'))"
    ) == ("None\n")
    assert stack.execute("users", "id", "-u") == "10001\n"


def test_the_image_holds_what_runs_and_nothing_else(stack: Stack) -> None:
    assert stack.execute("users", "ls", "/app").split() == [
        "chassis",
        "cli",
        "gateway",
        "orchestrator",
        "protos",
        "services",
    ]
    assert stack.execute("users", "ls", "/app/protos") == "gen\n"


def test_a_container_cannot_write_to_its_own_root(stack: Stack) -> None:
    said = stack.execute("orders", "python", "-c", READ_ONLY)
    assert said.splitlines() == ["OSError 30"] * 3


def test_one_image_has_all_commands() -> None:
    said = run(["docker", "run", "--rm", "--read-only", "--network", "none", IMAGE])
    assert "Usage: sagacity" in said
    for program in PROGRAMS:
        # Without its settings it ends with a sentence: so far it got.
        command = ["docker", "run", "--rm", "--read-only", "--network", "none", IMAGE]
        with pytest.raises(AssertionError, match=r"SAGACITY_[A-Z_]+ is not set"):
            run([*command, "python", "-m", program.module])


def test_the_documentation_of_the_api_is_served_with_its_scripts(stack: Stack) -> None:
    for path in (
        "/docs",
        "/openapi.json",
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
    ):
        page = httpx2.get(f"{stack.gateway_url}{path}", timeout=PAGE_SECONDS, trust_env=False)
        assert (page.status_code, len(page.content) > 100) == (200, True), path


def test_nobody_but_its_service_finds_a_database(stack: Stack) -> None:
    databases = [name for name in STANDING if name.endswith("-database")]
    for service in ("gateway-1", "users", "orders", "payments", "inventory", "orchestrator-1"):
        own = {"gateway-1": [], "orchestrator-1": ["sagas-database"]}.get(service, [f"{service}-database"])
        assert stack.execute(service, "python", "-c", FOUND, *databases).splitlines() == own


def test_a_service_cannot_change_its_schema(stack: Stack) -> None:
    for service, database in (("users", "users"), ("orders", "orders"), ("orchestrator-1", "sagas")):
        said = stack.execute(service, "python", "-c", DDL, f"/run/secrets/{database}_service-dsn")
        assert said == "refused\n"


def test_only_the_proxy_answers_on_the_host_and_on_the_loopback(stack: Stack) -> None:
    published = {
        name: inspect("container", stack.container(name))["NetworkSettings"]["Ports"] for name in STANDING
    }
    bound = {name: [b for many in ports.values() if many for b in many] for name, ports in published.items()}
    assert {name: binding for name, binding in bound.items() if binding} == {
        "proxy": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]
    }


async def test_an_order_is_confirmed_and_one_with_a_declined_card_is_undone(
    stack: Stack, market: Market
) -> None:
    sku = await market.product(stock=10)
    bought = await insist(await market.shopper("tok_success"), sku)
    declined = await insist(await market.shopper("tok_declined"), sku)
    assert (bought.status, declined.status) == (CONFIRMED, DECLINED)
    assert declined.json["code"] == "CARD_DECLINED"
    assert await market.stock(sku) == (9, 0)
    await prove_everything(stack, market.journal)  # type: ignore[arg-type]


async def test_both_gateways_and_both_orchestrators_take_part(stack: Stack, market: Market) -> None:
    async def placed() -> int:
        return len(market.journal.intents)

    sku = await market.product(stock=STOCK)
    async with shopping(market, sku) as seen:
        await eventually(placed, until=lambda number: number >= 40)
    check_seen(seen)
    for name, metric in (
        ("gateway-1", r'http_server_requests_total\{.*http_route="[^"]*/orders"'),
        ("gateway-2", r'http_server_requests_total\{.*http_route="[^"]*/orders"'),
        ("orchestrator-1", "saga_started_total"),
        ("orchestrator-2", "saga_started_total"),
    ):
        assert metric_total(stack, name, metric) > 0, name


def metric_total(stack: Stack, service: str, pattern: str) -> float:
    """Return the sum of the samples that begin with `pattern`, as the process tells them."""
    lines = stack.execute(service, "python", "-c", METRICS).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))


async def test_whatever_is_killed_comes_back_and_every_order_ends(
    stack: Stack, market: Market, figures: Figures
) -> None:
    sku = await market.product(stock=STOCK)
    async with shopping(market, sku) as seen:
        for victim in VICTIMS:
            before = await asyncio.to_thread(stack.state, victim)
            await asyncio.to_thread(stack.crash, victim)
            await stack.healthy(victim, restarts=before["RestartCount"] + 1)
    tell(figures, "killed: " + ", ".join(VICTIMS), seen)
    check_seen(seen)
    killed = [name for name in VICTIMS if name in GATEWAYS]
    assert seen.on_the_way[CUT_OFF] <= MAX_CUT_OFF_PER_GATEWAY * len(killed)
    await prove_everything(stack, market.journal)  # type: ignore[arg-type]


async def test_every_container_is_rolled_under_load_and_every_order_ends(
    stack: Stack, market: Market, figures: Figures
) -> None:
    sku = await market.product(stock=STOCK)
    before = {name: await asyncio.to_thread(stack.container, name) for name in STANDING}
    async with shopping(market, sku) as seen:
        await asyncio.to_thread(stack.roll, NEXT_TAG)
        for name in STANDING:
            if name not in PROCESSES:
                await asyncio.to_thread(stack.up, name, recreate=True)
    tell(figures, f"rolled: {len(STANDING)} containers, one after another", seen)
    for name in STANDING:
        now = await asyncio.to_thread(stack.container, name)
        assert now != before[name]
        if name in PROCESSES:
            assert inspect("container", now)["Config"]["Image"] == f"sagacity:{NEXT_TAG}"
    check_seen(seen)
    assert seen.on_the_way[CUT_OFF] <= MAX_CUT_OFF_PER_GATEWAY * len(GATEWAYS)
    await prove_everything(stack, market.journal)  # type: ignore[arg-type]


async def test_the_way_back_is_rolled_under_load_and_every_order_ends(
    stack: Stack, market: Market, figures: Figures
) -> None:
    sku = await market.product(stock=STOCK)
    before = {name: await asyncio.to_thread(stack.container, name) for name in STANDING}
    async with shopping(market, sku) as seen:
        await asyncio.to_thread(functools.partial(stack.roll, TAG, back=True))
    tell(figures, f"rolled back: {len(PROCESSES)} containers, one after another", seen)
    for name in STANDING:
        now = await asyncio.to_thread(stack.container, name)
        assert (now != before[name]) == (name in PROCESSES), name
        if name in PROCESSES:
            assert inspect("container", now)["Config"]["Image"] == IMAGE
    check_seen(seen)
    assert seen.on_the_way[CUT_OFF] <= MAX_CUT_OFF_PER_GATEWAY * len(GATEWAYS)
    await prove_everything(stack, market.journal)  # type: ignore[arg-type]


async def test_down_keeps_the_data_and_up_brings_it_back(stack: Stack, market: Market) -> None:
    await asyncio.to_thread(stack.down, volumes=False)
    assert await asyncio.to_thread(stack.compose, "ps", "--all", "--quiet") == ""
    await asyncio.to_thread(stack.up)
    await prove_everything(stack, market.journal)  # type: ignore[arg-type]
    buyer = next(intent for intent in market.journal.intents if intent.answers[-1].status == CONFIRMED)
    (order_id,) = buyer.order_ids
    ask = "import json, psycopg, pathlib, sys; c = psycopg.connect(pathlib.Path(sys.argv[1]).read_text()); "
    ask += "print(json.dumps(c.execute('SELECT state FROM orders WHERE id = %s', [sys.argv[2]]).fetchone()))"
    said = await asyncio.to_thread(
        stack.execute, "orders", "python", "-c", ask, "/run/secrets/orders_service-dsn", order_id
    )
    assert json.loads(said) == ["CONFIRMED"]
