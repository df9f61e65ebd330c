from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from chassis.errors import Fault
from services.payments.app.refund import MAX_FINISHED_REFUNDS
from services.payments.domain import (
    CaptureMode,
    OutcomeUnknownError,
    PaymentReversingError,
    PaymentState,
    RefundExistsError,
)
from tests.integration.payments.providers import Held, Late, SaysNothingOfUse, Watched

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Later, Step, World

pytestmark = pytest.mark.integration

TAKEN = [("AUTHORIZATION", 1234), ("CAPTURE", 1234)]
CALLERS = 16
# Of each refund and of the reversal, and one for what changed while the reversal was at work.
MAX_LOST_ANSWERS = 5


async def refusal(later: Later, amount_minor: int, currency_code: str = "EUR") -> Fault:
    with pytest.raises(Fault) as refused:
        await later.refund(amount_minor, currency_code)
    assert refused.value.recorded
    with pytest.raises(Fault) as again:
        await later.refund(amount_minor, currency_code)
    assert again.value.to_json() == refused.value.to_json()
    return refused.value


async def answered(later: Later) -> PaymentState | None:
    """Reverse as a saga does: again, while the outcome is unknown."""
    for _ in range(MAX_LOST_ANSWERS):
        try:
            return await later.reverse()
        except OutcomeUnknownError:
            continue
    raise AssertionError


async def refunds(world: World, step: Step) -> list[int]:
    """Return what went back at the provider, refund by refund, where both ledgers and the events agree."""
    assert await world.broken() == []
    ours = await world.ledger(step)
    assert sorted(ours) == sorted(await world.provider_ledger(step))
    events = await world.events(step)
    assert [sequence for _, sequence in events] == list(range(1, len(events) + 1))
    back = [minor for kind, minor in ours if kind == "REFUND"]
    assert [name for name, _ in events].count("PaymentRefunded") == len(back)
    return back


async def test_refunds_give_back_bit_by_bit_until_all_went_back(world: World) -> None:
    step = await world.captured()
    first = await step.later().refund(234)
    assert (first.state, first.captured_minor, first.refunded_minor) == ("PARTIALLY_REFUNDED", 1234, 234)
    second = await step.later().refund(600)
    assert (second.state, second.refunded_minor) == ("PARTIALLY_REFUNDED", 834)
    assert (await refusal(step.later(), 401)).reason == "REFUND_TOO_LARGE"
    last = await step.later().refund(400)
    assert (last.state, last.refunded_minor) == ("REFUNDED", 1234)
    assert (await refusal(step.later(), 1)).reason == "REFUND_TOO_LARGE"
    assert await refunds(world, step) == [234, 600, 400]


async def test_each_refund_has_an_operation_key_made_of_its_id(world: World) -> None:
    step = await world.captured()
    sagas = [step.later(), step.later()]
    for saga in sagas:
        await saga.refund(100)
    rows = await world.rows("SELECT operation_key FROM ledger_entry WHERE kind = 'REFUND' ORDER BY position")
    assert [row["operation_key"] for row in rows] == [
        f"{step.order.payment_id}:refund:{saga.refund_id}" for saga in sagas
    ]
    reasons = await world.rows("SELECT reason, state FROM refund")
    assert {(row["reason"], row["state"]) for row in reasons} == {("arrived broken", "DONE")}


async def test_the_same_refund_again_answers_the_same_without_asking_the_provider(world: World) -> None:
    provider = Watched(world)
    step = await world.captured(app=world.with_provider(provider))
    later = step.later()
    wakes = len(world.wakes)
    first = await later.refund(500)
    assert len(world.wakes) == wakes + 1
    await step.later().refund(700)
    assert await later.refund(500) == first
    assert provider.asked["refund"] == 2
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await later.refund(501)
    assert await refunds(world, step) == [500, 700]


async def test_a_refunds_id_of_another_step_is_refused_and_leaves_nothing(world: World) -> None:
    step = await world.captured()
    one, other = step.later(), step.later()
    await one.refund(500)
    other.refund_id = one.refund_id
    with pytest.raises(RefundExistsError):
        await other.refund(500)
    assert await world.stored(other) is None
    assert await refunds(world, step) == [500]


async def test_a_payment_that_nobody_knows_is_a_recorded_refusal(world: World) -> None:
    step = await world.step()
    refused = await refusal(step.later(), 1)
    assert (refused.kind, refused.reason) == ("NOT_FOUND", "PAYMENT_NOT_FOUND")


async def test_another_currency_is_a_recorded_refusal(world: World) -> None:
    step = await world.captured()
    refused = await refusal(step.later(), 1, "USD")
    assert (refused.kind, refused.reason) == ("INVALID_ARGUMENT", "CURRENCY_MISMATCH")
    assert await refunds(world, step) == []


