from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from chassis.ids import new_id
from services.payments.app.payment_methods import (
    add_payment_method,
    list_payment_methods,
    remove_payment_method,
)
from services.payments.domain import (
    MAX_PAYMENT_METHODS,
    PaymentMethodNotFoundError,
    RequestIdReusedError,
    TokenUnknownError,
    TooManyPaymentMethodsError,
)

if TYPE_CHECKING:
    from tests.integration.payments.conftest import World

pytestmark = pytest.mark.integration


async def test_a_token_becomes_a_method_that_people_can_recognise(world: World) -> None:
    user_id = new_id()
    method = await add_payment_method(world.app, user_id, new_id(), "tok_success")
    assert (method.provider, method.brand, method.last4) == ("simulated", "visa", "4242")
    assert await list_payment_methods(world.app, user_id) == [method]
    assert await list_payment_methods(world.app, new_id()) == []


async def test_the_same_request_again_makes_no_second_method(world: World) -> None:
    user_id, request_id = new_id(), new_id()
    calls = [add_payment_method(world.app, user_id, request_id, "tok_success") for _ in range(8)]
    methods = await asyncio.gather(*calls)
    assert len(set(methods)) == 1
    assert len(await list_payment_methods(world.app, user_id)) == 1
    with pytest.raises(RequestIdReusedError):
        await add_payment_method(world.app, user_id, request_id, "tok_declined")


async def test_a_token_that_the_provider_does_not_know_is_refused(world: World) -> None:
    with pytest.raises(TokenUnknownError):
        await add_payment_method(world.app, new_id(), new_id(), "tok_4242424242424242")


async def test_a_user_has_a_bounded_number_of_methods_also_when_they_hurry(world: World) -> None:
    user_id = new_id()
    calls = [
        add_payment_method(world.app, user_id, new_id(), "tok_success")
        for _ in range(MAX_PAYMENT_METHODS + 5)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, TooManyPaymentMethodsError) for answer in answers) == 5
    methods = await list_payment_methods(world.app, user_id)
    assert len(methods) == MAX_PAYMENT_METHODS
    await remove_payment_method(world.app, user_id, methods[0].id)
    await add_payment_method(world.app, user_id, new_id(), "tok_success")


async def test_a_removed_method_is_gone_for_new_charges_and_cannot_be_removed_again(world: World) -> None:
    step = await world.step()
    user_id, method_id = step.order.user_id, step.order.payment_method_id
    with pytest.raises(PaymentMethodNotFoundError):
        await remove_payment_method(world.app, new_id(), method_id)
    await remove_payment_method(world.app, user_id, method_id)
    with pytest.raises(PaymentMethodNotFoundError):
        await remove_payment_method(world.app, user_id, method_id)
    assert await list_payment_methods(world.app, user_id) == []
    with pytest.raises(Exception, match="PAYMENT_METHOD_NOT_FOUND"):
        await step.charge()
