from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from chassis.errors import Fault
from chassis.ids import new_id
from services.payments.domain import (
    CaptureMode,
    OutcomeUnknownError,
    PaymentExistsError,
    PaymentReversingError,
    PaymentState,
)
from services.payments.provider import PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment
from services.payments.simulated_provider import SimulatedProvider

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.payments.conftest import Step, World

pytestmark = pytest.mark.integration

REFUNDED = [("AUTHORIZATION", 1234), ("CAPTURE", 1234), ("REFUND", 1234)]
TOKENS = (
    "tok_success",
    "tok_declined",
    "tok_insufficient_funds",
    "tok_slow",
    "tok_timeout_after_charge",
    "tok_late",
)


class Held(SimulatedProvider):
    """Holds authorise, before or after it has its effect, until the test lets it go on."""

    def __init__(self, world: World, *, after: bool) -> None:
        super().__init__(world.provider_database, slow_seconds=0, late_seconds=0)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self._after = after

    @override
    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        if self._after:
            answer = await super().authorise(terms, operation_key=operation_key, capture_key=capture_key)
            await self._hold()
            return answer
        await self._hold()
        return await super().authorise(terms, operation_key=operation_key, capture_key=capture_key)

    async def _hold(self) -> None:
        self.reached.set()
        await self.go_on.wait()


