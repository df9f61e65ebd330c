from uuid import UUID

import pytest

from chassis import barrier
from chassis.errors import Fault, FaultKind
from sagacity.common.v1.saga_step_pb2 import SagaStep
from sagacity.inventory.v1.inventory_pb2 import CommitReservationRequest

SAGA = "01936f00-0000-7000-8000-000000000001"


def request(saga_id: str = SAGA, reservation_id: str = "r") -> CommitReservationRequest:
    return CommitReservationRequest(
        saga_step=SagaStep(saga_id=saga_id, step="stock", operation=1), reservation_id=reservation_id
    )


def test_a_call_is_known_by_saga_step_and_the_hash_of_its_bytes() -> None:
    call = barrier.saga_call(request())
    assert (call.saga_id, call.step) == (UUID(SAGA), "stock")
    assert call == barrier.saga_call(request())
    assert call.request_hash != barrier.saga_call(request(reservation_id="other")).request_hash


def test_a_saga_id_that_is_no_uuid_is_an_invalid_argument() -> None:
    with pytest.raises(Fault) as raised:
        barrier.saga_call(request(saga_id="no"))
    assert raised.value.kind is FaultKind.INVALID_ARGUMENT


def test_a_done_outcome_is_its_reply() -> None:
    assert barrier.outcome({"outcome": "DONE", "reply": {"a": 1}}) == {"a": 1}


def test_a_refused_outcome_is_raised_as_recorded() -> None:
    refusal = Fault(FaultKind.NOT_FOUND, "NO_SUCH", "no such thing").to_json()
    with pytest.raises(Fault) as raised:
        barrier.outcome({"outcome": "REFUSED", "reply": refusal})
    assert raised.value.recorded
    assert raised.value.kind is FaultKind.NOT_FOUND
