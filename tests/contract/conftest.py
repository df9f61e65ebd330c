"""The fixtures of the contract suite: each test runs on PostgreSQL and on the simulation's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.contract.logs import Logs, opened

BOTH = [pytest.param("postgres", marks=pytest.mark.integration), "memory"]


@pytest.fixture(params=BOTH)
async def logs(request: Any, new_database: Callable[..., str]) -> AsyncIterator[Logs]:
    async with opened(request.param, lambda: new_database("orchestrator")) as made:
        yield made
