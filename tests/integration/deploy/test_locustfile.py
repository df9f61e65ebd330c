"""`make load` for real: locust in its own venv, a few seconds against a suite."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

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


async def load(url: str, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run it until each scenario has placed its orders."""
    arguments = f"--host {url} --users 12 --spawn-rate 12 --run-time {RUN_SECONDS}s --only-summary"
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


async def test_a_run_of_all_scenarios_ends_every_order_and_oversells_nothing(suite: Suite) -> None:
    code, said = await load(suite.gateway_url, admin(suite))
    assert code == 0, said
    for scenario in ("Checkout", "Declined", "HotSku"):
        assert f"POST /orders ({scenario})" in said
    counted = re.search(r"load: orders: \d+ \((.*)\); units of the hot SKU sold: (\d+) of (\d+)", said)
    assert counted, said
    assert "confirmed" in counted[1]
    assert "declined" in counted[1]
    assert int(counted[2]) <= int(counted[3]) == HOT_STOCK


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


async def test_a_hot_stock_that_is_no_number_fails_the_run(suite: Suite) -> None:
    code, said = await load(suite.gateway_url, admin(suite) | {"SAGACITY_LOAD_HOT_STOCK": "many"})
    assert code != 0
    assert "SAGACITY_LOAD_HOT_STOCK must be 1 to 1000000" in said


async def test_a_wrong_password_of_the_administrator_fails_the_run(suite: Suite) -> None:
    variables = admin(suite) | {"SAGACITY_LOAD_ADMIN_PASSWORD": "not the password"}
    code, said = await load(suite.gateway_url, variables)
    assert code != 0
    assert "was answered with 401" in said
