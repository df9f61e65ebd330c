"""The payment methods of a user."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from chassis.postgres import Transaction
from services.payments import store
from services.payments.app import Payments
from services.payments.domain import (
    MAX_PAYMENT_METHODS,
    PaymentMethod,
    PaymentMethodNotFoundError,
    RequestIdReusedError,
    TokenUnknownError,
    TooManyPaymentMethodsError,
)


async def add_payment_method(app: Payments, user_id: UUID, request_id: UUID, token: str) -> PaymentMethod:
    """Stores a provider's token; the same request again returns what it made the first time, removed or not.

    Raises:
        TokenUnknownError: The provider does not know the token.
        TooManyPaymentMethodsError: The user has MAX_PAYMENT_METHODS.
        RequestIdReusedError: The request came before with another token.
    """
    card = await app.provider.describe(token)
    if card is None:
        raise TokenUnknownError
    method = PaymentMethod(
        id=app.new_id(),
        user_id=user_id,
        provider=app.provider.name,
        brand=card.brand,
        last4=card.last4,
        create_time=app.clock.now(),
    )
    wanted = {name: getattr(method, name) for name in method.__slots__}
    params = wanted | {"request_id": request_id, "provider_token": token}

    async def use_case(tx: Transaction) -> PaymentMethod:
        # Requests of one user wait for each other, so that the look and the count hold.
        await tx.fetch(store.LOCK_USER, params)
        before = await tx.fetch(store.METHOD_OF_REQUEST, params)
        if before:
            if before[0]["provider_token"] != token:
                raise RequestIdReusedError
            return store.method_of(before[0])
        if (await tx.fetch(store.COUNT_METHODS, params))[0]["count"] >= MAX_PAYMENT_METHODS:
            raise TooManyPaymentMethodsError
        await tx.fetch(store.INSERT_METHOD, params)
        return method

    return await app.database.run(use_case)


async def list_payment_methods(app: Payments, user_id: UUID) -> Sequence[PaymentMethod]:
    """Returns the payment methods of a user, oldest first; at most MAX_PAYMENT_METHODS."""
    rows = await app.database.fetch(store.LIST_METHODS, {"user_id": user_id})
    return [store.method_of(row) for row in rows]


async def remove_payment_method(app: Payments, user_id: UUID, payment_method_id: UUID) -> None:
    """Removes a payment method; payments made with it stay, and can still be undone.

    Raises:
        PaymentMethodNotFoundError: The user has no such payment method.
    """
    params = {"payment_method_id": payment_method_id, "user_id": user_id, "now": app.clock.now()}
    if not await app.database.fetch(store.REMOVE_METHOD, params):
        raise PaymentMethodNotFoundError
