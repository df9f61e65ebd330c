from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from chassis.ids import new_id
from chassis.postgres import Database
from services.payments.domain import Amounts
from services.payments.provider import PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment
from services.payments.simulated_provider import SimulatedProvider

if TYPE_CHECKING:
    from tests.integration.payments.conftest import World

pytestmark = pytest.mark.integration


def terms(token: str = "tok_success") -> PaymentTerms:  # noqa: S107 - a test token
    return PaymentTerms(new_id(), token, 1000, "EUR")


async def authorise(provider: SimulatedProvider, wanted: PaymentTerms, *, capture: bool) -> ProviderPayment:
    capture_key = f"{wanted.payment_id}:c" if capture else None
    return await provider.authorise(wanted, operation_key=f"{wanted.payment_id}:a", capture_key=capture_key)


@pytest.fixture
def provider(world: World) -> SimulatedProvider:
    # These payments are the provider's alone: a world whose books must agree is of no use to them.
    return SimulatedProvider(world.provider_database, slow_seconds=0, late_seconds=3600)


@pytest.fixture(autouse=True)
async def _no_trace(world: World) -> AsyncIterator[None]:
    yield
    await world.rows("DELETE FROM provider_simulation.operation")


async def test_a_hold_is_captured_once_by_its_key_and_refunded_once_by_its_key(
    provider: SimulatedProvider,
) -> None:
    wanted = terms()
    assert (await authorise(provider, wanted, capture=False)).amounts == Amounts(1000)
    for operation, key, amounts in (
        (provider.capture, f"{wanted.payment_id}:c", Amounts(1000, 400)),
        (provider.refund, f"{wanted.payment_id}:r", Amounts(1000, 400, 400)),
    ):
        calls = [operation(wanted.payment_id, operation_key=key, amount_minor=400) for _ in range(6)]
        answers = await asyncio.gather(*calls)
        assert {answer.amounts for answer in answers} == {amounts}


async def test_the_books_are_in_the_database_and_not_in_the_process(
    world: World, provider: SimulatedProvider
) -> None:
    wanted = terms()
    charged = await authorise(provider, wanted, capture=True)
    restarted = SimulatedProvider(world.database, slow_seconds=0, late_seconds=0)
    assert await restarted.look_up(wanted.payment_id) == charged


async def test_nothing_is_authorised_or_captured_after_a_cancel(provider: SimulatedProvider) -> None:
    wanted = terms()
    await provider.open(wanted)
    assert (await provider.cancel(wanted.payment_id, operation_key="k1" + str(wanted.payment_id))).cancelled
    for _ in range(2):
        answer = await authorise(provider, wanted, capture=True)
        assert (answer.cancelled, answer.amounts) == (True, Amounts())

    held = terms()
    await authorise(provider, held, capture=False)
    key = f"{held.payment_id}:v"
    for _ in range(2):
        answer = await provider.cancel(held.payment_id, operation_key=key)
        assert answer.amounts == Amounts(1000, voided_minor=1000)
    answer = await provider.capture(held.payment_id, operation_key=key + "c", amount_minor=1000)
    assert answer.amounts == Amounts(1000, voided_minor=1000)


async def test_an_authorise_and_a_cancel_at_the_same_time_leave_nothing_held(
    provider: SimulatedProvider,
) -> None:
    for _ in range(10):
        wanted = terms()
        await provider.open(wanted)
        key = f"{wanted.payment_id}:v"
        await asyncio.gather(
            authorise(provider, wanted, capture=False),
            provider.cancel(wanted.payment_id, operation_key=key),
        )
        found = await provider.look_up(wanted.payment_id)
        assert found is not None
        assert found.cancelled
        assert found.amounts.authorized_minor == found.amounts.voided_minor


async def test_no_more_is_refunded_than_was_captured(provider: SimulatedProvider) -> None:
    wanted = terms()
    await authorise(provider, wanted, capture=True)
    for key, minor in (("r1", 600), ("r2", 600), ("r3", 400)):
        await provider.refund(
            wanted.payment_id, operation_key=f"{wanted.payment_id}:{key}", amount_minor=minor
        )
    found = await provider.look_up(wanted.payment_id)
    assert found is not None
    assert found.amounts == Amounts(1000, 1000, 1000)


