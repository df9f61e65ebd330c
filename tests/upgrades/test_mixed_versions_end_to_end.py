"""The release before and this code at once, on one set of databases and topics, under load (F23).

One suite goes all the way: it begins with the release before, on the schema of that.
"""

from __future__ import annotations

import json

import pytest

from tests.e2e.invariants import prove_everything
from tests.e2e.live_watch import watched
from tests.upgrades.previous_release import PACKAGES, Release, check_that_it_runs, this_code
from tests.upgrades.rollout import ORCHESTRATORS, ROLLBACK_ORDER, SERVICES, Rollout
from tests.upgrades.shopping import shopping

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FIRST, SECOND = ORCHESTRATORS
WHERE_ALL_CAME_FROM = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name + '.__main__')
own = ('chassis', 'services', 'orchestrator', 'gateway', 'sagacity', 'deploy')
print(json.dumps([m.__file__ for n, m in sys.modules.items()
                  if n.partition('.')[0] in own and getattr(m, '__file__', None)]))
"""


def test_a_process_of_the_release_before_runs_its_code_and_none_of_this(previous: Release) -> None:
    files = json.loads(previous.run("-c", WHERE_ALL_CAME_FROM, *PACKAGES, "gateway"))
    assert len(files) > 100
    assert [file for file in files if not file.startswith(f"{previous.folder}/")] == []


@pytest.mark.kafka
async def test_old_and_new_processes_serve_together_and_take_over_from_each_other(rollout: Rollout) -> None:
    """P5, P8, P9, P11, F1, F23: in every mixture orders go on, and nothing is lost or there twice."""
    suite, previous = rollout.suite, rollout.previous
    for name in suite.names:
        check_that_it_runs(suite.process(name), previous)
    async with watched(suite) as watch, shopping(rollout.market) as shop:
        await shop.goes_on()
        await rollout.migrate()
        await shop.goes_on()  # the old code, on the new schema
        await suite.stop_process(FIRST)
        new = await rollout.started_replica(FIRST, this_code())
        # Sagas in flight change hands in both directions.
        assert await rollout.kill_with_sagas_in_flight(SECOND, new) > 0
        await shop.goes_on()  # the new orchestrator, and old services
        old = await rollout.started_replica(SECOND, previous)
        assert await rollout.kill_with_sagas_in_flight(FIRST, old) > 0
        # Now the new consumers of users read what the old relay of orders publishes, and the reverse.
        await rollout.to_new("users")
        await shop.goes_on()
        for name in SERVICES[1:]:
            await rollout.to_new(name)
        await shop.goes_on()  # the old orchestrator, and new services
        await rollout.start(FIRST, this_code())
        await rollout.to_new(SECOND)
        await shop.goes_on()  # the old gateway, and all else new
        await rollout.to_new("gateway")
    assert watch.looks > 0
    assert watch.broken == []
    await prove_everything(suite, rollout.market.journal)
    await rollout.check_sagas(this_code())


@pytest.mark.kafka
async def test_the_code_goes_back_to_the_release_before_and_the_schema_stays(rollout: Rollout) -> None:
    """P9, F22, F23: one process after another, while orders go on."""
    suite = rollout.suite
    await rollout.migrate()
    for name in suite.names:
        if suite.process(name).folder == rollout.previous.folder:
            await rollout.to_new(name)
    async with watched(suite) as watch, shopping(rollout.market) as shop:
        for name in ROLLBACK_ORDER:
            await rollout.to_old(name)
        await shop.goes_on()
    assert watch.looks > 0
    assert watch.broken == []
    await prove_everything(suite, rollout.market.journal)
    await rollout.check_sagas(rollout.previous)
