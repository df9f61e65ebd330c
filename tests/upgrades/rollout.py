"""A suite whose processes change from one release's code to the other's, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chassis.migrations import upgrade
from deploy.local.programs import PROGRAMS
from deploy.local.suite import MAVEN, Suite
from tests.chaos.market import LEASE, SLOW
from tests.chaos.replicas import driven_by, mid_call, replica_ids, taken_over
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Market
from tests.upgrades.previous_release import Release, check_that_it_runs, this_code

SERVICES = ("users", "inventory", "payments", "orders")
ORCHESTRATORS = ("orchestrator", "orchestrator-2")
# As docs/how-to/upgrade.md has it: who is called before who calls; the way back is the other way round.
UPGRADE_ORDER = (*SERVICES, *ORCHESTRATORS, "gateway")
ROLLBACK_ORDER = tuple(reversed(UPGRADE_ORDER))


@dataclass(frozen=True)
class Rollout:
    """A market whose suite began with the release before."""

    market: Market
    previous: Release

    @property
    def suite(self) -> Suite:
        """The suite."""
        return self.market.suite

    async def migrate(self) -> None:
        """Bring every database to the schema of this code, while whoever runs goes on."""
        for program in {program.database: program for program in PROGRAMS if program.database}.values():
            assert program.package
            assert program.database
            await asyncio.to_thread(upgrade, program.package, self.suite.dsn(program.database))

    async def to_new(self, name: str) -> None:
        """Stop the process `name` in an orderly way, and start it with this code."""
        await self._to(name, this_code())

    async def to_old(self, name: str) -> None:
        """Stop the process `name` in an orderly way, and start it with the code of the release before."""
        await self._to(name, self.previous)

    async def _to(self, name: str, release: Release) -> None:
        process = self.suite.process(name)
        await self.suite.stop_process(name)
        assert process.exit_code == 0, f"{name} did not stop by itself"
        await self.start(name, release)

    async def start(self, name: str, release: Release) -> None:
        """Start the process `name`, which does not run, with the code of `release`."""
        process = self.suite.process(name)
        process.folder = release.folder
        self.suite.start_process(name)
        await self.suite.wait_ready(name)
        check_that_it_runs(process, release)

    async def check_sagas(self, release: Release) -> None:
        """Run `sagacity sagas check` of a release; AssertionError with what it says where it fails."""
        where = ["--address", self.suite.address(ORCHESTRATORS[0])]
        key = ["--identity-key-file", str(self.suite.secrets.path("identity-operator.pem"))]
        await asyncio.to_thread(release.run, "-m", "cli", "sagas", "check", *where, *key)

    async def kill_with_sagas_in_flight(self, name: str, survivor: str) -> int:
        """End the orchestrator `name` within calls, see the other one take its sagas; return how many.

        Args:
            name: of the process.
            survivor: the other's id in the journal.
        """
        (replica,) = await eventually(lambda: self._others(survivor), until=lambda ids: len(ids) == 1)
        await eventually(lambda: mid_call(self.suite, replica, "payment"))
        self.suite.kill(name)
        left_behind = await driven_by(self.suite, replica)
        await taken_over(self.suite, left_behind)
        return len(left_behind)

    async def _others(self, survivor: str) -> list[str]:
        return [replica for replica in await replica_ids(self.suite) if replica != survivor]

    async def started_replica(self, name: str, release: Release) -> str:
        """Start an orchestrator that does not run; return its id in the journal."""
        known = set(await replica_ids(self.suite))
        await self.start(name, release)
        (mine,) = set(await replica_ids(self.suite)) - known
        return mine


@asynccontextmanager
async def released_suite(folder: Path, jars: Path, previous: Release) -> AsyncIterator[Rollout]:
    """A suite of the release before this one, on the schema of that, with a Kafka of its own."""
    suite = Suite(
        folder,
        kafka=MAVEN,
        jars=jars,
        orchestrators=2,
        overrides=dict.fromkeys(ORCHESTRATORS, LEASE) | {"payments": SLOW},
        fsync=False,
        sample_data=False,
        migrate=previous.migrate,
    )
    for name in suite.names:
        suite.process(name).folder = previous.folder
    await suite.start()
    try:
        async with Market(suite) as market:
            yield Rollout(market, previous)
    finally:
        await suite.abort()