@pytest.mark.parametrize("state", ["AUTHORIZED", "VOIDED", "DECLINED", "UNKNOWN", "REVERSING", "IN_PROGRESS"])
async def test_what_was_not_captured_cannot_be_refunded_and_the_refusal_is_recorded(
    world: World, state: str
) -> None:
    token = {"DECLINED": "tok_declined", "UNKNOWN": "tok_late", "IN_PROGRESS": "tok_late"}.get(state)
    step = await world.step(token or "tok_success", capture=CaptureMode.MANUAL)
    try:
        await step.charge()
    except (Fault, OutcomeUnknownError):
        assert token
    if state == "VOIDED":
        await step.reverse()
    if state in {"REVERSING", "IN_PROGRESS"}:
        await world.rows(
            "UPDATE payment SET state = %(state)s WHERE id = %(id)s", state=state, id=step.order.payment_id
        )
    assert await world.state(step) == state
    refused = await refusal(step.later(), 1)
    assert (refused.kind, refused.reason) == ("FAILED_PRECONDITION", "PAYMENT_NOT_REFUNDABLE")


async def test_more_than_was_captured_is_a_recorded_refusal_without_a_call(world: World) -> None:
    provider = Watched(world)
    step = await world.captured(app=world.with_provider(provider))
    assert (await refusal(step.later(), 1235)).reason == "REFUND_TOO_LARGE"
    assert provider.asked["refund"] == 0
    assert await world.state(step) == "CAPTURED"


async def test_a_refund_that_the_provider_declines_is_a_recorded_refusal_and_counts_no_more(
    world: World,
) -> None:
    step = await world.captured("tok_partial_refund_declined")
    refused = await refusal(step.later(), 1000)
    assert refused.reason == "PAYMENT_NOT_REFUNDABLE"
    assert "PARTIAL_REFUND_DECLINED" in refused.message
    assert await world.state(step) == "CAPTURED"
    assert (await step.later().refund(1234)).state is PaymentState.REFUNDED
    assert await refunds(world, step) == [1234]


async def test_an_answer_that_says_nothing_is_unknown_and_counts_until_it_is_known(world: World) -> None:
    step = await world.captured()
    later = step.later(world.with_provider(SaysNothingOfUse(world)))
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await later.refund(1000)
    assert await world.stored(later) == "IN_PROGRESS"
    assert (await refusal(step.later(), 235)).reason == "REFUND_TOO_LARGE"
    later.app = world.app
    assert (await later.refund(1000)).refunded_minor == 1000
    assert await refunds(world, step) == [1000]


async def test_what_the_provider_has_no_longer_is_refused_for_good(world: World) -> None:
    step = await world.captured()
    # Behind our back: its books are made to agree again below.
    await world.provider.refund(step.order.payment_id, operation_key="by hand", amount_minor=1234)
    assert (await refusal(step.later(), 1000)).reason == "REFUND_TOO_LARGE"
    assert await world.broken() == [("I9", "by hand")]
    await world.rows("DELETE FROM provider_simulation.operation WHERE operation_key = 'by hand'")


async def test_a_time_out_after_refunding_refunds_once(world: World) -> None:
    step = await world.captured("tok_timeout_after_refund")
    for later, amount in ((step.later(), 200), (step.later(), 300)):
        with pytest.raises(OutcomeUnknownError):
            await later.refund(amount)
        assert await world.stored(later) == "IN_PROGRESS"
        await later.refund(amount)
    assert await refunds(world, step) == [200, 300]


async def test_a_provider_slower_than_the_time_out_is_asked_again_with_the_same_key(world: World) -> None:
    held = Held(world, "refund", after=True)
    step = await world.captured()
    later = step.later(world.with_provider(held, timeout_seconds=0.2))
    with pytest.raises(OutcomeUnknownError):
        await later.refund(1000)
    later.app = world.app
    await later.refund(1000)
    assert await refunds(world, step) == [1000]


async def test_a_refund_that_arrives_after_it_was_asked_for_again_gives_nothing_more(world: World) -> None:
    late = Late(world, "refund")
    step = await world.captured()
    later = step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.refund(500)
    later.app = world.app
    await later.refund(500)
    await late.deliver()
    assert await refunds(world, step) == [500]


@pytest.mark.parametrize("token", ["tok_success", "tok_timeout_after_refund"])
async def test_of_many_concurrent_duplicates_one_refunds(world: World, token: str) -> None:
    step = await world.captured(token)
    later = step.later()
    answers = await asyncio.gather(*(later.refund(700) for _ in range(CALLERS)), return_exceptions=True)
    unexpected = [
        a for a in answers if isinstance(a, BaseException) and not isinstance(a, OutcomeUnknownError)
    ]
    assert unexpected == []
    assert (await later.refund(700)).refunded_minor == 700
    assert await refunds(world, step) == [700]


async def test_concurrent_refunds_of_many_sagas_never_come_to_more_than_was_captured(world: World) -> None:
    step = await world.captured()
    sagas = [step.later() for _ in range(CALLERS)]
    answers = await asyncio.gather(*(saga.refund(200) for saga in sagas), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Fault)]
    assert {fault.reason for fault in refused} == {"REFUND_TOO_LARGE"}
    assert len(refused) == CALLERS - 6
    assert await refunds(world, step) == [200] * 6
    assert await world.state(step) == "PARTIALLY_REFUNDED"


