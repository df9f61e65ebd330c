from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from chassis.ids import new_id
from sagacity.payments.v1 import events_pb2
from services.payments import rpc
from services.payments.domain import (
    TRANSITIONS,
    Amounts,
    CaptureMode,
    CurrencyMismatchError,
    Payment,
    PaymentNotRefundableError,
    PaymentsError,
    PaymentState,
    RefundOrder,
    RefundTooLargeError,
    charge_state,
    check_refundable,
    movements,
    refund_key,
    refunded_state,
    reversed_state,
    sources,
)
from services.payments.events import published

NOW = datetime(2026, 11, 21, 12, 30, 0, 123456, tzinfo=UTC)
ID = UUID("0193a000-0000-7000-8000-000000000001")


def payment(state: PaymentState, *, captured: int = 0, refunded: int = 0, reason: str = "") -> Payment:
    return Payment(
        id=ID,
        order_id=ID,
        user_id=ID,
        state=state,
        capture_mode=CaptureMode.AUTOMATIC,
        currency_code="EUR",
        amount_minor=100,
        captured_minor=captured,
        refunded_minor=refunded,
        decline_reason=reason,
        create_time=NOW,
        update_time=NOW,
    )


def types(state: PaymentState, *, captured: int = 0, captured_before: bool = False) -> list[str]:
    subject = payment(state, captured=captured, refunded=captured if state is PaymentState.REFUNDED else 0)
    events = published(subject, captured_before=captured_before, new_id=new_id, now=NOW)
    return [event.type for event in events]


def test_every_state_has_its_transitions_and_finished_ones_have_none() -> None:
    assert set(TRANSITIONS) == set(PaymentState)
    finished = {state for state, targets in TRANSITIONS.items() if not targets}
    assert finished == {"REFUNDED", "VOIDED", "DECLINED"}


def test_nothing_that_is_being_reversed_can_be_captured() -> None:
    assert PaymentState.REVERSING not in sources(PaymentState.CAPTURED)
    assert set(sources(PaymentState.CAPTURED)) == {"IN_PROGRESS", "UNKNOWN", "AUTHORIZED"}


def test_a_charge_writes_and_undoes_only_what_the_state_machine_allows() -> None:
    # The second half of a charge goes by the sources of DECLINED, whatever the answer was.
    assert sources(PaymentState.AUTHORIZED) == sources(PaymentState.DECLINED) == ["IN_PROGRESS", "UNKNOWN"]
    assert set(sources(PaymentState.DECLINED)) < set(sources(PaymentState.CAPTURED))
    assert sources(PaymentState.VOIDED) == ["AUTHORIZED", "REVERSING"]
    assert "REVERSING" in sources(PaymentState.REFUNDED)


def test_only_what_was_captured_is_refunded_bit_by_bit() -> None:
    assert sources(PaymentState.PARTIALLY_REFUNDED) == ["CAPTURED", "PARTIALLY_REFUNDED"]
    for before in (PaymentState.CAPTURED, PaymentState.PARTIALLY_REFUNDED):
        assert refunded_state(before, captured_minor=100, refunded_minor=99) == "PARTIALLY_REFUNDED"
        assert refunded_state(before, captured_minor=100, refunded_minor=100) == "REFUNDED"
    # A refund that was in flight when a reversal began does not end the reversal.
    assert refunded_state(PaymentState.REVERSING, captured_minor=100, refunded_minor=100) == "REVERSING"


@pytest.mark.parametrize(
    ("state", "amount", "currency", "in_flight", "refusal"),
    [
        ("CAPTURED", 100, "EUR", 0, None),
        ("PARTIALLY_REFUNDED", 60, "EUR", 0, None),
        ("PARTIALLY_REFUNDED", 61, "EUR", 0, RefundTooLargeError),
        ("PARTIALLY_REFUNDED", 30, "EUR", 30, None),
        ("PARTIALLY_REFUNDED", 31, "EUR", 30, RefundTooLargeError),
        ("CAPTURED", 101, "EUR", 0, RefundTooLargeError),
        ("REFUNDED", 1, "EUR", 0, RefundTooLargeError),
        ("CAPTURED", 1, "USD", 0, CurrencyMismatchError),
        ("AUTHORIZED", 1, "EUR", 0, PaymentNotRefundableError),
        ("REVERSING", 1, "EUR", 0, PaymentNotRefundableError),
        ("VOIDED", 1, "EUR", 0, PaymentNotRefundableError),
        ("DECLINED", 1, "EUR", 0, PaymentNotRefundableError),
        ("IN_PROGRESS", 1, "EUR", 0, PaymentNotRefundableError),
        ("UNKNOWN", 1, "EUR", 0, PaymentNotRefundableError),
    ],
)
def test_a_refund_takes_no_more_than_what_is_left(
    state: str, amount: int, currency: str, in_flight: int, refusal: type[PaymentsError] | None
) -> None:
    refunded = {"PARTIALLY_REFUNDED": 40, "REFUNDED": 100}.get(state, 0)
    subject = payment(PaymentState(state), captured=100, refunded=refunded)
    order = RefundOrder(ID, ID, amount, currency, "broken")
    raised = None
    try:
        check_refundable(subject, order, in_flight_minor=in_flight)
    except PaymentsError as error:
        raised = type(error)
    assert raised is refusal


