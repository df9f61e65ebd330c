"""What is asked of a payment provider is counted by operation and outcome, and handed on as it is."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from chassis.ids import new_id
from chassis.telemetry import REGISTRY
from services.payments.domain import Amounts
from services.payments.measured_provider import OPERATIONS, OUTCOMES, MeasuredProvider
from services.payments.provider import Card, PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment

PAYMENT_ID: UUID = new_id()
TERMS = PaymentTerms(PAYMENT_ID, "tok_success", 1_000, "EUR")
PAID = ProviderPayment(Amounts(authorized_minor=1_000))
DECLINED = ProviderPayment(decline_reason="CARD_DECLINED")
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "describe": (("tok_success",), {}),
    "open": ((TERMS,), {}),
    "authorise": ((TERMS,), {"operation_key": "a", "capture_key": "c"}),
    "capture": ((PAYMENT_ID,), {"operation_key": "c", "amount_minor": 1}),
    "cancel": ((PAYMENT_ID,), {"operation_key": "v"}),
    "refund": ((PAYMENT_ID,), {"operation_key": "r", "amount_minor": 1}),
    "look_up": ((PAYMENT_ID,), {}),
}
MOVING = {"authorise", "capture", "refund"}


class Scripted:
    """Answers what it is told to, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        async def ask(*args: Any, **options: Any) -> Any:
            self.asked.append((operation, args, options))
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

        return ask


def counted(operation: str) -> dict[str, float]:
    labels = {"provider": "scripted", "operation": operation}
    name = "payments_provider_calls_total"
    found = {outcome: REGISTRY.get_sample_value(name, {**labels, "outcome": outcome}) for outcome in OUTCOMES}
    return {outcome: count for outcome, count in found.items() if count is not None}


def timed(operation: str) -> float:
    labels = {"provider": "scripted", "operation": operation}
    return REGISTRY.get_sample_value("payments_provider_seconds_count", labels) or 0.0


async def ask(provider: Any, operation: str) -> Any:
    args, options = CALLS[operation]
    return await getattr(MeasuredProvider(provider), operation)(*args, **options)


def test_every_operation_is_tried_here() -> None:
    assert set(CALLS) == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (PAID, "ok"),
        (DECLINED, "declined"),
        (ProviderOutcomeUnknownError(), "unknown"),
        (asyncio.CancelledError(), "unknown"),
        (RuntimeError("a bug"), "failed"),
    ],
)
async def test_a_call_is_counted_by_its_outcome_and_handed_on_unchanged(
    operation: str, answer: Any, outcome: str
) -> None:
    if outcome == "declined" and operation not in MOVING:
        outcome = "ok"  # it tells of a refusal, and is none
    provider = Scripted(answer)
    MeasuredProvider(provider)  # its children are there from now on, at 0
    before, timed_before = counted(operation), timed(operation)
    if isinstance(answer, BaseException):
        with pytest.raises(type(answer)):
            await ask(provider, operation)
    else:
        assert await ask(provider, operation) is answer
    assert provider.asked == [(operation, *CALLS[operation])]
    assert counted(operation) == before | {outcome: before[outcome] + 1}
    assert timed(operation) == timed_before + 1


async def test_a_card_that_is_not_known_is_an_answer() -> None:
    before = counted("describe")["ok"] if counted("describe") else 0.0
    assert await ask(Scripted(None), "describe") is None
    assert await ask(Scripted(Card("visa", "4242")), "describe") == Card("visa", "4242")
    assert counted("describe")["ok"] == before + 2
