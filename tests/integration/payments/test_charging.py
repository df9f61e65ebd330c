from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from chassis.errors import Fault
from chassis.ids import new_id
from services.payments.domain import (
    CaptureMode,
    OutcomeUnknownError,
    PaymentExistsError,
    PaymentState,
)
from services.payments.provider import PaymentTerms, ProviderPayment
from services.payments.simulated_provider import SimulatedProvider
from tests.integration.payments.providers import WithoutCombinedCapture

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Step, World

pytestmark = pytest.mark.integration

CHARGED = [("AUTHORIZATION", 1234), ("CAPTURE", 1234)]


class NeverAnswers(SimulatedProvider):
    """Does what it is asked and keeps the answer to itself."""

    def __init__(self, world: World) -> None:
        super().__init__(world.provider_database, slow_seconds=0, late_seconds=0)
        self.done = asyncio.Event()

    @override
    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        await super().authorise(terms, operation_key=operation_key, capture_key=capture_key)
        self.done.set()
        await asyncio.Event().wait()
        raise AssertionError


class Counting(SimulatedProvider):
    """Counts what it is asked for."""

    asked = 0

    @override
    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        self.asked += 1
        return await super().authorise(terms, operation_key=operation_key, capture_key=capture_key)


async def cut_off_after_the_provider(world: World, token: str = "tok_success") -> Step:  # noqa: S107
    """Leaves a charge as the death of its process would: the provider has charged, nobody wrote it down."""
    provider = NeverAnswers(world)
    step = await world.step(token, app=world.with_provider(provider))
    call = asyncio.create_task(step.charge())
    await provider.done.wait()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    step.app = world.app
    return step


async def test_a_charge_captures_and_tells_so_in_both_ledgers_and_one_event(world: World) -> None:
    step = await world.step()
    payment = await step.charge()
    assert (payment.state, payment.captured_minor, payment.refunded_minor) == ("CAPTURED", 1234, 0)
    assert await world.ledger(step) == CHARGED == await world.provider_ledger(step)
    assert await world.events(step) == [("PaymentCharged", 1)]
    assert len(world.wakes) == 1


async def test_the_same_charge_again_answers_the_same_without_asking_the_provider(world: World) -> None:
    provider = Counting(world.provider_database, slow_seconds=0, late_seconds=0)
    step = await world.step(app=world.with_provider(provider))
    assert await step.charge() == await step.charge()
    assert provider.asked == 1


async def test_another_request_for_the_same_step_is_refused(world: World) -> None:
    step = await world.step()
    await step.charge()
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await step.charge(b"another")


async def test_a_payment_id_of_another_step_is_refused_and_leaves_nothing(world: World) -> None:
    step = await world.step()
    await step.charge()
    step.saga_id = new_id()
    with pytest.raises(PaymentExistsError):
        await step.charge()
    assert await world.rows("SELECT 1 FROM barrier WHERE saga_id = %(id)s", id=step.saga_id) == []


@pytest.mark.parametrize(
    ("token", "reason"),
    [("tok_declined", "CARD_DECLINED"), ("tok_insufficient_funds", "INSUFFICIENT_FUNDS")],
)
async def test_what_the_provider_declines_is_a_recorded_refusal(
    world: World, token: str, reason: str
) -> None:
    step = await world.step(token)
    for _ in range(2):
        with pytest.raises(Fault) as refusal:
            await step.charge()
        assert (refusal.value.reason, refusal.value.kind) == (reason, "FAILED_PRECONDITION")
        assert refusal.value.recorded
    assert await world.state(step) == "DECLINED"
    assert await world.ledger(step) == [] == await world.provider_ledger(step)
    assert await world.events(step) == [("PaymentDeclined", 1)]


async def test_a_method_of_somebody_else_is_a_recorded_refusal_without_a_payment(world: World) -> None:
    step = await world.step()
    theirs = await world.step()
    step.order = type(step.order)(
        payment_id=step.order.payment_id,
        order_id=step.order.order_id,
        user_id=step.order.user_id,
        payment_method_id=theirs.order.payment_method_id,
        amount_minor=1234,
        currency_code="EUR",
        capture=CaptureMode.AUTOMATIC,
    )
    for _ in range(2):
        with pytest.raises(Fault, match="PAYMENT_METHOD_NOT_FOUND") as refusal:
            await step.charge()
        assert refusal.value.recorded
    assert await world.state(step) is None
    assert await step.reverse() is None