@pytest.mark.parametrize(
    ("amounts", "decline_reason", "cancelled", "state"),
    [
        (Amounts(100, 100), "", False, "CAPTURED"),
        (Amounts(100, 100), "", True, "CAPTURED"),
        (Amounts(100), "", False, "AUTHORIZED"),
        (Amounts(100, voided_minor=100), "", True, "DECLINED"),
        (Amounts(), "", True, "DECLINED"),
        (Amounts(), "CARD_DECLINED", False, "DECLINED"),
        (Amounts(), "", False, None),
    ],
)
def test_what_a_provider_says_decides_a_charge(
    amounts: Amounts, decline_reason: str, state: str | None, *, cancelled: bool
) -> None:
    assert charge_state(amounts, decline_reason=decline_reason, cancelled=cancelled) == state


def test_a_reversal_ends_only_when_all_that_was_captured_went_back() -> None:
    assert reversed_state(Amounts(100, 0, 0, 100)) == "VOIDED"
    assert reversed_state(Amounts(100, 100, 100)) == "REFUNDED"
    assert reversed_state(Amounts(100, 100, 99)) is None


def test_movements_have_one_key_for_each_kind_and_leave_out_nothing_and_zero() -> None:
    entries = movements(ID, Amounts(100, 100, 100))
    assert [(entry.operation_key, entry.amount_minor) for entry in entries] == [
        (f"{ID}:authorization", 100),
        (f"{ID}:capture", 100),
        (f"{ID}:refund", 100),
    ]
    rest = movements(ID, Amounts(100, 100, 100), refunded_before=60)
    assert [(entry.operation_key, entry.amount_minor) for entry in rest][2:] == [(f"{ID}:refund", 40)]
    assert len(movements(ID, Amounts(100, 100, 60), refunded_before=60)) == 2
    assert refund_key(ID, ID) == f"{ID}:refund:{ID}"


def test_a_payment_survives_being_remembered() -> None:
    subject = payment(PaymentState.CAPTURED, captured=100)
    assert Payment.from_json(subject.to_json()) == subject


def test_what_became_of_a_payment_is_told_and_a_capture_only_once() -> None:
    prefix = "sagacity.payments.v1.Payment"
    assert types(PaymentState.CAPTURED, captured=100) == [f"{prefix}Charged"]
    assert types(PaymentState.AUTHORIZED) == []
    assert types(PaymentState.DECLINED) == [f"{prefix}Declined"]
    assert types(PaymentState.VOIDED) == [f"{prefix}Voided"]
    assert types(PaymentState.REFUNDED, captured=100, captured_before=True) == [f"{prefix}Refunded"]
    assert types(PaymentState.REFUNDED, captured=100) == [f"{prefix}Charged", f"{prefix}Refunded"]


def test_a_capture_of_its_own_is_told_by_a_name_of_its_own() -> None:
    subject = replace(payment(PaymentState.CAPTURED, captured=100), capture_mode=CaptureMode.MANUAL)
    (event,) = published(subject, captured_before=False, new_id=new_id, now=NOW)
    assert event.type == "sagacity.payments.v1.PaymentCaptured"
    fact = events_pb2.PaymentCaptured.FromString(event.payload)
    assert (fact.payment_id, fact.order_id, fact.user_id) == (str(ID), str(ID), str(ID))
    assert fact.amount.minor_units == 100


def test_each_refund_is_told_with_what_went_back_by_it() -> None:
    subject = payment(PaymentState.REVERSING, captured=100, refunded=70)
    for refund_id in (ID, None):
        (event,) = published(
            subject, captured_before=True, new_id=new_id, now=NOW, refunded_before=40, refund_id=refund_id
        )
        fact = events_pb2.PaymentRefunded.FromString(event.payload)
        assert (fact.amount.minor_units, fact.refund_id) == (30, str(refund_id or ""))


def test_a_charge_is_published_with_what_was_taken() -> None:
    (event,) = published(
        payment(PaymentState.CAPTURED, captured=100), captured_before=False, new_id=new_id, now=NOW
    )
    fact = events_pb2.PaymentCharged.FromString(event.payload)
    assert (fact.payment_id, fact.amount.minor_units, fact.amount.currency_code) == (str(ID), 100, "EUR")
    assert (event.aggregate_type, event.aggregate_id) == ("payment", str(ID))


def test_every_error_of_this_context_is_a_fault_that_callers_can_tell() -> None:
    reasons = set()
    for error in PaymentsError.__subclasses__():
        fault = rpc.translate(error())
        assert fault is not None
        reasons.add(fault.reason)
    assert len(reasons) == len(PaymentsError.__subclasses__())
    assert rpc.translate(ValueError()) is None
