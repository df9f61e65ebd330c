"""One stack of containers for all tests of this folder, and its customers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests import docker_engine
from tests.compose.figures import Figures
from tests.compose.stack import Stack, prepare_images
from tests.e2e.shoppers import Market


@pytest.fixture(scope="package")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The containers, up; gone at the end with all that they kept."""
    if not docker_engine.answers():
        pytest.fail("these tests run containers: no Docker engine answers", pytrace=False)
    await asyncio.to_thread(prepare_images)
    started = Stack(tmp_path_factory.mktemp("stack"))
    try:
        await asyncio.to_thread(started.up)
        with started.names():
            yield started
    finally:
        await asyncio.to_thread(started.down, volumes=True)


@pytest.fixture(scope="package")
async def market(stack: Stack) -> AsyncIterator[Market]:
    """The stack with its customers and its admin."""
    async with Market(stack) as opened:  # type: ignore[arg-type] # what they use of a suite, it has
        yield opened


@pytest.fixture(scope="package")
def figures() -> AsyncIterator[Figures]:
    """What was measured; written to the file that SAGACITY_COMPOSE_JSON names."""
    measured = Figures()
    yield measured
    measured.write()
