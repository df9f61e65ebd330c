from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from chassis.errors import Fault
from services.payments.domain import (
    CaptureMode,
    OutcomeUnknownError,
    PaymentReversingError,
    PaymentState,
)
from tests.integration.payments.providers import Held, Late, SaysNothingOfUse, Watched, WithoutCombinedCapture

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Later, Step, World

pytestmark = pytest.mark.integration

HELD = [("AUTHORIZATION", 1234)]
TAKEN = [*HELD, ("CAPTURE", 1234)]
CALLERS = 16


async def refusal(later: Later) -> Fault:
    with pytest.raises(Fault) as refused:
        await later.capture()
    assert refused.value.recorded
    with pytest.raises(Fault) as again:
        await later.capture()
    assert again.value.to_json() == refused.value.to_json()
    return refused.value


async def taken_once(world: World, step: Step) -> None:
    assert await world.state(step) == "CAPTURED"
    assert await world.ledger(step) == TAKEN == await world.provider_ledger(step)
    assert await world.events(step) == [("PaymentCaptured", 1)]
    assert await world.broken() == []


async def test_a_capture_takes_what_was_authorised_and_tells_so_once(world: World) -> None:
    step = await world.authorised()
    wakes = len(world.wakes)
    payment = await step.later().capture()
    assert (payment.state, payment.captured_minor, payment.refunded_minor) == ("CAPTURED", 1234, 0)
    assert len(world.wakes) == wakes + 1
    await taken_once(world, step)


async def test_the_same_capture_again_answers_the_same_without_asking_the_provider(world: World) -> None:
    provider = Watched(world)
    step = await world.authorised(app=world.with_provider(provider))
    later = step.later()
    first = await later.capture()
    await step.later().refund(1000)
    # What was answered stays what it was, whatever became of the payment since.
    assert await later.capture() == first
    assert provider.asked["capture"] == 1
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await later.capture(b"another")


@pytest.mark.parametrize("refunded", [0, 34])
async def test_what_is_captured_already_is_a_success_without_a_call(world: World, refunded: int) -> None:
    provider = Watched(world)
    step = await world.captured(app=world.with_provider(provider))
    if refunded:
        await step.later().refund(refunded)
    payment = await step.later().capture()
    assert (payment.captured_minor, payment.refunded_minor) == (1234, refunded)
    assert provider.asked["capture"] == 0
    assert ("PaymentCaptured", 2) not in await world.events(step)


async def test_a_payment_that_nobody_knows_is_a_recorded_refusal(world: World) -> None:
    step = await world.step()
    refused = await refusal(step.later())
    assert (refused.kind, refused.reason) == ("NOT_FOUND", "PAYMENT_NOT_FOUND")


@pytest.mark.parametrize("state", ["VOIDED", "REFUNDED", "DECLINED", "UNKNOWN", "REVERSING", "IN_PROGRESS"])
async def test_what_holds_nothing_cannot_be_captured_and_the_refusal_is_recorded(
    world: World, state: str
) -> None:
    token = {"DECLINED": "tok_declined", "UNKNOWN": "tok_late", "IN_PROGRESS": "tok_late"}.get(state)
    step = await world.step(token or "tok_success", capture=CaptureMode.MANUAL)
    try:
        await step.charge()
    except (Fault, OutcomeUnknownError):
        assert token
    if state == "REFUNDED":
        await step.later().capture()
    if state in {"VOIDED", "REFUNDED"}:
        await step.reverse()
    if state in {"REVERSING", "IN_PROGRESS"}:
        await world.rows(
            "UPDATE payment SET state = %(state)s WHERE id = %(id)s", state=state, id=step.order.payment_id
        )
    assert await world.state(step) == state
    refused = await refusal(step.later())
    assert (refused.kind, refused.reason) == ("FAILED_PRECONDITION", "PAYMENT_NOT_CAPTURABLE")
    assert state in refused.message


async def test_a_capture_that_the_provider_declines_is_a_recorded_refusal_and_the_hold_stays(
    world: World,
) -> None:
    step = await world.authorised("tok_capture_declined")
    refused = await refusal(step.later())
    assert refused.reason == "PAYMENT_NOT_CAPTURABLE"
    assert "CAPTURE_DECLINED" in refused.message
    assert await world.state(step) == "AUTHORIZED"
    assert await world.ledger(step) == HELD == await world.provider_ledger(step)
    assert await step.later().reverse() is PaymentState.VOIDED


async def test_a_hold_that_the_provider_let_go_cannot_be_captured(world: World) -> None:
    step = await world.authorised()
    # With our own key, as its books are compared with ours.
    await world.provider.cancel(step.order.payment_id, operation_key=f"{step.order.payment_id}:void")
    refused = await refusal(step.later())
    assert "CANCELLED_BY_PROVIDER" in refused.message
    assert await step.later().reverse() is PaymentState.VOIDED