async def test_manual_capture_holds_the_amount_and_charges_nobody(world: World) -> None:
    step = await world.step(capture=CaptureMode.MANUAL)
    payment = await step.charge()
    assert (payment.state, payment.captured_minor) == ("AUTHORIZED", 0)
    assert await world.ledger(step) == [("AUTHORIZATION", 1234)]
    assert await world.events(step) == []


async def test_a_provider_that_captures_apart_is_asked_for_it(world: World) -> None:
    provider = WithoutCombinedCapture(world.provider_database, slow_seconds=0, late_seconds=0)
    step = await world.step(app=world.with_provider(provider))
    assert (await step.charge()).state is PaymentState.CAPTURED
    assert await world.ledger(step) == CHARGED


async def test_a_slow_answer_is_waited_for(world: World) -> None:
    step = await world.step("tok_slow")
    assert (await step.charge()).state is PaymentState.CAPTURED


async def test_an_answer_slower_than_the_time_out_is_unknown_and_found_by_the_next_call(world: World) -> None:
    provider = SimulatedProvider(world.provider_database, slow_seconds=3600, late_seconds=0)
    step = await world.step("tok_slow", app=world.with_provider(provider, timeout_seconds=0.2))
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    assert await world.state(step) == "UNKNOWN"
    assert (await step.charge()).state is PaymentState.CAPTURED
    assert await world.provider_ledger(step) == CHARGED


async def test_a_time_out_after_charging_charges_once(world: World) -> None:
    step = await world.step("tok_timeout_after_charge")
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    assert await world.state(step) == "UNKNOWN"
    assert await world.events(step) == []
    payment = await step.charge()
    assert payment.state is PaymentState.CAPTURED
    assert await step.charge() == payment
    assert await world.ledger(step) == CHARGED == await world.provider_ledger(step)
    assert await world.events(step) == [("PaymentCharged", 1)]


async def test_not_found_at_the_provider_resolves_nothing(world: World) -> None:
    step = await world.step("tok_late")
    for _ in range(3):
        with pytest.raises(OutcomeUnknownError):
            await step.charge()
    assert await world.provider.look_up(step.order.payment_id) is None
    assert await world.state(step) == "UNKNOWN"
    await world.deliver(step)
    assert (await step.charge()).state is PaymentState.CAPTURED
    assert await world.provider_ledger(step) == CHARGED


async def test_a_charge_that_died_after_the_provider_is_resumed_and_charges_once(world: World) -> None:
    step = await cut_off_after_the_provider(world)
    assert await world.state(step) == "IN_PROGRESS"
    assert await world.provider_ledger(step) == CHARGED
    assert (await step.charge()).state is PaymentState.CAPTURED
    assert await world.ledger(step) == CHARGED == await world.provider_ledger(step)


async def test_a_charge_that_died_before_a_decline_was_written_is_declined_when_resumed(world: World) -> None:
    step = await cut_off_after_the_provider(world, "tok_declined")
    with pytest.raises(Fault, match="CARD_DECLINED"):
        await step.charge()


async def test_a_charge_that_died_after_the_provider_can_be_undone(world: World) -> None:
    step = await cut_off_after_the_provider(world)
    assert await step.reverse() is PaymentState.REFUNDED
    assert await world.ledger(step) == [*CHARGED, ("REFUND", 1234)]
    # What consumers add up comes to 0 although the capture was never published on its own.
    assert await world.events(step) == [("PaymentCharged", 1), ("PaymentRefunded", 2)]
    with pytest.raises(Fault, match="TOMBSTONED"):
        await step.charge()


async def test_of_many_concurrent_duplicates_one_charges(world: World) -> None:
    for token in ("tok_success", "tok_timeout_after_charge"):
        step = await world.step(token)
        answers = await asyncio.gather(*(step.charge() for _ in range(12)), return_exceptions=True)
        unexpected = [
            answer
            for answer in answers
            if isinstance(answer, BaseException) and not isinstance(answer, OutcomeUnknownError)
        ]
        assert unexpected == []
        assert (await step.charge()).state is PaymentState.CAPTURED
        assert await world.ledger(step) == CHARGED == await world.provider_ledger(step)
        assert await world.events(step) == [("PaymentCharged", 1)]
