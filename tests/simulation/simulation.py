"""One simulation: replicas of the real engine, a journal and participants in memory, decided by a seed."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chassis.errors import Fault, FaultKind
from orchestrator.entries import INTENDED, OPEN_STATES, State
from orchestrator.executor import Executor
from orchestrator.leases import Leases
from orchestrator.operations import Operations
from tests.simulation.checks import Checker
from tests.simulation.definitions import AFTER_PIVOT, DEFINITIONS, PIVOTS
from tests.simulation.memory_journal import MemoryJournal
from tests.simulation.memory_rows import Change, NameOfSaga
from tests.simulation.memory_store import MemoryStore
from tests.simulation.network import Calls, Faults, Network, StoreLink
from tests.simulation.participants import Identity, World
from tests.simulation.virtual_loop import Host, VirtualLoop

LEASE_SECONDS = 3.0
START_RETRY_SECONDS = 0.3
# Some moment: what is stored has times, and ids tell theirs.
FIRST_MOMENT = 1_800_000_000.0


def seeded(seed: float) -> random.Random:
    """Chance that is the same each time."""
    return random.Random(seed)  # noqa: S311 - it must be foreseeable


@dataclass
class Parts:
    """What a planted bug replaces."""

    store: type[MemoryStore] = MemoryStore
    journal: type[MemoryJournal] = MemoryJournal
    executor: type[Executor] = Executor
    calls: type[Calls] = Calls


@dataclass
class Report:
    """What became of a seed."""

    seed: int
    violations: list[str]
    counts: Counter[str]
    seconds: float
    trace: list[tuple[Any, ...]] = field(default_factory=list)


class Replica:
    """A process that runs the engine."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.host = Host(name)
        self.name = name
        parts, rng = simulation.parts, seeded(simulation.chance.random())
        self.journal = parts.journal(
            simulation.store, name, StoreLink(simulation, name), drives=DEFINITIONS.names
        )
        self.executor = parts.executor(self.journal, parts.calls(simulation, name), DEFINITIONS, rng=rng)
        self.leases = Leases(self.journal, self.executor, lease_seconds=LEASE_SECONDS)
        self.operations = Operations(self.journal, self.executor, DEFINITIONS)
        self.serves = False
        self.dead = False
        self._simulation = simulation
        self.task = simulation.spawn(self._run(), self.host.context)
        self._leasing: asyncio.Task[None] | None = None

    @property
    def can_be_asked(self) -> bool:
        """Whether its door is open; a stopped process has an open door too, behind which nothing happens."""
        return self.serves and not self.dead

    async def _run(self) -> None:
        while True:
            try:
                await self.leases.renew()
                break
            except Fault:
                await asyncio.sleep(START_RETRY_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.executor.run())
            self._leasing = group.create_task(self.leases.run())
            self.serves = True

    async def stop(self) -> None:
        """As `orchestrator.__main__` drains: drop the sagas, hand them over, end the lease."""
        self.serves = False
        await self.executor.stop()
        handed_over = True
        try:
            await self.leases.hand_over()
        except Fault:
            self._simulation.count("hand-over failed")
            handed_over = False
        if self._leasing is not None:
            self._leasing.cancel()
            await asyncio.wait([self._leasing])
        if handed_over:
            self._simulation.checker.stopped(self.name)


