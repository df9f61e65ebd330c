"""Known bugs, planted: a simulation that does not find each of them proves nothing.

Each is a subclass or a patch that lasts as long as the context; the engine has no switch for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from typing_extensions import override

from chassis.errors import Fault, FaultKind
from orchestrator import calling
from orchestrator.entries import Call, Entry, Event, Result, State
from orchestrator.executor import Executor, Run
from orchestrator.progress import Progress
from orchestrator.saga import Operation, Outcome, Step, classify
from tests.simulation.domain import RPCS
from tests.simulation.memory_journal import MemoryJournal
from tests.simulation.memory_rows import Row
from tests.simulation.memory_store import MemoryStore
from tests.simulation.seeds import run_seed
from tests.simulation.simulation import Parts, Report

# So many seeds find each of them.
SEEDS_FOR_A_BUG = 500


@contextmanager
def time_out_as_failure() -> Iterator[Parts]:
    def hasty(fault: Fault) -> Outcome:
        return Outcome.REFUSED if fault.kind is FaultKind.DEADLINE_EXCEEDED else classify(fault)

    with patch.object(calling, "classify", hasty):
        yield Parts()


class _NoEpoch(MemoryStore):
    @override
    def matches(self, row: Row, entry: Entry) -> bool:
        return row.sequence == entry.sequence


class _LooksFirst(MemoryJournal):
    @override
    async def _commit(self, entry: Entry) -> bool:
        row = self.store.sagas[entry.saga_id]
        if not await self._link.ask(lambda: self.store.matches(row, entry)):
            return False
        await self._link.ask(lambda: self.store.apply(row, entry, self.replica))
        return True


class _Eager(Executor):
    @override
    async def _step(self, run: Run, progress: Progress) -> Entry | None:
        entry = await super()._step(run, progress)
        if entry is not None and progress.state is State.COMPENSATING:
            await self._caller.call_all(progress, None)
        return entry


@contextmanager
def new_key_at_retry() -> Iterator[Parts]:
    pending = Progress.pending

    def renamed(progress: Progress) -> list[Call]:
        return [call if call.attempt == 1 else _renamed(call) for call in pending(progress)]

    with patch.object(Progress, "pending", renamed):
        yield Parts()


def _renamed(call: Call) -> Call:
    request: Any = RPCS[call.action.method][0].FromString(call.request)
    if "saga_step" not in request.DESCRIPTOR.fields_by_name:
        return call
    request.saga_step.step = f"{call.step}-{call.attempt}"
    return call._replace(request=request.SerializeToString(deterministic=True))


@contextmanager
def deadline_after_the_pivots_intent() -> Iterator[Parts]:
    go_forward = Progress._go_forward

    def impatient(progress: Progress, results: list[Result], *, deadline_passed: bool) -> list[Event]:
        intended = progress.pivot_intended
        if deadline_passed:
            progress.pivot_intended = False
        events = go_forward(progress, results, deadline_passed=deadline_passed)
        progress.pivot_intended = progress.pivot_intended or intended
        return events

    with patch.object(Progress, "_go_forward", impatient):
        yield Parts()


@contextmanager
def undo_skipped_for_an_unrecorded_refusal() -> Iterator[Parts]:
    with _undone_only(lambda outcome: outcome is not Outcome.REFUSED):
        yield Parts()


@contextmanager
def undo_skipped_for_an_unknown_outcome() -> Iterator[Parts]:
    with _undone_only(lambda outcome: outcome is Outcome.DONE):
        yield Parts()


def _undone_only(fits: Callable[[Outcome | None], bool]) -> AbstractContextManager[Any]:
    needs_undo = Progress._needs_undo

    def careless(progress: Progress, step: Step) -> bool:
        done = progress._halves.get((step.name, Operation.DO))
        return needs_undo(progress, step) and done is not None and fits(done.outcome)

    return patch.object(Progress, "_needs_undo", careless)


class _ForgetsItsOwn(MemoryStore):
    @override
    def claimable(self, row: Row, replica: str, in_memory: Any) -> bool:
        return row.owner != replica and super().claimable(row, replica, in_memory)


class _InsertsAnyway(MemoryStore):
    @override
    def write(self, entry: Entry, by: str) -> bool:
        row = self.sagas.get(entry.saga_id)
        if row is not None and not self.matches(row, entry):
            for number, event in enumerate(entry.events, start=entry.sequence + 1):
                row.events.setdefault(number, event)
        return super().write(entry, by)


class _KeepsTheEpoch(MemoryStore):
    @override
    def claim(self, replica: str, in_memory: Any, **choice: Any) -> list[Any]:
        claimed = super().claim(replica, in_memory, **choice)
        for saga_id in claimed:
            self.sagas[saga_id].epoch -= 1
        return claimed


def _parts(parts: Parts) -> Callable[[], AbstractContextManager[Parts]]:
    @contextmanager
    def plant() -> Iterator[Parts]:
        yield parts

    return plant


PLANTED: dict[str, Callable[[], AbstractContextManager[Parts]]] = {
    "time-out as failure": time_out_as_failure,
    "missing epoch check": _parts(Parts(store=_NoEpoch)),
    "epoch checked in another statement": _parts(Parts(journal=_LooksFirst)),
    "undo before its intent": _parts(Parts(executor=_Eager)),
    "retry with a new key": new_key_at_retry,
    "deadline after the pivot's intent": deadline_after_the_pivots_intent,
    "undo skipped for an unrecorded refusal": undo_skipped_for_an_unrecorded_refusal,
    "undo skipped for an unknown outcome": undo_skipped_for_an_unknown_outcome,
    "own sagas not in memory never swept": _parts(Parts(store=_ForgetsItsOwn)),
    "events of fenced updates": _parts(Parts(store=_InsertsAnyway)),
    "a claim that keeps the epoch": _parts(Parts(store=_KeepsTheEpoch)),
}


def first_found(name: str) -> Report | None:
    """The report of the first seed that finds a planted bug, replayed; None where SEEDS_FOR_A_BUG do not."""
    with PLANTED[name]() as parts:
        for seed in range(SEEDS_FOR_A_BUG):
            report = run_seed(seed, parts)
            if report.violations:
                again = run_seed(seed, parts)
                return report if again.violations == report.violations else None
    return None
