"""The full figures: `make chaos` runs them, and writes down what it saw (JSON=path writes it there, too)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.findings import Report
from tests.chaos.market import heal, replicated_market
from tests.conftest import ENVIRONMENT
from tests.e2e.live_watch import watched
from tests.e2e.shoppers import Market

JSON_FILE = "SAGACITY_CHAOS_JSON"
REPORT = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """What this run saw."""
    return pytestconfig.stash.setdefault(REPORT, Report())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(REPORT, None)
    if found is None:
        return
    terminalreporter.section("what the faults did")
    for line in found.table():
        terminalreporter.write_line(line)
    if file := ENVIRONMENT.get(JSON_FILE):
        found.write(Path(file))


@pytest.fixture(scope="module")
async def spare_market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    """A market with two orchestrators that stay, and some that a test may start and kill."""
    async with replicated_market(tmp_path_factory.mktemp("chaos-suite")) as opened:
        yield opened


@pytest.fixture
async def arena(spare_market: Market) -> AsyncIterator[Market]:
    """The market with everything healed, watched all the time."""
    await heal(spare_market.suite)
    async with watched(spare_market.suite) as watch:
        yield spare_market
    assert watch.looks > 0
    assert watch.broken == []
