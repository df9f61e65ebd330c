"""Drives sagas: calls the participants, journals what they said, goes on; unwinds in reverse where it must.

Everything here holds one replica's share of the sagas in memory. Correctness rests on the journal's fence
alone: a replica that lost a saga notices it at its next write, and the barrier absorbs the call that it may
have had in flight.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog

from chassis.crash_points import crash_point
from chassis.errors import Fault, FaultKind
from orchestrator.journal import Acceptance, Accepted, Journal, SagaRow, Standing, Written
from orchestrator.progress import INTENDED, OPEN_STATES, Call, Entry, Event, Progress, Result, State
from orchestrator.saga import Action, Outcome, Saga, classify

MAX_IN_FLIGHT = 1_000
BACKOFF_BASE_SECONDS = 0.05
BACKOFF_CAP_SECONDS = 30.0
# A saga that waits longer than this leaves memory, so that an outage does not fill the bound on sagas in
# flight.
STAY_IN_MEMORY_SECONDS = 1.0
POLL_FIRST_SECONDS = 0.05
POLL_CAP_SECONDS = 0.5
OVERLOAD_RETRY = timedelta(seconds=1)

log = structlog.get_logger(__name__)


class Participants(Protocol):
    """The other side of the calls."""

    async def call(self, action: Action, request: bytes) -> bytes:
        """Send the request's bytes and return the reply's; raises Fault, also for a time-out."""


@dataclass
class Run:
    """A saga in this replica's memory."""

    saga_id: UUID
    ended: asyncio.Future[Entry]
    deadline: float = 0.0
    progress: Progress | None = None
    task: asyncio.Task[None] | None = None


@dataclass
class Definitions:
    """The definitions that this code can drive, by kind and version."""

    sagas: Mapping[tuple[str, int], Saga[Any]]
    read_params: Callable[[Saga[Any], dict[str, Any]], Any] = field(
        default=lambda saga, data: saga.params(**data)
    )

    def progress(self, row: SagaRow) -> Progress | None:
        """Make the Progress of a stored saga, before its events; None where this code cannot load it."""
        definition = self.sagas.get((row.kind, row.version))
        if definition is None or definition.hash != row.definition_hash:
            return None
        refusal = dict(row.refusal) if row.refusal else None
        refused_step = str(refusal.pop("step")) if refusal else ""
        return Progress(
            definition=definition,
            saga_id=row.id,
            params=self.read_params(definition, row.context),
            state=row.state,
            epoch=row.epoch,
            sequence=row.sequence,
            pivot_intended=row.pivot_intended,
            attempts=row.attempts,
            refusal=Fault.from_json(refusal) if refusal else None,
            refused_step=refused_step,
        )


