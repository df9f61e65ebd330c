from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from chassis.errors import Fault
from services.payments.domain import (
    CaptureMode,
    OutcomeUnknownError,
    PaymentExistsError,
    PaymentNotRefundableError,
    PaymentReversingError,
    PaymentState,
)
from tests.integration.payments.providers import DeclinesRefunds, Held, Late, Watched

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Later, Step, World

pytestmark = pytest.mark.integration

REFUNDED = [("AUTHORIZATION", 1234), ("CAPTURE", 1234), ("REFUND", 1234)]
CALLERS = 16
ENDS = {"REFUNDED", "VOIDED", "DECLINED"}
TOKENS = (
    "tok_success",
    "tok_declined",
    "tok_timeout_after_charge",
    "tok_late",
    "tok_timeout_after_refund",
    "tok_partial_refund_declined",
)
EXPECTED = (Fault, OutcomeUnknownError, PaymentReversingError, PaymentExistsError)


async def charged(world: World, token: str) -> Step:
    step = await world.step(token)
    await asyncio.gather(step.charge(), return_exceptions=True)
    return step


async def last_answer(later: Later) -> PaymentState | None:
    """Reverse as a saga does: again, while the outcome is unknown; a lost answer is lost once."""
    try:
        return await later.reverse()
    except OutcomeUnknownError:
        return await later.reverse()


async def test_what_was_captured_is_refunded_once_by_another_saga(world: World) -> None:
    step = await world.captured()
    later = step.later()
    wakes = len(world.wakes)
    for _ in range(2):
        assert await later.reverse() is PaymentState.REFUNDED
    assert len(world.wakes) == wakes + 1
    assert await world.ledger(step) == REFUNDED == await world.provider_ledger(step)
    assert await world.events(step) == [("PaymentCharged", 1), ("PaymentRefunded", 2)]
    assert await world.stored(later) == "DONE"
    # The charge was done, and is answered as it was then.
    assert (await step.charge()).state is PaymentState.CAPTURED


async def test_what_was_only_authorised_is_voided(world: World) -> None:
    step = await world.authorised()
    assert await step.later().reverse() is PaymentState.VOIDED
    assert await world.events(step) == [("PaymentVoided", 1)]


async def test_a_later_duplicate_is_answered_from_memory(world: World) -> None:
    provider = Watched(world)
    step = await world.captured(app=world.with_provider(provider))
    later = step.later()
    await later.reverse()
    asked = provider.asked.total()
    assert await later.reverse() is PaymentState.REFUNDED
    assert provider.asked.total() == asked


async def test_where_there_is_nothing_it_succeeds_and_says_so_again(world: World) -> None:
    step = await world.step()
    later = step.later()
    assert await later.reverse() is None
    await step.charge()
    assert await later.reverse() is None
    assert await world.state(step) == "CAPTURED"


@pytest.mark.parametrize("state", sorted(ENDS))
async def test_what_has_come_to_its_end_is_a_success_without_a_call(world: World, state: str) -> None:
    provider = Watched(world)
    step = await world.step(
        "tok_declined" if state == "DECLINED" else "tok_success",
        capture=CaptureMode.MANUAL if state == "VOIDED" else CaptureMode.AUTOMATIC,
    )
    await asyncio.gather(step.charge(), return_exceptions=True)
    await step.reverse()
    assert await world.state(step) == state
    events = await world.events(step)
    assert await step.later(world.with_provider(provider)).reverse() == state
    assert provider.asked.total() == 0
    assert await world.events(step) == events


async def test_another_request_for_the_same_step_is_refused(world: World) -> None:
    step, other = await world.captured(), await world.authorised()
    later = step.later()
    await later.reverse()
    later.payment_id = other.order.payment_id
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await later.capture()
    assert await world.state(other) == "AUTHORIZED"


async def test_lost_answers_refund_once(world: World) -> None:
    step = await world.captured("tok_timeout_after_refund")
    later = step.later()
    with pytest.raises(OutcomeUnknownError):
        await later.reverse()
    assert await world.state(step) == "REVERSING"
    assert await world.stored(later) == "IN_PROGRESS"
    assert await later.reverse() is PaymentState.REFUNDED
    assert await world.ledger(step) == REFUNDED == await world.provider_ledger(step)


@pytest.mark.parametrize("undo", [False, True])
async def test_a_refund_that_the_provider_declines_is_a_refusal_that_is_not_stored(
    world: World, *, undo: bool
) -> None:
    step = await world.captured()
    reversal = step if undo else step.later()
    reversal.app = world.with_provider(DeclinesRefunds(world))
    for _ in range(2):
        with pytest.raises(PaymentNotRefundableError, match="ACCOUNT_CLOSED"):
            await reversal.reverse()
    assert await world.state(step) == "REVERSING"
    # Once a person has mended it, the same call goes on.
    reversal.app = world.app
    assert await reversal.reverse() is PaymentState.REFUNDED
    assert await world.ledger(step) == REFUNDED == await world.provider_ledger(step)