class Simulation:
    """The state of one seed's world, and what parts of it may ask of it."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.seed = seed
        self.parts = parts
        self.chance = seeded(seed)
        self.loop = VirtualLoop(seeded(self.chance.random()))
        self.context = contextvars.Context()
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[Any, ...]] = []
        self.checker = Checker(self)
        self.store = parts.store(lambda: FIRST_MOMENT + self.loop.time(), self.checker.changed)
        self.world = World(self.count)
        self.network = Network(self, self.world)
        self.faults: Faults | None = Faults.drawn(self.chance)
        self.journal_away = False
        # Replicas that the journal does not hear.
        self.cut_off: set[str] = set()
        # Participants that are down: whether a caller is told so, or hears nothing.
        self.down: dict[str, bool] = {}
        self.replicas: list[Replica] = []
        self.acknowledged: list[tuple[NameOfSaga, UUID]] = []
        self.refused_hard: set[UUID] = set()
        self._ids = 0
        self.driver: dict[UUID, str] = {}
        self._replica_number = 0

    # --- what all parts use ---

    def count(self, branch: str) -> None:
        self.counts[branch] += 1

    def note(self, *what: Any) -> None:
        self.trace.append((self.loop.time(), *what))

    def later(self, delay: float, action: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Have the world, which no crash of a replica reaches, do something."""
        return self.loop.call_later(delay, action, *arguments, context=self.context)

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        return self.loop.create_task(coroutine, context=context or self.context)

    def new_id(self) -> UUID:
        """A UUIDv7 of this seed."""
        self._ids += 1
        milliseconds = int((FIRST_MOMENT + self.loop.time()) * 1000)
        return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | self.seed % 2**30 << 20 | self._ids)

    def begin_replica(self) -> Replica:
        self._replica_number += 1
        replica = Replica(self, f"replica-{self._replica_number}")
        self.replicas.append(replica)
        return replica

    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.can_be_asked]

    def journal_answers(self, replica: str) -> bool:
        """Whether a replica can reach the journal now."""
        return self.faults is None or not (self.journal_away or replica in self.cut_off)

    # --- what participants refuse ---

    def _step_of(self, identity: Identity) -> tuple[str, str]:
        row = self.store.sagas.get(identity.saga_id)
        return ("" if row is None else row.kind), identity.step

    def is_after_pivot(self, identity: Identity) -> bool:
        """Whether a step comes after its saga's pivot, so that its refusals are not recorded."""
        return self._step_of(identity) in AFTER_PIVOT

    def gate(self, identity: Identity | None) -> None:
        """A participant's door: what it refuses there, no barrier ever hears of."""
        if self.faults is None or self.chance.random() >= self.faults.gate:
            return
        pivot = identity is not None and self._step_of(identity) in PIVOTS
        if identity is not None and (pivot or identity.undo or self.is_after_pivot(identity)):
            self.refused_hard.add(identity.saga_id)
        self.count("unrecorded refusal")
        raise Fault(FaultKind.PERMISSION_DENIED, "AT_THE_DOOR", "not today")

    def refusal(self, identity: Identity | None) -> Fault | None:
        """What the domain says to a call that it has not answered yet; None: what the ledger says."""
        if self.faults is None:
            return None
        hard = identity is not None and (identity.undo or self.is_after_pivot(identity))
        if self.chance.random() >= (self.faults.refused_late if hard else self.faults.refused):
            return None
        if hard and identity is not None:
            self.refused_hard.add(identity.saga_id)
        return Fault(FaultKind.FAILED_PRECONDITION, "NOT_THIS_ONE", "the domain refuses")

    # --- what is counted of the commits ---

    def changed(self, change: Change) -> None:
        """Count what a commit was, and remember who drives the saga."""
        row, before = change.row, self.driver.get(change.row.id)
        self.note("commit", change.kind, change.by, row.id, row.epoch, row.sequence, row.state, change.events)
        self.count(branch_of(change, before))
        if change.kind in {"accepted", "claimed", "commanded"}:
            self.driver[row.id] = change.by
        for event in change.events:
            if event.operation == "unwind" and event.outcome == INTENDED:
                self.count(f"unwound for {event.detail.partition(':')[0]}")


def branch_of(change: Change, driver: str | None) -> str:
    """What a commit is counted as."""
    row = change.row
    match change.kind:
        case "claimed":
            return "own saga found again" if driver == change.by else "taken over"
        case "commanded":
            place = "while waiting" if row.state is State.WAITING else "before the pivot"
            return f"{change.events[0].operation} {'after the pivot' if row.pivot_intended else place}"
        case "accepted":
            return "saga has to wait" if row.state is State.WAITING else "saga accepted"
        case "written" if row.state not in OPEN_STATES:
            return f"{row.kind} {row.state}"
        case "written" if row.waiting_for:
            return "left memory" if change.events else "held back"
        case _:
            return change.kind
