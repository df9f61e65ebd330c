"""The release before this one, and a suite that begins with it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.upgrades.previous_release import Release, unpack
from tests.upgrades.rollout import Rollout, released_suite


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release before this one, unpacked."""
    return unpack(tmp_path_factory.mktemp("previous-release"))


@pytest.fixture(scope="session", autouse=True)
async def left_behind() -> None:
    """Collect the event loop that pytest-asyncio makes before its own and does not close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
async def rollout(
    previous: Release, tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path
) -> AsyncIterator[Rollout]:
    """A suite of the release before this one, on its schema and a Kafka of its own, with its customers."""
    async with released_suite(tmp_path_factory.mktemp("released-suite"), kafka_jars, previous) as opened:
        yield opened
