"""P4, P8, I5-I14, I16-I18: every saga, every half of every step, everything that can go wrong with a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from chassis.errors import Fault
from orchestrator.entries import State
from orchestrator.saga import Operation, Saga
from tests.sagas.engine import Engine, is_effect
from tests.sagas.faults import REFUSALS, Half, Sent, Trouble, Troubled
from tests.sagas.worlds import ALL, WORLDS, Case, books_of

pytestmark = pytest.mark.integration


def last_before_pivot(definition: Saga[Any]) -> str:
    """The step whose refusal undoes the most."""
    names = [step.name for step in definition.all_steps()]
    pivot = next(step.name for step in definition.all_steps() if step.pivot)
    return names[names.index(pivot) - 1]


def halves(definition: Saga[Any]) -> Iterator[Half]:
    for step in definition.all_steps():
        yield Half(step.name, Operation.DO)
        if step.undo is not None:
            yield Half(step.name, Operation.UNDO)


CASES = [
    pytest.param(definition, half, id=f"{definition.kind}.v{definition.version}-{half.step}-{half.operation}")
    for definition in ALL
    for half in halves(definition)
]


@dataclass
class Ended:
    """A saga with which something went wrong."""

    case: Case
    troubled: Troubled
    state: State
    parked: int


def expected(definition: Saga[Any], half: Half, trouble: Trouble) -> tuple[State, int]:
    """How the saga ends, and how often it needs a person before."""
    if half.operation is Operation.UNDO:
        return State.COMPENSATED, int(trouble in REFUSALS)
    if trouble not in REFUSALS:
        return State.COMPLETED, 0
    names = [step.name for step in definition.all_steps()]
    pivot = next(step.name for step in definition.all_steps() if step.pivot)
    if names.index(half.step) < names.index(pivot):
        return State.COMPENSATED, 0
    # These refusals are not recorded at the participant: from the pivot's intent on, a person decides.
    return State.COMPLETED, 1


async def troubled_saga(engine: Engine, definition: Saga[Any], half: Half, trouble: Trouble) -> Ended:
    case = await WORLDS[definition.kind, definition.version](engine.contexts, engine.run)
    troubled = Troubled(engine.contexts.participants, definition)
    troubled.expect(half, trouble)
    if half.operation is Operation.UNDO:
        troubled.expect(Half(last_before_pivot(definition), Operation.DO), Trouble.REFUSED_LATER)
    async with engine.driving(troubled) as executor:
        standing, parked = await engine.finish(executor, await engine.begin(executor, case))
    return Ended(case, troubled, standing.state, parked)


@pytest.mark.parametrize(("definition", "half"), CASES)
async def test_whatever_goes_wrong_with_a_call_the_saga_ends_with_a_clean_slate(
    engine: Engine, definition: Saga[Any], half: Half
) -> None:
    ended = await asyncio.gather(*(troubled_saga(engine, definition, half, trouble) for trouble in Trouble))
    found = dict(zip(Trouble, ended, strict=True))
    assert {trouble: (it.state, it.parked) for trouble, it in found.items()} == {
        trouble: expected(definition, half, trouble) for trouble in Trouble
    }
    assert [trouble for trouble, it in found.items() if not it.troubled.all_happened] == []
    assert [trouble for trouble, it in found.items() if not sent_unchanged(it.troubled)] == []
    await require_clean_slates(engine, found)

    # Every call again, and those that are still on their way.
    before = await engine.content()
    for trouble, it in found.items():
        assert await unexpected_answers(engine, it.troubled) == [], trouble
    assert await engine.content() == before
    await require_clean_slates(engine, found)


async def require_clean_slates(engine: Engine, found: Mapping[Trouble, Ended]) -> None:
    """Assert that every saga's end is what its world demands, and that nothing is wrong anywhere."""
    assert {trouble: await books_of(engine.contexts, it.case) for trouble, it in found.items()} == {
        trouble: it.case.ends[it.state] for trouble, it in found.items()
    }
    assert await engine.broken() == []


def sent_unchanged(troubled: Troubled) -> bool:
    """Whether each half was always asked with the same bytes."""
    return len(set(troubled.asked)) == len({half for half, _ in troubled.asked})


async def unexpected_answers(engine: Engine, troubled: Troubled) -> list[Sent]:
    """Send all calls again, and those that are still on their way; answers that are not those of before.

    A check may say something else once the world has moved on. What was undone, or never sent, is refused for
    good; what was done is answered as it was.
    """
    checks = frozenset(step.name for step in troubled.definition.all_steps() if step.check)
    said = [call for call in troubled.sent if isinstance(call.said, bytes)]
    late = [Sent(troubled.half_of(*call), *call, b"") for call in troubled.overtaken]
    answers = {call.half: call.said for call in said}
    arrived = [
        call
        for call in await engine.send_again(late)
        if is_effect(call, checks) and call.said != answers.get(call.half) and not is_tombstone(call)
    ]
    again = await engine.send_again(said)
    return arrived + [
        now for now, then in zip(again, said, strict=True) if now != then and is_effect(now, checks)
    ]


def is_tombstone(call: Sent) -> bool:
    return isinstance(call.said, Fault) and (call.said.reason, call.said.recorded) == ("TOMBSTONED", True)