async def test_partial_refunds_are_told_apart_by_their_keys(provider: SimulatedProvider) -> None:
    wanted = terms()
    await authorise(provider, wanted, capture=True)

    async def refund(key: str, minor: int) -> tuple[int, int]:
        answer = await provider.refund(
            wanted.payment_id, operation_key=f"{wanted.payment_id}:{key}", amount_minor=minor
        )
        return answer.moved_minor, answer.amounts.refunded_minor

    assert await refund("r1", 300) == (300, 300)
    assert await refund("r2", 300) == (300, 600)
    assert await refund("r3", 500) == (0, 600)
    # What a key moved once is what it moves, whatever comes with it later.
    assert await refund("r1", 300) == (300, 600)
    assert await refund("r1", 1) == (300, 600)
    answers = await asyncio.gather(*(refund(f"c{number}", 150) for number in range(6)))
    assert sorted(moved for moved, _ in answers) == [0, 0, 0, 0, 150, 150]


@pytest.mark.parametrize(
    ("token", "name"), [("tok_timeout_after_capture", "capture"), ("tok_timeout_after_refund", "refund")]
)
async def test_the_first_answer_to_each_key_is_lost_and_its_effect_is_not(
    provider: SimulatedProvider, token: str, name: str
) -> None:
    wanted = terms(token)
    await authorise(provider, wanted, capture=name == "refund")
    ask = provider.capture if name == "capture" else provider.refund
    for key in ("1", "2"):
        operation_key = f"{wanted.payment_id}:{key}"
        with pytest.raises(ProviderOutcomeUnknownError):
            await ask(wanted.payment_id, operation_key=operation_key, amount_minor=400)
        assert (
            await ask(wanted.payment_id, operation_key=operation_key, amount_minor=400)
        ).moved_minor == 400


async def test_a_declined_capture_or_refund_moves_nothing_and_says_why(provider: SimulatedProvider) -> None:
    held, taken = terms("tok_capture_declined"), terms("tok_partial_refund_declined")
    await authorise(provider, held, capture=False)
    await authorise(provider, taken, capture=True)
    for _ in range(2):
        answer = await provider.capture(held.payment_id, operation_key="c", amount_minor=1000)
        assert (answer.decline_reason, answer.moved_minor) == ("CAPTURE_DECLINED", 0)
        answer = await provider.refund(taken.payment_id, operation_key="r", amount_minor=999)
        assert (answer.decline_reason, answer.moved_minor) == ("PARTIAL_REFUND_DECLINED", 0)
    found = await provider.look_up(held.payment_id)
    assert found == ProviderPayment(Amounts(1000))
    key = f"{taken.payment_id}:all"
    answer = await provider.refund(taken.payment_id, operation_key=key, amount_minor=1000)
    assert (answer.decline_reason, answer.moved_minor) == ("", 1000)


async def test_an_opened_payment_is_found_and_holds_nothing(provider: SimulatedProvider) -> None:
    wanted = terms()
    assert await provider.look_up(wanted.payment_id) is None
    assert await provider.open(wanted) == ProviderPayment() == await provider.open(wanted)
    assert (await authorise(provider, wanted, capture=True)).amounts == Amounts(1000, 1000)


async def test_a_token_that_nobody_knows_is_declined(provider: SimulatedProvider) -> None:
    assert await provider.describe("tok_nobody") is None
    answer = await authorise(provider, terms("tok_nobody"), capture=True)
    assert answer == ProviderPayment(decline_reason="CARD_DECLINED")


async def test_a_provider_whose_books_cannot_be_reached_says_nothing(world: World) -> None:
    closed = await Database.open("host=127.0.0.1 port=1 dbname=nobody", application_name="closed")
    provider = SimulatedProvider(closed, slow_seconds=0, late_seconds=0)
    await closed.close()
    with pytest.raises(ProviderOutcomeUnknownError):
        await authorise(provider, terms(), capture=True)
