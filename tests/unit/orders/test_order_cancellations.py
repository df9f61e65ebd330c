"""Which orders may still be undone, and the keys under which that is asked for."""

from __future__ import annotations

import re

import pytest

from chassis.ids import new_id
from services.orders.cancellations import OPEN_STATES, REASONS, CancellationCause, CancellationRequest
from services.orders.domain import OrderState

# Of CancelOrder, in sagas.proto.
KEY = re.compile(r"^[\x21-\x7e]{1,255}$")
REASON = re.compile(r"^[^\x00-\x1f]{1,500}$")


def test_pending_and_confirmed_orders_are_open_and_no_others() -> None:
    assert set(OPEN_STATES) == {OrderState.PENDING, OrderState.CONFIRMED}


@pytest.mark.parametrize("cause", CancellationCause)
def test_a_request_has_one_key_a_round_whoever_asks(cause: CancellationCause) -> None:
    order_id = new_id()
    first, again, anew, other = (
        CancellationRequest(order, cause, attempts, number).idempotency_key
        for order, attempts, number in (
            (order_id, 1, 1),
            (order_id, 7, 1),
            (order_id, 8, 2),
            (new_id(), 1, 1),
        )
    )
    assert first == again
    assert len({first, anew, other}) == 3
    assert KEY.match(first)


@pytest.mark.parametrize("cause", CancellationCause)
def test_every_cause_has_words_for_people(cause: CancellationCause) -> None:
    assert REASON.match(REASONS[cause])
