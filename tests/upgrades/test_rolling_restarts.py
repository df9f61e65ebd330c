"""The full figure of P9: `make chaos` runs it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.invariants import prove_everything
from tests.e2e.live_watch import watched
from tests.upgrades.previous_release import Release
from tests.upgrades.rollout import ROLLBACK_ORDER, UPGRADE_ORDER, Rollout, released_suite
from tests.upgrades.shopping import RETRIABLE, shopping

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(7200)]

RESTARTS = 100


@pytest.fixture
async def rollout(
    previous: Release, tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path
) -> AsyncIterator[Rollout]:
    """A suite of the release before, whose databases have this schema."""
    async with released_suite(tmp_path_factory.mktemp("rolling-suite"), kafka_jars, previous) as opened:
        await opened.migrate()
        yield opened


async def test_a_hundred_restarts_under_load_from_release_to_release_lose_nothing(rollout: Rollout) -> None:
    """P9, F22, F23: up and back again and again, one process after another; clients only ask again."""
    upgrades = ((name, rollout.to_new) for name in UPGRADE_ORDER)
    rollbacks = ((name, rollout.to_old) for name in ROLLBACK_ORDER)
    restarts = itertools.islice(itertools.cycle((*upgrades, *rollbacks)), RESTARTS)
    async with watched(rollout.suite) as watch, shopping(rollout.market) as shop:
        for name, change in restarts:
            await change(name)
            await shop.goes_on()
    assert watch.broken == []
    answers = [answer.status for intent in rollout.market.journal.intents for answer in intent.answers]
    assert RETRIABLE & set(answers), "nobody noticed anything: nothing was restarted"
    await prove_everything(rollout.suite, rollout.market.journal)