class Executor:
    """The sagas of one replica."""

    def __init__(self, journal: Journal, participants: Participants, definitions: Definitions) -> None:
        self._journal = journal
        self._participants = participants
        self._definitions = definitions
        self._runs: dict[UUID, Run] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - it spreads retries, it guards nothing

    @property
    def in_memory(self) -> list[UUID]:
        """Ids of the sagas that this replica holds."""
        return list(self._runs)

    @property
    def capacity(self) -> int:
        """How many more sagas this replica takes."""
        return MAX_IN_FLIGHT - len(self._runs)

    async def run(self) -> None:
        """Hold the sagas' tasks until `stop` is called."""
        async with asyncio.TaskGroup() as self._group:
            await self._stopping.wait()
            for run in list(self._runs.values()):
                if run.task is not None:
                    run.task.cancel()

    async def stop(self) -> None:
        """Drop every saga; the journal says where another replica goes on. Who waits is answered."""
        self._stopping.set()

    # --- beginning ---

    async def accept(self, definition: Saga[Any], params: Any, acceptance: Acceptance) -> Accepted:
        """Journal a saga under its key and drive it, or find the saga that has the key already.

        Raises:
            Fault: RESOURCE_EXHAUSTED with retry_after where too many sagas are in flight and the key is new;
            UNAVAILABLE where     the database is away.
        """
        if self.capacity <= 0 or self._stopping.is_set():
            known = await self._journal.find(acceptance)
            if known is not None:
                return known
            raise overloaded()
        progress = Progress(definition, acceptance.saga_id, params, State.RUNNING, epoch=1, sequence=0)
        events = progress.begin()
        progress.sequence = len(events)
        run = self._remember(acceptance.saga_id, progress, definition.deadline.total_seconds())
        try:
            accepted = await self._journal.accept(dataclasses.replace(acceptance, events=events))
        except BaseException:
            # The commit may have landed all the same: the sweep finds what carries our id and is not in
            # memory.
            self._forget(run)
            raise
        if accepted.fresh:
            self._start(run)
        else:
            self._forget(run)
        return accepted

    def resume(self, saga_id: UUID) -> None:
        """Drive a saga that this replica has just claimed."""
        if saga_id in self._runs or self._stopping.is_set():
            return
        run = self._remember(saga_id, None, 0.0)
        self._start(run)

    # --- waiting ---

    async def wait(self, saga_id: UUID, seconds: float) -> Standing:
        """Where a saga stands once it has ended, or after so many seconds; KeyError where there is none."""
        end = asyncio.get_running_loop().time() + seconds
        pause = POLL_FIRST_SECONDS
        while True:
            remaining = end - asyncio.get_running_loop().time()
            run = self._runs.get(saga_id)
            if run is not None and remaining > 0:
                await asyncio.wait([run.ended], timeout=remaining)
                if run.ended.done() and not run.ended.cancelled() and run.ended.result().answer is not None:
                    return Standing(run.ended.result().state, run.ended.result().answer)
                remaining = end - asyncio.get_running_loop().time()
            standing = await self._journal.standing(saga_id)
            over = standing.answer is not None or standing.state is State.PARKED
            if over or remaining <= 0 or self._stopping.is_set():
                return standing
            # Another replica drives it, or it backs off outside of memory.
            await asyncio.sleep(min(pause, remaining))
            pause = min(pause * 2, POLL_CAP_SECONDS)

    # --- driving ---

    def _remember(self, saga_id: UUID, progress: Progress | None, deadline_seconds: float) -> Run:
        loop = asyncio.get_running_loop()
        run = Run(saga_id, loop.create_future(), loop.time() + deadline_seconds, progress)
        self._runs[saga_id] = run
        return run

    def _forget(self, run: Run) -> None:
        self._runs.pop(run.saga_id, None)
        run.ended.cancel()

    def _start(self, run: Run) -> None:
        if self._group is None or self._stopping.is_set():
            self._forget(run)
            return
        run.task = self._group.create_task(self._drive_safely(run), name=f"saga-{run.saga_id}")

    async def _drive_safely(self, run: Run) -> None:
        try:
            await self._drive(run)
        except Fault as fault:
            log.warning("saga_dropped", saga_id=str(run.saga_id), reason=fault.reason, message=fault.message)
        except Exception:
            # A bug must not end the replica: the saga leaves memory, and the sweep takes it up again.
            log.exception("saga_dropped", saga_id=str(run.saga_id))
        finally:
            self._forget(run)

    async def _drive(self, run: Run) -> None:
        progress = run.progress or await self._load(run)
        while progress is not None and progress.state in OPEN_STATES:
            # Who is too late makes no further call forward: it would be charged only to be refunded.
            late = progress.may_still_unwind and self._deadline_passed(run)
            results = [] if late else await self._call_all(progress.pending())
            entry = self._absorb(progress, results, run)
            if entry is None:
                progress = await self._load(run)
                if progress is None:
                    return
                entry = progress.park("a step function failed; the log has the traceback")
            if await self._journal.write(entry) is Written.FENCED:
                log.info("saga_lost", saga_id=str(run.saga_id), epoch=entry.epoch)
                return
            if entry.state not in OPEN_STATES:
                run.ended.set_result(entry)
                return
            if entry.release:
                return
            if entry.delay_seconds:
                await asyncio.sleep(entry.delay_seconds)

    @staticmethod
    def _deadline_passed(run: Run) -> bool:
        return asyncio.get_running_loop().time() >= run.deadline

    def _absorb(self, progress: Progress, results: list[Result], run: Run) -> Entry | None:
        try:
            entry = progress.absorb(results, deadline_passed=self._deadline_passed(run))
        except Exception:
            log.exception("step_function_failed", saga_id=str(run.saga_id))
            return None
        if entry.attempts == 0 or entry.state not in OPEN_STATES:
            return entry
        delay = self._backoff(entry.attempts, results)
        return dataclasses.replace(entry, delay_seconds=delay, release=delay > STAY_IN_MEMORY_SECONDS)

    def _backoff(self, attempts: int, results: list[Result]) -> float:
        """Seconds of capped exponential backoff with full jitter (Brooker, AWS Architecture Blog, 2015)."""
        ceiling = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(attempts, 30))
        asked = [
            result.fault.retry_after.total_seconds()
            for result in results
            if result.fault is not None and result.fault.retry_after is not None
        ]
        return min(BACKOFF_CAP_SECONDS, max([self._random.uniform(0, ceiling), *asked]))

    async def _call_all(self, calls: list[Call]) -> list[Result]:
        if len(calls) == 1:
            return [await self._call(calls[0])]
        return list(await asyncio.gather(*(self._call(call) for call in calls)))

    async def _call(self, call: Call) -> Result:
        crash_point(f"executor.before_call.{call.step}.{call.operation}")
        try:
            reply = await self._participants.call(call.action, call.request)
        except Fault as fault:
            outcome = classify(fault)
            if fault.kind in {FaultKind.UNIMPLEMENTED, FaultKind.UNAUTHENTICATED, FaultKind.DATA_LOSS}:
                log.error(  # noqa: TRY400 - the fault says it all
                    "call_needs_attention", rpc=call.action.path, kind=fault.kind, reason=fault.reason
                )
            return Result(call, outcome, fault=fault)
        crash_point(f"executor.after_call.{call.step}.{call.operation}")
        return Result(call, Outcome.DONE, reply=reply)

    async def _load(self, run: Run) -> Progress | None:
        """Read a saga from the journal; None where it is not ours to drive, or does not load (parked)."""
        row, events = await self._journal.load(run.saga_id)
        if row.owner != self._journal.replica or row.state not in OPEN_STATES:
            return None
        progress = self._replayed(row, events)
        if progress is None:
            log.error("definition_missing", saga_id=str(row.id), kind=row.kind, version=row.version)
            await self._journal.write(unloadable(row))
            return None
        run.progress = progress
        run.deadline = asyncio.get_running_loop().time() + row.deadline_seconds
        return progress

    def _replayed(self, row: SagaRow, events: list[Event]) -> Progress | None:
        try:
            progress = self._definitions.progress(row)
            if progress is not None:
                for event in events:
                    progress.replay(event)
        except Exception:
            # Whatever this code cannot read, another try cannot either: a person is needed, not a loop.
            log.exception("saga_does_not_load", saga_id=str(row.id))
            return None
        return progress


def overloaded() -> Fault:
    """The refusal of a new saga while too many are in flight."""
    return Fault(
        FaultKind.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "too many orders are being worked on; try again shortly",
        retry_after=OVERLOAD_RETRY,
    )


def unloadable(row: SagaRow) -> Entry:
    """The entry that parks a saga whose definition this code does not have."""
    event = Event(
        "", "parked", 0, INTENDED, detail=f"no definition {row.kind} v{row.version} {row.definition_hash}"
    )
    return Entry(
        saga_id=row.id,
        epoch=row.epoch,
        sequence=row.sequence,
        state=State.PARKED,
        attempts=0,
        pivot_intended=row.pivot_intended,
        refusal=row.refusal,
        events=(event,),
    )