class LosesFirstAnswers(SimulatedProvider):
    """Cancels and refunds, and loses the first answer to each."""

    def __init__(self, world: World) -> None:
        super().__init__(world.provider_database, slow_seconds=0, late_seconds=0)
        self._lost: set[str] = set()

    @override
    async def cancel(self, payment_id: UUID, *, operation_key: str) -> ProviderPayment:
        answer = await super().cancel(payment_id, operation_key=operation_key)
        return self._first_lost(operation_key, answer)

    @override
    async def refund(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        answer = await super().refund(payment_id, operation_key=operation_key, amount_minor=amount_minor)
        return self._first_lost(operation_key, answer)

    def _first_lost(self, key: str, answer: ProviderPayment) -> ProviderPayment:
        if key not in self._lost:
            self._lost.add(key)
            raise ProviderOutcomeUnknownError
        return answer


async def net_at_the_provider(world: World, step: Step) -> int:
    entries = dict(await world.provider_ledger(step))
    return entries.get("AUTHORIZATION", 0) - entries.get("VOID", 0) - entries.get("REFUND", 0)


async def test_what_was_captured_is_refunded_once(world: World) -> None:
    step = await world.step()
    await step.charge()
    assert await step.reverse() is PaymentState.REFUNDED
    assert await step.reverse() is PaymentState.REFUNDED
    assert await world.ledger(step) == REFUNDED == await world.provider_ledger(step)
    assert await world.events(step) == [("PaymentCharged", 1), ("PaymentRefunded", 2)]


async def test_what_was_only_authorised_is_voided(world: World) -> None:
    step = await world.step(capture=CaptureMode.MANUAL)
    await step.charge()
    assert await step.reverse() is PaymentState.VOIDED
    assert await world.ledger(step) == [("AUTHORIZATION", 1234), ("VOID", 1234)]
    assert await world.events(step) == [("PaymentVoided", 1)]


async def test_what_was_declined_needs_no_undo(world: World) -> None:
    step = await world.step("tok_declined")
    with pytest.raises(Fault, match="CARD_DECLINED"):
        await step.charge()
    assert await step.reverse() is PaymentState.DECLINED
    assert await step.reverse() is PaymentState.DECLINED
    assert await world.events(step) == [("PaymentDeclined", 1)]


async def test_what_never_was_is_reversed_and_a_late_charge_is_refused(world: World) -> None:
    step = await world.step()
    assert await step.reverse() is None
    with pytest.raises(Fault, match="TOMBSTONED") as refusal:
        await step.charge()
    assert refusal.value.recorded
    assert await step.reverse() is None
    assert await world.state(step) is None
    assert await world.provider_ledger(step) == []


async def test_a_payment_of_another_step_is_not_taken_for_nothing(world: World) -> None:
    step = await world.step()
    await step.charge()
    step.saga_id = new_id()
    with pytest.raises(PaymentExistsError):
        await step.reverse()
    assert await world.state(step) == "CAPTURED"


async def test_an_unknown_charge_is_cancelled_for_good_and_refunded(world: World) -> None:
    step = await world.step("tok_timeout_after_charge")
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    assert await step.reverse() is PaymentState.REFUNDED
    assert await world.ledger(step) == REFUNDED == await world.provider_ledger(step)


async def test_an_authorisation_on_its_way_never_arrives_after_the_undo(world: World) -> None:
    step = await world.step("tok_late")
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    assert await step.reverse() is PaymentState.VOIDED
    await world.deliver(step)
    assert await world.provider_ledger(step) == []
    assert await world.events(step) == [("PaymentVoided", 1)]
    with pytest.raises(Fault, match="TOMBSTONED"):
        await step.charge()


async def test_an_authorisation_that_arrived_unseen_is_refunded(world: World) -> None:
    step = await world.step("tok_late")
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    await world.deliver(step)
    assert await step.reverse() is PaymentState.REFUNDED
    assert await world.provider_ledger(step) == REFUNDED


@pytest.mark.parametrize("after", [False, True])
async def test_a_charge_in_flight_gives_way_to_its_undo(world: World, *, after: bool) -> None:
    provider = Held(world, after=after)
    step = await world.step(app=world.with_provider(provider))
    in_flight = asyncio.create_task(step.charge())
    await provider.reached.wait()
    undone = await step.reverse()
    assert undone is (PaymentState.REFUNDED if after else PaymentState.VOIDED)
    provider.go_on.set()
    with pytest.raises(Fault, match="TOMBSTONED"):
        await in_flight
    assert await world.state(step) == undone
    assert await net_at_the_provider(world, step) == 0


async def test_a_charge_that_comes_back_while_its_undo_is_at_work_is_told_so(world: World) -> None:
    provider = LosesFirstAnswers(world)
    held = Held(world, after=True)
    step = await world.step(app=world.with_provider(held))
    in_flight = asyncio.create_task(step.charge())
    await held.reached.wait()
    step.app = world.with_provider(provider)
    with pytest.raises(OutcomeUnknownError):
        await step.reverse()
    assert await world.state(step) == "REVERSING"
    held.go_on.set()
    with pytest.raises(PaymentReversingError):
        await in_flight
    with pytest.raises(PaymentReversingError):
        await step.charge()
    assert await world.state(step) == "REVERSING"
    with pytest.raises(OutcomeUnknownError):
        await step.reverse()
    assert await step.reverse() is PaymentState.REFUNDED


async def test_lost_answers_to_an_undo_refund_once(world: World) -> None:
    step = await world.step(app=world.with_provider(LosesFirstAnswers(world)))
    await step.charge()
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await step.reverse()
    assert await step.reverse() is PaymentState.REFUNDED
    assert await world.ledger(step) == REFUNDED == await world.provider_ledger(step)
    payment = await step.charge()
    # The step was done before it was undone: its reply is what was answered then.
    assert payment.state is PaymentState.CAPTURED


async def test_an_undo_still_works_after_the_method_was_removed(world: World) -> None:
    from services.payments.app.payment_methods import remove_payment_method

    step = await world.step("tok_timeout_after_charge")
    with pytest.raises(OutcomeUnknownError):
        await step.charge()
    await remove_payment_method(world.app, step.order.user_id, step.order.payment_method_id)
    assert await step.reverse() is PaymentState.REFUNDED


@pytest.mark.parametrize("token", TOKENS)
async def test_every_order_of_charge_charge_again_reverse_and_reverse_again_ends_in_nothing(
    world: World, token: str
) -> None:
    for order in sorted(set(itertools.permutations(("charge", "charge", "reverse", "reverse")))):
        step = await world.step(token)
        for name in order:
            try:
                await getattr(step, name)()
            except (Fault, OutcomeUnknownError):
                continue
        last = await step.reverse()
        assert last in {None, "REFUNDED", "VOIDED", "DECLINED"}, order
        assert await net_at_the_provider(world, step) == 0, order
        assert await world.state(step) == last, order


@pytest.mark.parametrize("token", TOKENS)
async def test_charges_and_undos_at_the_same_time_end_in_nothing(world: World, token: str) -> None:
    for _ in range(5):
        step = await world.step(token)
        calls = [step.charge(), step.reverse(), step.charge(), step.reverse()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        expected = (Fault, OutcomeUnknownError, PaymentReversingError)
        assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, expected)] == []
        last = await step.reverse()
        assert last in {None, "REFUNDED", "VOIDED", "DECLINED"}
        assert await net_at_the_provider(world, step) == 0
        assert await world.state(step) == last
