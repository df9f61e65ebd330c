"""`make load` for real: locust in its own venv, a few seconds against a suite."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from chassis.config import environment
from deploy.local.programs import ADMIN_EMAIL
from deploy.local.rest import Rest
from deploy.local.suite import Suite

# Making the venv the first time takes longer than the tests.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[3]
RUN_SECONDS = 120
END_SECONDS = 400
HOT_STOCK = 5


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("suite"), sample_data=False, fsync=False)
    await suite.start()
    try:
        yield suite
    finally:
        await suite.abort()


async def load(url: str, variables: Mapping[str, str], *, users: int = 12) -> tuple[int, str]:
    """Run it until each scenario has placed its orders."""
    arguments = f"--host {url} --users {users} --spawn-rate {users} --run-time {RUN_SECONDS}s --only-summary"
    process = await asyncio.create_subprocess_exec(
        *("make", "--silent", "load", f"ARGS={arguments}"),
        cwd=ROOT,
        env={**environment(), "SAGACITY_LOAD_ORDERS": "3", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), END_SECONDS)
    return process.returncode or 0, said.decode()


def admin(suite: Suite) -> dict[str, str]:
    return {
        "SAGACITY_LOAD_ADMIN_EMAIL": ADMIN_EMAIL,
        "SAGACITY_LOAD_ADMIN_PASSWORD": suite.password("admin"),
        "SAGACITY_LOAD_HOT_STOCK": str(HOT_STOCK),
    }


def check_that_all_scenarios_ran(code: int, said: str) -> None:
    """Every order has ended, some so and some so, and nothing was oversold."""
    assert code == 0, said
    for scenario in ("Checkout", "Declined", "HotSku"):
        assert f"POST /orders ({scenario})" in said
    counted = re.search(r"load: orders: \d+ \((.*)\); units of the hot SKU sold: (\d+) of (\d+)", said)
    assert counted, said
    assert "confirmed" in counted[1]
    assert "declined" in counted[1]
    assert int(counted[2]) <= int(counted[3]) == HOT_STOCK


async def test_one_order_of_each_scenario_ends_and_oversells_nothing(suite: Suite) -> None:
    one_of_each = {"SAGACITY_LOAD_ORDERS": "1"}
    check_that_all_scenarios_ran(*await load(suite.gateway_url, admin(suite) | one_of_each, users=4))


@pytest.mark.chaos
async def test_a_run_of_all_scenarios_ends_every_order_and_oversells_nothing(suite: Suite) -> None:
    check_that_all_scenarios_ran(*await load(suite.gateway_url, admin(suite)))


@pytest.mark.chaos
async def test_without_an_administrator_it_buys_what_is_there(suite: Suite) -> None:
    async with Rest(suite.gateway_url) as rest:
        await rest.log_in(ADMIN_EMAIL, suite.password("admin"))
        price = {"currency": "EUR", "amount_minor": 100}
        product = {"sku": "THERE", "name": "There", "description": "", "category": "", "unit_price": price}
        await rest.post("/products", product, key="there")
        stock = {"delta": 1_000, "reason": "delivered"}
        await rest.post("/products/THERE/stock-adjustments", stock, key="stock")
    code, said = await load(suite.gateway_url, {})
    assert code == 0, said
    assert "confirmed" in said


async def test_where_nobody_answers_it_fails_and_says_so() -> None:
    code, said = await load("http://127.0.0.1:1", {})
    assert code != 0
    assert "got no answer" in said


@pytest.mark.chaos
async def test_a_hot_stock_that_is_no_number_fails_the_run(suite: Suite) -> None:
    code, said = await load(suite.gateway_url, admin(suite) | {"SAGACITY_LOAD_HOT_STOCK": "many"})
    assert code != 0
    assert "SAGACITY_LOAD_HOT_STOCK must be 1 to 1000000" in said


@pytest.mark.chaos
async def test_a_wrong_password_of_the_administrator_fails_the_run(suite: Suite) -> None:
    variables = admin(suite) | {"SAGACITY_LOAD_ADMIN_PASSWORD": "not the password"}
    code, said = await load(suite.gateway_url, variables)
    assert code != 0
    assert "was answered with 401" in said


class Awkward(BaseHTTPRequestHandler):
    """A gateway whose tokens are refused after a few uses, behind a balancer that often finds it away.

    It sells an order at the seventh request under its key: a customer sends five, so it is asked again after
    the run.
    """

    uses_of_a_token = 3
    requests_until_sold = 7
    protocol_version = "HTTP/1.1"
    numbers = itertools.count()
    uses: ClassVar[Counter[str]] = Counter()
    requests: ClassVar[Counter[str]] = Counter()
    refused: ClassVar[Counter[str]] = Counter()
    sold: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        """Show a product."""
        products = [{"sku": sku, "available": 1_000 - self.sold.get(sku, 0)} for sku in ("A", "B")]
        of_one = [each for each in products if self.path.endswith(f"/{each['sku']}")]
        self.answer(200, of_one[0] if of_one else {"items": products})

    def do_POST(self) -> None:
        """Take an order in the end, and everything else at once."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/sessions"):
            self.answer(200, {"access_token": f"token-{next(self.numbers)}"})
        elif self.path.endswith("/orders"):
            self.order(str(self.headers["Idempotency-Key"]), body)
        else:
            self.answer(201, {"id": f"{next(self.numbers)}"})

    def order(self, key: str, body: dict[str, Any]) -> None:
        """Refuse a token that was used often; be away; sell."""
        token = str(self.headers["Authorization"])
        self.uses[token] += 1
        if self.uses[token] > self.uses_of_a_token:
            self.refused[key] += 1
            self.answer(401, {"code": "UNAUTHENTICATED"})
            return
        self.requests[key] += 1
        if self.requests[key] < self.requests_until_sold:
            self.answer(502, {"code": "GATEWAY_AWAY"}, {"Retry-After": "0"})
            return
        for item in body["items"]:
            self.sold[item["sku"]] = self.sold.get(item["sku"], 0) + item["quantity"]
        self.answer(201, {"id": key})

    def answer(self, status: int, body: object, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Send JSON."""
        payload = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


async def test_a_token_that_is_refused_and_a_gateway_that_is_away_are_no_failures() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Awkward) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            code, said = await load(
                f"http://127.0.0.1:{server.server_port} Checkout", {"SAGACITY_LOAD_ORDERS": "2"}, users=1
            )
        finally:
            server.shutdown()
            thread.join()
    assert code == 0, said
    assert Awkward.requests, said
    assert set(Awkward.requests.values()) == {Awkward.requests_until_sold}
    assert set(Awkward.refused) == set(Awkward.requests), "each order met a refused token"
    assert f"load: orders: {len(Awkward.requests)} ({len(Awkward.requests)} confirmed)" in said
