"""P4: a late, duplicate, reordered or empty compensation is harmless, for every step that has one.

Straight at the participant: every order of {do, do, undo, undo}, one after the other and all at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from orchestrator.entries import OPEN_STATES, Call, Result, State
from orchestrator.progress import Progress
from orchestrator.saga import Action, Operation, Outcome, Saga, Step, View
from tests.sagas.contexts import Contexts
from tests.sagas.engine import Engine
from tests.sagas.worlds import ALL, WORLDS, Case, books_of

pytestmark = pytest.mark.integration

DO, UNDO = Operation.DO, Operation.UNDO
ORDERS = sorted(set(permutations((DO, DO, UNDO, UNDO))))
PATIENCE_SECONDS = 20.0
ROUNDS_AT_ONCE = 3
# The refusal is said to be recorded, so that the unwinding leaves the step alone: its own calls must do.
UNDONE = Fault(FaultKind.FAILED_PRECONDITION, "INJECTED", "undone", recorded=True, domain="sagacity.test")
STEPS = [
    pytest.param(definition, step, id=f"{definition.kind}.v{definition.version}-{step.name}")
    for definition in ALL
    for step in definition.all_steps()
    if step.undo is not None
]


class Walk:
    """A saga without a journal: its calls are made one by one, up to a step and back from there."""

    def __init__(self, contexts: Contexts, case: Case) -> None:
        self.contexts = contexts
        self.case = case
        self.progress = Progress(case.definition, new_id(), case.params, State.RUNNING, epoch=1, sequence=0)
        self.progress.begin()

    async def up_to(self, step: Step) -> tuple[bytes, bytes]:
        """Make all calls before a step; the requests of its do and of its undo."""
        while True:
            calls = self.progress.pending()
            for call in calls:
                if call.step == step.name:
                    return call.request, self._undo(step)
            await self._make(calls)

    def _undo(self, step: Step) -> bytes:
        assert step.undo is not None
        view = View(
            saga_id=self.progress.saga_id,
            params=self.progress.params,
            step=step.name,
            operation=UNDO,
            replies=self.progress.ending().replies,
            refusal=UNDONE,
            reads=step.undo.reads,
        )
        return step.undo.build(view).SerializeToString(deterministic=True)

    async def back_from(self, step: Step) -> State:
        """Undo the steps before a step, as if its own refusal were recorded."""
        stuck = self.progress.pending()
        await self._make([call for call in stuck if call.step != step.name])
        refused = next(call for call in stuck if call.step == step.name)
        self.progress.absorb([Result(refused, Outcome.REFUSED, fault=UNDONE)], deadline_passed=False)
        while self.progress.state in OPEN_STATES:
            await self._make(self.progress.pending())
        return self.progress.state

    async def _make(self, calls: Sequence[Call]) -> None:
        results = [
            Result(call, Outcome.DONE, reply=await self._send(call.action, call.request)) for call in calls
        ]
        if results:
            self.progress.absorb(results, deadline_passed=False)

    async def _send(self, action: Action, request: bytes) -> bytes:
        return await self.contexts.participants.call(action, request, timeout_seconds=PATIENCE_SECONDS)

    async def outcome(self, action: Action, request: bytes) -> bytes | Fault:
        """What a call says in the end; while nobody knows, it is asked again."""
        while True:
            try:
                return await self._send(action, request)
            except Fault as fault:
                if fault.kind not in {FaultKind.ABORTED, FaultKind.UNAVAILABLE}:
                    return fault


async def at(
    engine: Engine, definition: Saga[Any], step: Step
) -> tuple[Walk, dict[Operation, tuple[Action, bytes]]]:
    """A saga that is about to call a step, and the step's two calls."""
    case = await WORLDS[definition.kind, definition.version](engine.contexts, engine.run)
    walk = Walk(engine.contexts, case)
    do, undo = await walk.up_to(step)
    assert step.undo is not None
    return walk, {DO: (step.do, do), UNDO: (step.undo, undo)}


async def require_nothing_done(engine: Engine, walk: Walk, step: Step) -> None:
    """Assert that the step left nothing: with the steps before it undone, all is as it was."""
    assert await walk.back_from(step) is State.COMPENSATED
    assert await books_of(engine.contexts, walk.case) == walk.case.ends[State.COMPENSATED]
    assert await engine.broken() == []


def reasons(outcomes: Sequence[bytes | Fault]) -> list[str]:
    return [said.reason if isinstance(said, Fault) else "" for said in outcomes]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize(("definition", "step"), STEPS)
async def test_whatever_the_order_of_its_calls_a_step_that_is_undone_left_nothing(
    engine: Engine, definition: Saga[Any], step: Step, order: Sequence[Operation]
) -> None:
    walk, calls = await at(engine, definition, step)
    outcomes = [await walk.outcome(*calls[operation]) for operation in order]
    # A do that comes after its undo, and was not there before, is refused for good; nothing else ever is.
    overtaken = "" if order[0] is DO else "TOMBSTONED"
    assert reasons(outcomes) == [overtaken if operation is DO else "" for operation in order]
    assert len({said for said in outcomes if isinstance(said, bytes)}) <= 2
    await require_nothing_done(engine, walk, step)


@pytest.mark.parametrize(("definition", "step"), STEPS)
async def test_calls_that_arrive_at_the_same_moment_leave_nothing_of_a_step_that_is_undone(
    engine: Engine, definition: Saga[Any], step: Step
) -> None:
    for order in ORDERS[:ROUNDS_AT_ONCE]:
        walk, calls = await at(engine, definition, step)
        outcomes = await asyncio.gather(*(walk.outcome(*calls[operation]) for operation in order))
        assert set(reasons(outcomes)) <= {"", "TOMBSTONED"}
        replies = [said for said, half in zip(outcomes, order, strict=True) if half is DO]
        assert len({str(said) for said in replies}) == 1
        await require_nothing_done(engine, walk, step)