@pytest.mark.parametrize("after", [False, True])
async def test_a_refund_in_flight_counts_against_what_is_left(world: World, *, after: bool) -> None:
    held = Held(world, "refund", after=after)
    step = await world.captured()
    in_flight = asyncio.create_task(step.later(world.with_provider(held)).refund(1000))
    await held.reached.wait()
    assert (await refusal(step.later(), 235)).reason == "REFUND_TOO_LARGE"
    await step.later().refund(234)
    held.go_on.set()
    assert (await in_flight).state is PaymentState.REFUNDED
    assert await refunds(world, step) == [234, 1000]


# and reversals


async def test_a_reversal_gives_back_only_what_is_left(world: World) -> None:
    for undo in (False, True):
        step = await world.captured()
        await step.later().refund(200)
        await step.later().refund(34)
        reversal = step if undo else step.later()
        assert await reversal.reverse() is PaymentState.REFUNDED
        assert await reversal.reverse() is PaymentState.REFUNDED
        assert await refunds(world, step) == [200, 34, 1000]


async def test_the_reversal_of_what_went_back_in_full_gives_nothing_back(world: World) -> None:
    for undo in (False, True):
        step = await world.captured()
        await step.later().refund(1234)
        reversal = step if undo else step.later()
        for _ in range(2):
            assert await reversal.reverse() is PaymentState.REFUNDED
        assert await refunds(world, step) == [1234]


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("amount", [1000, 1234])
async def test_a_reversal_settles_a_refund_in_flight_by_its_own_key_first(
    world: World, amount: int, *, arrived: bool
) -> None:
    late = Late(world, "refund")
    step = await world.captured()
    later = step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.refund(amount)
    if arrived:
        await late.deliver()
    assert await step.later().reverse() is PaymentState.REFUNDED
    await late.deliver()
    assert await refunds(world, step) == [part for part in (amount, 1234 - amount) if part]
    # The refund had its effect, and its saga is told so.
    assert await world.stored(later) == "DONE"
    assert (await later.refund(amount)).refunded_minor == amount


async def test_a_reversal_whose_refunds_in_flight_stay_unknown_goes_on_later(world: World) -> None:
    late = Late(world, "refund")
    step = await world.captured()
    later, reversal = step.later(world.with_provider(late)), step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.refund(500)
    with pytest.raises(OutcomeUnknownError):
        await reversal.reverse()
    assert await world.state(step) == "REVERSING"
    assert (await refusal(step.later(), 1)).reason == "PAYMENT_NOT_REFUNDABLE"
    later.app = reversal.app = world.app
    # The refund settles by itself while the reversal is at work, and does not end it.
    assert (await later.refund(500)).state is PaymentState.REVERSING
    assert await reversal.reverse() is PaymentState.REFUNDED
    assert await refunds(world, step) == [500, 734]


async def test_a_reversal_settles_a_bounded_number_of_refunds_in_flight_at_a_time(world: World) -> None:
    late = Late(world, "refund")
    step = await world.captured()
    sagas = [step.later(world.with_provider(late)) for _ in range(MAX_FINISHED_REFUNDS + 1)]
    for saga in sagas:
        with pytest.raises(OutcomeUnknownError):
            await saga.refund(100)
    reversal = step.later()
    with pytest.raises(OutcomeUnknownError):
        await reversal.reverse()
    assert len(await refunds(world, step)) == MAX_FINISHED_REFUNDS
    assert await reversal.reverse() is PaymentState.REFUNDED
    assert await refunds(world, step) == [100] * len(sagas) + [1234 - 100 * len(sagas)]


async def test_a_reversal_tells_a_declined_refund_so_and_gives_all_back(world: World) -> None:
    late = Late(world, "refund")
    step = await world.captured("tok_partial_refund_declined")
    later = step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.refund(1000)
    assert await step.later().reverse() is PaymentState.REFUNDED
    assert (await refusal(later, 1000)).reason == "PAYMENT_NOT_REFUNDABLE"
    assert await refunds(world, step) == [1234]


async def test_refunds_and_reversals_at_the_same_time_give_back_all_and_no_more(world: World) -> None:
    for token in ("tok_success", "tok_timeout_after_refund"):
        for _ in range(4):
            step = await world.captured(token)
            one, other, reversal = step.later(), step.later(), step.later()
            calls = [one.refund(700), reversal.reverse(), other.refund(600), step.reverse(), one.refund(700)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            expected = (Fault, OutcomeUnknownError, PaymentReversingError)
            assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, expected)] == []
            for saga, amount in ((one, 700), (other, 600)):
                await asyncio.gather(saga.refund(amount), return_exceptions=True)
            assert await answered(reversal) is PaymentState.REFUNDED
            for saga, amount in ((one, 700), (other, 600)):
                await asyncio.gather(saga.refund(amount), return_exceptions=True)
                assert await world.stored(saga) in {"DONE", "REFUSED"}
            assert sum(await refunds(world, step)) == 1234
