"""The linter refuses every definition that could lose or half-do an order."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import NAMESPACE_DNS, uuid5

import pytest
from google.protobuf.message import Message

from orchestrator.linter import lint
from orchestrator.saga import (
    Action,
    DefinitionError,
    Ending,
    Operation,
    Parallel,
    Saga,
    Step,
    View,
    additive,
    calls,
)
from orchestrator.sagas import DEFINITIONS
from sagacity.inventory.v1 import inventory_pb2

INVENTORY = "sagacity.inventory.v1.Inventory"


@dataclass(frozen=True)
class Nothing:
    pass


def build(saga: View[Nothing]) -> Message:
    return inventory_pb2.ReleaseReservationRequest(saga_step=saga.call)


def answer(_ending: Ending) -> Message:
    return inventory_pb2.ReleaseReservationResponse()


DO = Action(INVENTORY, "Reserve", build)
UNDO = Action(INVENTORY, "ReleaseReservation", build)


def reading(*steps: str) -> Action:
    return Action(INVENTORY, "Reserve", build, reads=steps)


def always(_: Nothing) -> bool:
    return True


def saga(
    *steps: Step | Parallel,
    deadline: timedelta = timedelta(minutes=1),
    unwind_deadline: timedelta = timedelta(minutes=5),
) -> Saga[Nothing]:
    return Saga(
        kind="test",
        version=1,
        params=Nothing,
        deadline=deadline,
        steps=steps,
        answer=answer,
        unwind_deadline=unwind_deadline,
    )


def test_a_sound_definition_is_accepted() -> None:
    definition = saga(
        Step("a", DO, undo=UNDO), Step("b", DO, check=True), Step("c", DO, pivot=True), Step("d", DO)
    )
    assert [step.name for step in definition.all_steps()] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ((Step("a", DO, undo=UNDO), Step("a", DO, undo=UNDO)), "two steps are named"),
        ((Step("a", DO, pivot=True), Step("b", DO, pivot=True)), "more than one pivot"),
        ((Step("a", DO),), "neither undo nor check"),
        ((Step("a", DO, pivot=True), Step("b", DO, undo=UNDO)), "undoable step after the pivot"),
        ((Step("a", DO, undo=UNDO, pivot=True),), "a pivot cannot be undone"),
        ((Step("a", DO, undo=UNDO, check=True),), "a check has nothing to undo"),
        ((Parallel(Step("a", DO, undo=UNDO), Step("b", DO, pivot=True)),), "must be a group of its own"),
        ((), "there are no steps"),
        ((Parallel(),), "there are no steps"),
        ((Step("a", DO, undo=UNDO), Parallel(Step("a", DO, check=True))), "two steps are named"),
        ((Step("a", DO, pivot=True, when=always),), "a pivot is part of every saga"),
        (
            (Step("a", DO, undo=UNDO, when=always), Step("b", DO, check=True, when=always)),
            "all of its steps may",
        ),
        ((Step("a", DO, pivot=True, skippable=True),), "a pivot, or a step with an undo, cannot be skipped"),
        ((Step("a", DO, undo=UNDO, skippable=True),), "a pivot, or a step with an undo, cannot be skipped"),
        ((Step("a", Action(INVENTORY, "Steal", build), undo=UNDO),), "has no RPC Steal"),
        ((Step("a", DO, undo=Action(INVENTORY, "Steal", build)),), "has no RPC Steal"),
        ((Step("a", Action("sagacity.nowhere.v1.No", "Do", build), undo=UNDO),), "there is no service"),
    ],
)
def test_an_unsound_definition_is_refused(steps: tuple[Step | Parallel, ...], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        saga(*steps)


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ((Step("a", reading("nothing"), undo=UNDO),), "its do reads 'nothing', which is not journaled"),
        ((Step("a", reading("b"), undo=UNDO), Step("b", DO, undo=UNDO)), "'b', which is not journaled"),
        ((Step("a", reading("a"), undo=UNDO),), "its do reads 'a', which is not journaled"),
        ((Step("a", DO, undo=reading("a")),), "its undo reads 'a', which is not journaled"),
        ((Step("a", DO, undo=reading("b")), Step("b", DO, undo=UNDO)), "its undo reads 'b'"),
        (
            (Parallel(Step("a", DO, undo=UNDO), Step("b", reading("a"), undo=UNDO)),),
            "its do reads 'a', which is not journaled",
        ),
        (
            (Step("a", DO, undo=UNDO, when=always), Step("b", reading("a"), undo=UNDO)),
            "its do reads 'a', which is not part of every saga",
        ),
        (
            (Step("a", DO, check=True, when=always), Step("b", DO, undo=reading("a"))),
            "its undo reads 'a', which is not part of every saga",
        ),
    ],
)
def test_a_call_that_reads_what_may_not_be_there_is_refused(
    steps: tuple[Step | Parallel, ...], complaint: str
) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        saga(*steps)


def test_a_call_may_read_what_an_earlier_group_journaled() -> None:
    definition = saga(Step("a", DO, undo=UNDO), Step("b", reading("a"), undo=reading("a")))
    assert definition.step("b").do.reads == ("a",)


def test_a_step_that_reads_what_it_did_not_declare_is_refused_when_it_runs() -> None:
    view = View(
        saga_id=uuid5(NAMESPACE_DNS, "saga"),
        params=Nothing(),
        step="b",
        operation=Operation.DO,
        replies={"a": b"", "c": b""},
        refusal=None,
        reads=("a",),
    )
    assert view.output("a", inventory_pb2.ReserveResponse) == inventory_pb2.ReserveResponse()
    with pytest.raises(DefinitionError, match="step 'b' reads 'c' without saying so"):
        view.output("c", inventory_pb2.ReserveResponse)


def test_a_call_that_may_outlast_the_saga_is_refused() -> None:
    with pytest.raises(DefinitionError, match="not inside the saga's deadline"):
        saga(Step("a", DO, undo=UNDO), deadline=timedelta(seconds=5))


def test_an_undo_that_may_outlast_the_unwind_is_refused() -> None:
    with pytest.raises(DefinitionError, match="not inside the unwind's deadline"):
        saga(Step("a", DO, undo=UNDO), unwind_deadline=timedelta(seconds=5))


@pytest.mark.parametrize(
    "definition", DEFINITIONS.sagas.values(), ids=[kind for kind, _ in DEFINITIONS.sagas]
)
def test_every_saga_of_ours_is_sound(definition: Saga[Nothing]) -> None:
    lint(definition)
    assert [step.name for step in definition.all_steps() if step.pivot]


def test_params_that_cannot_be_journaled_are_refused() -> None:
    with pytest.raises(DefinitionError, match="dataclass"):
        Saga(kind="t", version=1, params=int, deadline=timedelta(minutes=1), steps=(), answer=answer)


def test_the_hash_changes_with_the_shape_and_only_with_it() -> None:
    one = saga(Step("a", DO, undo=UNDO))
    same = saga(Step("a", calls(INVENTORY, "Reserve")(build), undo=UNDO))
    other = saga(Step("b", DO, undo=UNDO))
    assert one.hash == same.hash
    assert one.hash != other.hash


def test_the_hash_does_not_change_with_a_parameter_that_came_later() -> None:
    @dataclass(frozen=True)
    class Before:
        name: str

    @dataclass(frozen=True)
    class After:
        name: str
        more: int = additive(0)

    @dataclass(frozen=True)
    class Other:
        name: str
        more: int = 0

    def hash_of(params: type) -> str:
        step = Step("a", DO, undo=UNDO)
        deadline = timedelta(minutes=1)
        return Saga(kind="t", version=1, params=params, deadline=deadline, steps=(step,), answer=answer).hash

    assert hash_of(Before) == hash_of(After)
    assert hash_of(Before) != hash_of(Other)
