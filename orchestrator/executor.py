"""Drives sagas: calls the participants, journals what they said, goes on; unwinds in reverse where it must.

Everything here holds one replica's share of the sagas in memory. Correctness rests on the journal's fence
alone: a replica that lost a saga notices it at its next write, and the barrier absorbs the call that it may
have had in flight.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from chassis import tracing
from chassis.barrier import BARRIER_HORIZON
from chassis.crash_points import crash_point
from chassis.errors import Fault
from orchestrator import metrics
from orchestrator.breaker import Breakers
from orchestrator.calling import Caller, Participants, backoff_seconds
from orchestrator.definitions import Definitions, unloadable
from orchestrator.entries import (
    OPEN_STATES,
    TERMINAL_STATES,
    Command,
    Entry,
    Event,
    Result,
    State,
    Verb,
)
from orchestrator.progress import Progress
from orchestrator.saga import Outcome, Saga
from orchestrator.saga_log import Acceptance, Accepted, SagaLog, SagaRow, Standing, Written, overloaded

MAX_IN_FLIGHT = 1_000
# A saga that waits longer than this leaves memory, so that an outage does not fill the bound on sagas in
# flight.
STAY_IN_MEMORY_SECONDS = 1.0
# One that is held back comes to look by itself so often; who closes the breaker wakes it earlier.
HELD_SECONDS = (5.0, 30.0)
POLL_FIRST_SECONDS = 0.05
POLL_CAP_SECONDS = 0.5
# Participants forget a saga after the barrier's horizon; before that a person has to look.
MAX_SAGA_AGE = BARRIER_HORIZON - timedelta(days=1)

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Run:
    """A saga in this replica's memory. Times are the event loop's."""

    saga_id: UUID
    ended: asyncio.Future[Entry]
    deadline: float = 0.0
    too_old_at: float = 0.0
    progress: Progress | None = None
    order_id: UUID | None = None
    traceparent: str | None = None
    request_id: str | None = None
    task: asyncio.Task[None] | None = None


class Executor:
    """The sagas of one replica."""

    def __init__(
        self,
        journal: SagaLog,
        participants: Participants,
        definitions: Definitions,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._journal = journal
        self._definitions = definitions
        self._random = rng or random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._breakers = Breakers(participants.probe, journal.wake, self._random)
        self._caller = Caller(participants, self._breakers)
        self._runs: dict[UUID, Run] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()

    @property
    def in_memory(self) -> list[UUID]:
        """Ids of the sagas that this replica holds."""
        return list(self._runs)

    @property
    def capacity(self) -> int:
        """How many more sagas this replica takes; none once it is told to stop."""
        return 0 if self._stopping.is_set() else MAX_IN_FLIGHT - len(self._runs)

    async def run(self) -> None:
        """Hold the sagas' tasks until `stop` is called."""
        async with asyncio.TaskGroup() as self._group:
            breakers = self._group.create_task(self._breakers.run(), name="breakers")
            await self._stopping.wait()
            breakers.cancel()
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
                UNAVAILABLE where the database is away.
        """
        known = await self._when_full(acceptance)
        if known is not None:
            return known
        progress = Progress(definition, acceptance.saga_id, params, State.RUNNING, epoch=1, sequence=0)
        events = progress.begin()
        progress.sequence = len(events)
        run = self._remember(acceptance.saga_id, progress, definition.deadline.total_seconds())
        run.order_id, run.traceparent = acceptance.key, acceptance.traceparent
        run.request_id = acceptance.request_id
        crash_point("journal.before_accept")
        try:
            accepted = await self._journal.accept(
                dataclasses.replace(
                    acceptance, events=events, step=progress.step, pivot_intended=progress.pivot_intended
                )
            )
        except BaseException:
            # The commit may have landed all the same: the sweep finds what carries our id and is not in
            # memory.
            self._forget(run)
            raise
        crash_point("journal.after_accept")
        if accepted.fresh:
            metrics.started(definition.kind)()
            self._start(run)
        else:
            self._forget(run)
        return accepted

    async def accept_behind(self, acceptance: Acceptance) -> Accepted:
        """Journal a saga on an order that others may be working on; it waits its turn.

        Raises:
            Fault: as `accept`; FAILED_PRECONDITION ORDER_BUSY behind a parked saga.
        """
        known = await self._when_full(acceptance)
        if known is not None:
            return known
        crash_point("journal.before_accept_behind")
        accepted = await self._journal.accept_behind(acceptance)
        crash_point("journal.after_accept_behind")
        if accepted.fresh:
            metrics.started(acceptance.kind)()
            if not accepted.waiting:
                self.resume(accepted.saga_id)
        return accepted

    async def _when_full(self, acceptance: Acceptance) -> Accepted | None:
        """What a key names already, where there is no room for more; replays are answered all the same."""
        if self.capacity > 0:
            return None
        known = await self._journal.find(acceptance)
        if known is None:
            raise overloaded()
        return known

    def resume(self, saga_id: UUID) -> None:
        """Drive a saga that this replica has just claimed."""
        if saga_id in self._runs or self._stopping.is_set():
            return
        self._start(self._remember(saga_id, None, 0.0))

    async def command(self, command: Command) -> bool:
        """Do what somebody asks of a saga, wherever it is driven; False where the verb does not fit it now.

        The saga is taken over by one conditional write, and driven on here. The old owner's next write
        matches nothing, and the barrier absorbs its call in flight.
        """
        crash_point("journal.before_command")
        epoch = await self._journal.command(command, owner=self._journal.replica)
        crash_point("journal.after_command")
        if epoch is None:
            return False
        old = self._runs.get(command.saga_id)
        if old is not None:
            self._forget(old)
            if old.task is not None:
                old.task.cancel()
        if command.verb is not Verb.PAUSE:
            self.resume(command.saga_id)
        return True

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
        now = loop.time()
        too_old_at = now + MAX_SAGA_AGE.total_seconds()
        run = Run(saga_id, loop.create_future(), now + deadline_seconds, too_old_at, progress)
        self._runs[saga_id] = run
        return run

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.saga_id) is run:
            del self._runs[run.saga_id]
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
            # A bug must not end the replica, nor keep it busy: the saga leaves memory, and is due again
            # later.
            log.exception("saga_dropped", saga_id=str(run.saga_id))
            await self._postpone(run)
        finally:
            self._forget(run)

    async def _postpone(self, run: Run) -> None:
        if run.progress is None:
            return
        seconds = backoff_seconds(self._random, run.progress.attempts + 1, [])
        try:
            await self._journal.postpone(
                run.saga_id, run.progress.epoch, max(seconds, STAY_IN_MEMORY_SECONDS)
            )
        except Fault as fault:
            log.warning("saga_not_postponed", saga_id=str(run.saga_id), reason=fault.reason)

    async def _drive(self, run: Run) -> None:
        progress = run.progress or await self._load(run)
        if progress is None:
            return
        # The task is the saga's own, and so are its context variables.
        structlog.contextvars.bind_contextvars(saga_id=str(run.saga_id), order_id=str(run.order_id))
        # Not that of whoever woke it, a sweep or an operator: that of the request that began it.
        structlog.contextvars.unbind_contextvars("request_id")
        if run.request_id is not None:
            structlog.contextvars.bind_contextvars(request_id=run.request_id)
        kind = progress.definition.kind
        with tracing.saga(
            kind, saga_id=run.saga_id, order_id=run.order_id, traceparent=run.traceparent
        ) as span:
            while (entry := await self._advance(run, progress)) is not None:
                if entry.state not in OPEN_STATES:
                    span.set("sagacity.saga.state", str(entry.state))
                    if entry.state is State.PARKED:
                        span.fail(str(entry.state))
                    self._end(run, progress, entry)
                    return
                if entry.release:
                    return
                if entry.delay_seconds:
                    await asyncio.sleep(entry.delay_seconds)

    async def _advance(self, run: Run, progress: Progress) -> Entry | None:
        """Take the next step and write it down; None where the saga is not ours any more."""
        entry = await self._step(run, progress)
        if entry is None:
            return None
        if await self._journal.write(entry) is Written.FENCED:
            log.info("saga_lost", saga_id=str(run.saga_id), epoch=entry.epoch)
            return None
        if entry.deadline_seconds is not None:
            run.deadline = asyncio.get_running_loop().time() + entry.deadline_seconds
        return entry

    async def _step(self, run: Run, progress: Progress) -> Entry | None:
        """Make the calls that are due, and say what to write; None where the saga cannot be read again."""
        now = asyncio.get_running_loop().time()
        if now >= run.too_old_at:
            return progress.park("it is so old that participants will soon forget what it did")
        # Who is too late makes no further call forward: it would be charged only to be refunded.
        late = progress.may_still_unwind and now >= run.deadline
        results: list[Result] = []
        if not late and not progress.must_unwind:
            remaining = run.deadline - now if progress.may_still_unwind else None
            results = await self._caller.call_all(progress, remaining)
        passed = asyncio.get_running_loop().time() >= run.deadline
        try:
            entry = progress.absorb(results, deadline_passed=passed)
        except Exception:
            log.exception("step_function_failed", saga_id=str(run.saga_id))
            reloaded = await self._load(run)
            return reloaded.park("a step function failed; the log has the traceback") if reloaded else None
        return self._scheduled(entry, results) if results and entry.state in OPEN_STATES else entry

    def _scheduled(self, entry: Entry, results: list[Result]) -> Entry:
        """Say when a saga goes on whose calls were held back, or whose outcome is unknown."""
        if entry.deadline_seconds is not None:
            return entry  # it turned back this very moment: what it waited for is of no use any more
        held = next((result for result in results if not result.sent), None)
        if held is not None:
            first, last = HELD_SECONDS
            waiting_for = held.call.action.participant
            delay = self._random.uniform(first, last if self._breakers.is_open(waiting_for) else 2 * first)
            return entry._replace(delay_seconds=delay, release=True, waiting_for=waiting_for)
        unknown = [result for result in results if result.outcome is Outcome.UNKNOWN]
        if not unknown or entry.attempts == 0:
            return entry
        delay = backoff_seconds(self._random, entry.attempts, unknown)
        if delay <= STAY_IN_MEMORY_SECONDS:
            return entry._replace(delay_seconds=delay)
        waiting_for = unknown[0].call.action.participant
        return entry._replace(delay_seconds=delay, release=True, waiting_for=waiting_for)

    def _end(self, run: Run, progress: Progress, entry: Entry) -> None:
        if entry.state in TERMINAL_STATES:
            metrics.finished(progress.definition.kind, entry.state)()
        else:
            log.error("saga_parked", saga_id=str(run.saga_id), error=entry.last_error)
        run.ended.set_result(entry)

    async def _load(self, run: Run) -> Progress | None:
        """Read a saga from the journal; None where it is not ours to drive, or does not load (parked)."""
        row, events = await self._journal.load(run.saga_id)
        if row.owner != self._journal.replica or row.state not in {*OPEN_STATES, State.WAITING}:
            return None
        progress = self._replayed(row, events)
        if progress is None:
            log.error("definition_missing", saga_id=str(row.id), kind=row.kind, version=row.version)
            await self._journal.write(unloadable(row))
            return None
        # One that waits for its order is driven only to be withdrawn.
        if row.state is State.WAITING and not progress.must_unwind:
            return None
        now = asyncio.get_running_loop().time()
        run.progress = progress
        run.order_id, run.traceparent, run.request_id = row.key, row.traceparent, row.request_id
        run.deadline = now + row.deadline_seconds
        run.too_old_at = now + MAX_SAGA_AGE.total_seconds() - row.age_seconds
        if row.deadline_seconds < 0 and not progress.may_still_unwind:
            log.error("saga_overdue", saga_id=str(row.id), state=row.state, error=row.last_error)
        return progress

    def _replayed(self, row: SagaRow, events: list[Event]) -> Progress | None:
        try:
            return self._definitions.progress(row, events)
        except Exception:
            # Whatever this code cannot read, another try cannot either: a person is needed, not a loop.
            log.exception("saga_does_not_load", saga_id=str(row.id))
            return None
