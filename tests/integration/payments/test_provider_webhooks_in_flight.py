"""The provider acts by itself while a charge, a capture, a refund or a reversal of ours is at work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from sagacity.payments.v1 import events_pb2
from services.payments.app.provider_webhook import Outcome
from services.payments.domain import CaptureMode, NotSettledError, OutcomeUnknownError, PaymentState
from tests.integration.payments.providers import DeclinesRefunds, Held, Late
from tests.integration.payments.published import BY_PROVIDER, BY_SAGA, facts, given_back

if TYPE_CHECKING:
    from services.payments.simulated_dashboard import Made
    from tests.integration.payments.conftest import Step, World

pytestmark = pytest.mark.integration

LOST = "tok_timeout_after_charge"


async def too_early(world: World, made: Made) -> None:
    with pytest.raises(NotSettledError):
        await world.tell(made, f"evt_{made.operation.operation_key}")


async def applied(world: World, made: Made) -> None:
    assert await world.tell(made, f"evt_{made.operation.operation_key}") is Outcome.APPLIED


async def unknown(world: World, *, capture: CaptureMode = CaptureMode.AUTOMATIC) -> Step:
    """A charge that the provider made, and whose answer was lost."""
    step = await world.step(LOST, capture=capture)
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    assert await world.state(step) == "UNKNOWN"
    return step


# a charge


async def test_a_refund_of_what_we_do_not_know_to_be_charged_waits_for_the_charge(world: World) -> None:
    step = await unknown(world)
    made = await world.dashboard.refund(step.order.payment_id, 500)
    await too_early(world, made)
    assert (await step.charge()).state is PaymentState.CAPTURED
    await applied(world, made)
    assert await world.state(step) == "PARTIALLY_REFUNDED"
    assert await given_back(world, step) == [(500, BY_PROVIDER)]


@pytest.mark.parametrize("amount", [500, 1234])
async def test_the_undo_of_a_charge_that_we_do_not_know_of_records_what_the_provider_gave_back(
    world: World, amount: int
) -> None:
    step = await unknown(world)
    made = await world.dashboard.refund(step.order.payment_id, amount)
    await too_early(world, made)
    assert await step.reverse() is PaymentState.REFUNDED
    assert await world.tell(made) is Outcome.NOTHING_NEW
    charged, *_ = await facts(world, step)
    assert isinstance(charged, events_pb2.PaymentCharged)
    expected = [(amount, BY_PROVIDER), (1234 - amount, BY_SAGA)]
    assert await given_back(world, step) == [back for back in expected if back[0]]


async def test_a_hold_that_the_provider_let_go_before_we_knew_of_it_is_declined(world: World) -> None:
    step = await unknown(world, capture=CaptureMode.MANUAL)
    made = await world.dashboard.void(step.order.payment_id)
    await too_early(world, made)
    with pytest.raises(Fault, match="declined") as refused:
        await step.charge()
    assert refused.value.recorded
    assert await world.state(step) == "DECLINED"
    assert await world.ledger(step) == [("AUTHORIZATION", 1234), ("VOID", 1234)]
    assert await world.tell(made) is Outcome.NOTHING_NEW
    (declined,) = await facts(world, step)
    assert declined.reason == "CANCELLED_BY_PROVIDER"


async def test_the_undo_of_a_hold_that_we_do_not_know_of_and_the_provider_let_go_voids_it(
    world: World,
) -> None:
    step = await unknown(world, capture=CaptureMode.MANUAL)
    made = await world.dashboard.void(step.order.payment_id)
    assert await step.reverse() is PaymentState.VOIDED
    assert await world.tell(made) is Outcome.NOTHING_NEW
    (voided,) = await facts(world, step)
    assert voided.origin == BY_PROVIDER


# a capture


async def test_a_refund_that_comes_before_our_capture_is_recorded_waits_for_it(world: World) -> None:
    held = Held(world, "capture", after=True)
    step = await world.authorised()
    capture = asyncio.create_task(step.later(world.with_provider(held)).capture())
    await held.reached.wait()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    await too_early(world, made)
    held.go_on.set()
    assert (await capture).state is PaymentState.CAPTURED
    await applied(world, made)
    assert await given_back(world, step) == [(500, BY_PROVIDER)]


async def test_a_capture_whose_answer_was_lost_records_no_refund_of_the_provider(world: World) -> None:
    step = await world.authorised("tok_timeout_after_capture")
    later = step.later()
    with pytest.raises(OutcomeUnknownError):
        await later.capture()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    await too_early(world, made)
    captured = await later.capture()
    assert (captured.state, captured.refunded_minor) == ("CAPTURED", 0)
    await applied(world, made)
    assert await given_back(world, step) == [(500, BY_PROVIDER)]


async def test_a_capture_that_comes_after_the_hold_was_let_go_is_refused_for_good(world: World) -> None:
    for told_first in (False, True):
        held = Held(world, "capture", after=False)
        step = await world.authorised()
        later = step.later(world.with_provider(held))
        capture = asyncio.create_task(later.capture())
        await held.reached.wait()
        made = await world.dashboard.void(step.order.payment_id)
        if told_first:
            await applied(world, made)
        held.go_on.set()
        with pytest.raises(Fault) as refused:
            await capture
        assert (refused.value.reason, refused.value.recorded) == ("PAYMENT_NOT_CAPTURABLE", True)
        if not told_first:
            await applied(world, made)
        assert await world.state(step) == "VOIDED"
        assert len(await facts(world, step)) == 1


# a refund


@pytest.mark.parametrize("after", [False, True])
async def test_our_refund_in_flight_and_the_providers_do_not_take_from_each_other(
    world: World, *, after: bool
) -> None:
    held = Held(world, "refund", after=after)
    step = await world.captured()
    refund = asyncio.create_task(step.later(world.with_provider(held)).refund(700))
    await held.reached.wait()
    await applied(world, await world.dashboard.refund(step.order.payment_id, 534))
    held.go_on.set()
    assert (await refund).state is PaymentState.REFUNDED
    assert await given_back(world, step) == [(534, BY_PROVIDER), (700, BY_SAGA)]


@pytest.mark.parametrize("told_first", [False, True])
async def test_our_refund_of_what_the_provider_gave_back_meanwhile_is_refused_for_good(
    world: World, *, told_first: bool
) -> None:
    held = Held(world, "refund", after=False)
    step = await world.captured()
    later = step.later(world.with_provider(held))
    refund = asyncio.create_task(later.refund(1000))
    await held.reached.wait()
    made = await world.dashboard.refund(step.order.payment_id)
    if told_first:
        await applied(world, made)
    held.go_on.set()
    with pytest.raises(Fault) as refused:
        await refund
    assert (refused.value.reason, refused.value.recorded) == ("REFUND_TOO_LARGE", True)
    if not told_first:
        await applied(world, made)
    assert await world.state(step) == "REFUNDED"
    assert await given_back(world, step) == [(1234, BY_PROVIDER)]


async def test_our_refund_whose_answer_was_lost_is_found_beside_the_providers(world: World) -> None:
    late = Late(world, "refund")
    step = await world.captured()
    later = step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.refund(700)
    await late.deliver()
    await applied(world, await world.dashboard.refund(step.order.payment_id))
    assert await world.state(step) == "PARTIALLY_REFUNDED"
    later.app = world.app
    assert (await later.refund(700)).state is PaymentState.REFUNDED
    assert await given_back(world, step) == [(534, BY_PROVIDER), (700, BY_SAGA)]


# a reversal


async def reversed_at_last(step: Step) -> None:
    """Reverse as a saga does: again, while the outcome is unknown."""
    later = step.later()
    for _ in range(3):
        try:
            assert await later.reverse() in {PaymentState.REFUNDED, PaymentState.VOIDED}
        except OutcomeUnknownError:
            continue
        return
    raise AssertionError


@pytest.mark.parametrize("amount", [500, 1234])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(("name", "after"), [("cancel", False), ("cancel", True), ("refund", False)])
async def test_what_the_provider_gives_back_during_a_reversal_is_one_fact_beside_the_rest(
    world: World, name: str, amount: int, *, after: bool, told: bool
) -> None:
    held = Held(world, name, after=after)
    step = await world.captured()
    reversal = asyncio.create_task(step.later(world.with_provider(held)).reverse())
    await held.reached.wait()
    made = await world.dashboard.refund(step.order.payment_id, amount)
    if told:
        await applied(world, made)
        assert await world.state(step) == "REVERSING"
    held.go_on.set()
    await asyncio.gather(reversal, return_exceptions=True)
    await reversed_at_last(step)
    assert await world.tell(made) is Outcome.NOTHING_NEW
    assert await world.state(step) == "REFUNDED"
    expected = [(amount, BY_PROVIDER), (1234 - amount, BY_SAGA)]
    assert await given_back(world, step) == [back for back in expected if back[0]]


async def test_a_hold_that_is_let_go_during_its_reversal_is_voided_once(world: World) -> None:
    for told_first in (False, True):
        held = Held(world, "cancel", after=False)
        step = await world.authorised()
        later = step.later(world.with_provider(held))
        reversal = asyncio.create_task(later.reverse())
        await held.reached.wait()
        made = await world.dashboard.void(step.order.payment_id)
        if told_first:
            await applied(world, made)
        held.go_on.set()
        assert await reversal is PaymentState.VOIDED
        assert await later.reverse() is PaymentState.VOIDED
        assert await world.tell(made) is Outcome.NOTHING_NEW
        (voided,) = await facts(world, step)
        assert voided.origin == BY_PROVIDER


async def test_a_reversal_that_the_provider_declines_ends_well_once_the_dispute_is_lost(
    world: World,
) -> None:
    step = await world.captured()
    later = step.later(world.with_provider(DeclinesRefunds(world)))
    with pytest.raises(Exception, match="ACCOUNT_CLOSED"):
        await later.reverse()
    assert await world.state(step) == "REVERSING"
    await applied(world, await world.dashboard.refund(step.order.payment_id, reason="DISPUTE"))
    assert await world.state(step) == "REVERSING"
    later.app = world.app
    assert await later.reverse() is PaymentState.REFUNDED
    assert await given_back(world, step) == [(1234, BY_PROVIDER)]


async def test_after_the_provider_gave_all_back_reversals_succeed_and_refunds_are_refused(
    world: World,
) -> None:
    for told_first in (True, False):
        step = await world.captured()
        made = await world.dashboard.refund(step.order.payment_id)
        if told_first:
            await applied(world, made)
        with pytest.raises(Fault) as refused:
            await step.later().refund(1)
        assert (refused.value.reason, refused.value.recorded) == ("REFUND_TOO_LARGE", True)
        assert await step.reverse() is PaymentState.REFUNDED
        assert await step.later().reverse() is PaymentState.REFUNDED
        assert await world.tell(made, f"evt_{new_id().hex}") is Outcome.NOTHING_NEW
        assert await given_back(world, step) == [(1234, BY_PROVIDER)]
