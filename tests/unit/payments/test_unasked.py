from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.ids import new_id
from sagacity.payments.v1 import events_pb2
from services.payments.domain import (
    FINISHED,
    Amounts,
    LedgerKind,
    NotSettledError,
    Payment,
    PaymentState,
    ProviderContradictionError,
    movements,
)
from services.payments.events import published
from services.payments.unasked import UnaskedOperation, after_unasked
from tests.unit.payments.test_payments_domain import ID, NOW, payment

LATER = NOW + timedelta(minutes=1)
CAPTURED, AUTHORIZED = PaymentState.CAPTURED, PaymentState.AUTHORIZED
PARTIALLY, REVERSING = PaymentState.PARTIALLY_REFUNDED, PaymentState.REVERSING


def refund(minor: int, key: str = "re_1") -> UnaskedOperation:
    return UnaskedOperation(key, LedgerKind.REFUND, minor, "simulated", "DISPUTE")


def void(minor: int = 100) -> UnaskedOperation:
    return UnaskedOperation("vo_1", LedgerKind.VOID, minor, "simulated", "AUTHORIZATION_EXPIRED")


def after(before: Payment, *unasked: UnaskedOperation, said: Amounts | None = None) -> Payment:
    recorded = Amounts(100, before.captured_minor, before.refunded_minor)
    return after_unasked(before, recorded, said or recorded, unasked, now=LATER)


def test_the_same_operation_of_a_provider_always_has_the_same_id_and_no_other_has_it() -> None:
    # In events, and in the databases of other contexts: it must never change.
    assert refund(1).id == UUID("8ba5b0c8-d6f9-5dac-b4b4-d621befc28b3")
    assert refund(1).id == refund(2).id
    assert len({refund(1).id, refund(1, "re_2").id, replace(refund(1), provider="other").id}) == 3


@given(st.integers(1, 100), st.integers(0, 99), st.sampled_from([CAPTURED, PARTIALLY, REVERSING]))
def test_refunds_count_up_to_what_was_captured_and_not_beyond(
    minor: int, refunded: int, state: PaymentState
) -> None:
    before = payment(state, captured=100, refunded=refunded)
    if refunded + minor > 100:
        with pytest.raises(ProviderContradictionError):
            after(before, refund(minor))
        return
    result = after(before, refund(minor))
    assert (result.refunded_minor, result.captured_minor, result.update_time) == (
        refunded + minor,
        100,
        LATER,
    )
    expected = PaymentState.REFUNDED if refunded + minor == 100 else PARTIALLY
    assert result.state is (REVERSING if state is REVERSING else expected)


def test_a_hold_is_voided_as_a_whole_or_not_at_all() -> None:
    assert after(payment(AUTHORIZED), void()).state is PaymentState.VOIDED
    assert after(payment(REVERSING), void()).state is PaymentState.VOIDED
    for before, made in ((payment(AUTHORIZED), void(99)), (payment(CAPTURED, captured=100), void())):
        with pytest.raises(ProviderContradictionError):
            after(before, made)


@pytest.mark.parametrize("state", sorted(FINISHED))
def test_to_what_is_finished_nothing_can_happen_any_more(state: PaymentState) -> None:
    refunded = 100 if state is PaymentState.REFUNDED else 0
    for made in (refund(1), void()):
        with pytest.raises(ProviderContradictionError):
            after(payment(state, captured=refunded, refunded=refunded), made)


def test_what_is_not_recorded_as_the_provider_has_it_has_to_wait() -> None:
    for state in (PaymentState.IN_PROGRESS, PaymentState.UNKNOWN):
        with pytest.raises(NotSettledError):
            after(payment(state), void())
    for before in (payment(AUTHORIZED), payment(REVERSING)):
        with pytest.raises(NotSettledError):
            after(before, refund(1), said=Amounts(100, 100, 1))


def test_the_entries_of_the_provider_are_under_its_own_keys_and_the_rest_is_ours() -> None:
    entries = movements(
        ID, Amounts(100, 100, 90), refunded_before=20, unasked=(refund(30), refund(5, "re_2"))
    )
    assert [(entry.operation_key, entry.amount_minor) for entry in entries] == [
        (f"{ID}:authorization", 100),
        (f"{ID}:capture", 100),
        (f"{ID}:refund", 35),
        ("re_1", 30),
        ("re_2", 5),
    ]
    entries = movements(ID, Amounts(100, voided_minor=100), unasked=(void(),))
    assert [entry.operation_key for entry in entries] == [f"{ID}:authorization", "vo_1"]


def test_each_refund_of_the_provider_is_a_fact_of_its_own_beside_that_of_the_saga() -> None:
    subject = payment(PaymentState.REFUNDED, captured=100, refunded=100)
    unasked = (refund(30), refund(5, "re_2"))
    facts = published(
        subject, captured_before=True, new_id=new_id, now=NOW, refunded_before=20, unasked=unasked
    )
    told = [events_pb2.PaymentRefunded.FromString(fact.payload) for fact in facts]
    provider, saga = events_pb2.REFUND_ORIGIN_PROVIDER, events_pb2.REFUND_ORIGIN_SAGA
    assert [(fact.amount.minor_units, fact.origin, fact.provider_reason) for fact in told] == [
        (30, provider, "DISPUTE"),
        (5, provider, "DISPUTE"),
        (45, saga, ""),
    ]
    assert [fact.refund_id for fact in told] == [str(made.id) for made in unasked] + [""]
