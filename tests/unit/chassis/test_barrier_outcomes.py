from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from typing_extensions import override

from chassis import barrier
from chassis.barrier import BARRIER_HORIZON, MAX_AHEAD, SagaCall
from chassis.clock import Clock
from chassis.errors import Fault, FaultKind
from chassis.ids import moment_of, new_id
from sagacity.common.v1.saga_step_pb2 import SagaStep
from sagacity.inventory.v1.inventory_pb2 import CommitReservationRequest

SAGA = "01936f00-0000-7000-8000-000000000001"


MADE = moment_of(UUID(SAGA))
SECOND = timedelta(seconds=1)


class Standing(Clock):
    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    @override
    def now(self) -> datetime:
        return self.moment


def request(saga_id: str = SAGA, reservation_id: str = "r") -> CommitReservationRequest:
    return CommitReservationRequest(
        saga_step=SagaStep(saga_id=saga_id, step="stock", operation=1), reservation_id=reservation_id
    )


def call_at(moment: datetime, saga_id: str = SAGA, reservation_id: str = "r") -> SagaCall:
    return barrier.saga_call(request(saga_id, reservation_id), clock=Standing(moment))


def refused_at(moment: datetime, saga_id: str = SAGA) -> Fault:
    with pytest.raises(Fault) as raised:
        call_at(moment, saga_id)
    assert not raised.value.recorded
    return raised.value


def test_a_call_is_known_by_saga_step_and_the_hash_of_its_bytes() -> None:
    call = call_at(MADE)
    assert (call.saga_id, call.step) == (UUID(SAGA), "stock")
    assert call == call_at(MADE)
    assert call.request_hash != call_at(MADE, reservation_id="other").request_hash


def test_a_call_of_a_saga_that_was_made_just_now_needs_no_clock() -> None:
    saga_id = new_id()
    assert barrier.saga_call(request(str(saga_id))).saga_id == saga_id


@pytest.mark.parametrize(
    "saga_id",
    [
        "no",
        "",
        "919108f7-52d1-4320-9bac-f847db4148a8",  # version 4
        "01936f00-0000-7000-0000-000000000001",  # another variant
        "ffffffff-ffff-7000-8000-000000000001",  # a year of five digits
    ],
)
def test_a_saga_id_that_is_no_uuid7_is_an_invalid_argument_that_names_the_field(saga_id: str) -> None:
    fault = refused_at(MADE, saga_id)
    assert (fault.kind, fault.reason) == (FaultKind.INVALID_ARGUMENT, "SAGA_STEP_INVALID")
    assert [detail.subject for detail in fault.fields] == ["saga_step.saga_id"]


def test_a_saga_id_may_be_ahead_of_the_clock_by_a_day_and_no_more() -> None:
    assert call_at(MADE - MAX_AHEAD).saga_id == UUID(SAGA)
    fault = refused_at(MADE - MAX_AHEAD - SECOND)
    assert (fault.kind, fault.reason) == (FaultKind.INVALID_ARGUMENT, "SAGA_STEP_INVALID")
    assert [detail.subject for detail in fault.fields] == ["saga_step.saga_id"]


def test_a_saga_is_answered_up_to_the_horizon_and_too_old_behind_it() -> None:
    assert timedelta(days=30) == BARRIER_HORIZON
    assert call_at(MADE + BARRIER_HORIZON).saga_id == UUID(SAGA)
    fault = refused_at(MADE + BARRIER_HORIZON + SECOND)
    assert (fault.kind, fault.reason) == (FaultKind.FAILED_PRECONDITION, "SAGA_TOO_OLD")
    assert (refused_at(datetime(2100, 1, 1, tzinfo=UTC))).reason == "SAGA_TOO_OLD"


def test_a_done_outcome_is_its_reply() -> None:
    assert barrier.outcome({"outcome": "DONE", "reply": {"a": 1}}) == {"a": 1}


def test_a_refused_outcome_is_raised_as_recorded() -> None:
    refusal = Fault(FaultKind.NOT_FOUND, "NO_SUCH", "no such thing").to_json()
    with pytest.raises(Fault) as raised:
        barrier.outcome({"outcome": "REFUSED", "reply": refusal})
    assert raised.value.recorded
    assert raised.value.kind is FaultKind.NOT_FOUND