async def test_an_answer_that_says_nothing_is_unknown(world: World) -> None:
    step = await world.authorised()
    later = step.later(world.with_provider(SaysNothingOfUse(world)))
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await later.capture()
    assert await world.stored(later) == "IN_PROGRESS"
    later.app = world.app
    await later.capture()
    await taken_once(world, step)


async def test_a_time_out_after_capturing_captures_once(world: World) -> None:
    step = await world.authorised("tok_timeout_after_capture")
    later = step.later()
    with pytest.raises(OutcomeUnknownError):
        await later.capture()
    assert await world.state(step) == "AUTHORIZED"
    assert await world.events(step) == []
    assert (await later.capture()).state is PaymentState.CAPTURED
    await taken_once(world, step)


async def test_a_provider_slower_than_the_time_out_is_asked_again_with_the_same_key(world: World) -> None:
    held = Held(world, "capture", after=True)
    step = await world.authorised()
    later = step.later(world.with_provider(held, timeout_seconds=0.2))
    with pytest.raises(OutcomeUnknownError):
        await later.capture()
    later.app = world.app
    await later.capture()
    await taken_once(world, step)


async def test_a_capture_that_arrives_after_it_was_asked_for_again_takes_nothing_more(world: World) -> None:
    late = Late(world, "capture")
    step = await world.authorised()
    later = step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.capture()
    later.app = world.app
    await later.capture()
    await late.deliver()
    await taken_once(world, step)


@pytest.mark.parametrize("token", ["tok_success", "tok_timeout_after_capture"])
async def test_of_many_concurrent_duplicates_one_captures(world: World, token: str) -> None:
    step = await world.authorised(token)
    later = step.later()
    answers = await asyncio.gather(*(later.capture() for _ in range(CALLERS)), return_exceptions=True)
    unexpected = [
        a for a in answers if isinstance(a, BaseException) and not isinstance(a, OutcomeUnknownError)
    ]
    assert unexpected == []
    await later.capture()
    await taken_once(world, step)


async def test_of_captures_by_many_sagas_one_has_the_effect_and_all_succeed(world: World) -> None:
    step = await world.authorised()
    sagas = [step.later() for _ in range(CALLERS)]
    answers = await asyncio.gather(*(saga.capture() for saga in sagas))
    assert {answer.state for answer in answers} == {PaymentState.CAPTURED}
    assert {await world.stored(saga) for saga in sagas} == {"DONE"}
    await taken_once(world, step)


@pytest.mark.parametrize("after", [False, True])
async def test_a_capture_in_flight_gives_way_to_a_reversal(world: World, *, after: bool) -> None:
    held = Held(world, "capture", after=after)
    step = await world.authorised()
    later = step.later(world.with_provider(held))
    in_flight = asyncio.create_task(later.capture())
    await held.reached.wait()
    undone = await step.later().reverse()
    assert undone is (PaymentState.REFUNDED if after else PaymentState.VOIDED)
    held.go_on.set()
    with pytest.raises(Fault, match="PAYMENT_NOT_CAPTURABLE") as refused:
        await in_flight
    assert refused.value.recorded
    assert await world.stored(later) == "REFUSED"
    names = [name for name, _ in await world.events(step)]
    # What consumers add up comes to 0 although the capture was never published on its own.
    assert names == (["PaymentCaptured", "PaymentRefunded"] if after else ["PaymentVoided"])
    assert await world.broken() == []


async def test_a_capture_that_comes_back_while_a_reversal_is_at_work_is_told_so(world: World) -> None:
    late = Late(world, "cancel")
    step = await world.authorised("tok_timeout_after_capture")
    capture, reversal = step.later(), step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await capture.capture()
    with pytest.raises(OutcomeUnknownError):
        await reversal.reverse()
    assert await world.state(step) == "REVERSING"
    with pytest.raises(PaymentReversingError):
        await capture.capture()
    assert await world.stored(capture) == "IN_PROGRESS"
    await late.deliver()
    reversal.app = world.app
    assert await reversal.reverse() is PaymentState.REFUNDED
    assert (await refusal(capture)).reason == "PAYMENT_NOT_CAPTURABLE"


async def test_captures_and_reversals_at_the_same_time_end_in_nothing_held(world: World) -> None:
    for _ in range(5):
        step = await world.authorised()
        capture, reversal = step.later(), step.later()
        calls = [capture.capture(), reversal.reverse(), capture.capture(), reversal.reverse()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        expected = (Fault, OutcomeUnknownError, PaymentReversingError)
        assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, expected)] == []
        assert await reversal.reverse() in {"REFUNDED", "VOIDED"}
        assert await world.broken() == []


async def test_a_provider_that_captures_apart_and_declines_keeps_nothing_on_hold(world: World) -> None:
    provider = WithoutCombinedCapture(world.provider_database, slow_seconds=0, late_seconds=0)
    step = await world.step("tok_capture_declined", app=world.with_provider(provider))
    with pytest.raises(Fault, match="CAPTURE_DECLINED") as declined:
        await step.charge()
    assert declined.value.recorded
    assert await world.ledger(step) == [*HELD, ("VOID", 1234)] == await world.provider_ledger(step)