async def test_a_cancel_that_arrives_late_changes_nothing_more(world: World) -> None:
    late = Late(world, "cancel")
    step = await world.authorised()
    later = step.later(world.with_provider(late))
    with pytest.raises(OutcomeUnknownError):
        await later.reverse()
    later.app = world.app
    assert await later.reverse() is PaymentState.VOIDED
    await late.deliver()
    assert await world.ledger(step) == [("AUTHORIZATION", 1234), ("VOID", 1234)]


@pytest.mark.parametrize("token", ["tok_timeout_after_charge", "tok_late"])
async def test_an_unknown_charge_is_reversed_for_good_and_its_saga_is_told_so(
    world: World, token: str
) -> None:
    step = await charged(world, token)
    assert await world.state(step) == "UNKNOWN"
    later = step.later()
    assert await later.reverse() in {"REFUNDED", "VOIDED"}
    await world.deliver(step)
    with pytest.raises(Fault, match="TOMBSTONED") as refused:
        await step.charge()
    assert refused.value.recorded
    assert await world.broken() == []
    assert await step.reverse() == await world.state(step)


@pytest.mark.parametrize("token", TOKENS)
async def test_of_many_concurrent_duplicates_one_has_the_effect(world: World, token: str) -> None:
    step = await charged(world, token)
    later = step.later()
    answers = await asyncio.gather(*(later.reverse() for _ in range(CALLERS)), return_exceptions=True)
    assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, EXPECTED)] == []
    last = await last_answer(later)
    assert last in ENDS
    assert last == await world.state(step)
    assert len([name for name, _ in await world.events(step) if name == "PaymentRefunded"]) <= 1
    assert await world.broken() == []


@pytest.mark.parametrize("token", TOKENS)
async def test_every_order_of_do_do_again_undo_and_undo_again_ends_in_nothing(
    world: World, token: str
) -> None:
    for order in sorted(set(itertools.permutations(("reverse", "reverse", "undo", "undo")))):
        step = await charged(world, token)
        later = step.later()
        for name in order:
            try:
                await getattr(later, name)()
            except EXPECTED:
                continue
        assert await last_answer(step.later()) in ENDS, order
        # Whichever was the last one, the step's own row is settled.
        assert await world.stored(later) in {"DONE", "TOMBSTONE"}, order
        assert await world.broken() == [], order


@pytest.mark.parametrize("token", TOKENS)
async def test_every_order_of_it_and_the_undo_of_the_charge_ends_in_nothing(world: World, token: str) -> None:
    for order in sorted(set(itertools.permutations(("step", "step", "undo", "undo")))):
        step = await charged(world, token)
        later = step.later()
        for name in order:
            try:
                await (later if name == "step" else step).reverse()
            except EXPECTED:
                continue
        last = await last_answer(later)
        assert last in ENDS, order
        assert await step.reverse() == last == await world.state(step), order
        assert await world.rows("SELECT 1 FROM barrier WHERE outcome = 'IN_PROGRESS'") == [], order
        assert await world.broken() == [], order


@pytest.mark.parametrize("token", TOKENS)
async def test_it_and_the_undo_of_the_charge_at_the_same_time_give_back_once(
    world: World, token: str
) -> None:
    for _ in range(5):
        step = await charged(world, token)
        later = step.later()
        calls = [later.reverse(), step.reverse(), step.charge(), later.reverse(), step.reverse()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, EXPECTED)] == []
        last = await last_answer(later)
        assert last in ENDS
        assert await step.reverse() == last == await world.state(step)
        assert await world.rows("SELECT 1 FROM barrier WHERE outcome = 'IN_PROGRESS'") == []
        assert await world.broken() == []


async def test_of_two_sagas_that_reverse_at_once_the_slower_one_is_answered_too(world: World) -> None:
    held = Held(world, "cancel", after=True)
    step = await world.authorised()
    in_flight = asyncio.create_task(step.later(world.with_provider(held)).reverse())
    await held.reached.wait()
    assert await world.state(step) == "REVERSING"
    assert await step.later().reverse() is PaymentState.VOIDED
    held.go_on.set()
    assert await in_flight is PaymentState.VOIDED
    assert await world.events(step) == [("PaymentVoided", 1)]
    assert await world.rows("SELECT 1 FROM barrier WHERE outcome = 'IN_PROGRESS'") == []
