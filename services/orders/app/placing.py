"""Use cases of an order that is placed; each is called by the orchestrator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from uuid import UUID

import iso4217

from chassis import barrier, outbox
from chassis.barrier import Json, SagaCall
from chassis.postgres import Transaction
from services.orders import events, pricing
from services.orders.app.parts import Parts
from services.orders.cancellations import CustomerDeactivatedError
from services.orders.domain import (
    INITIAL_STATE,
    CurrencyMismatchError,
    CurrencyUnknownError,
    InvalidLinesError,
    Money,
    Order,
    OrderExistsError,
    OrderItem,
    OrderLine,
    OrderNotFoundError,
    OrderNumberTakenError,
    OrdersError,
    OrderState,
    Quote,
    RefundState,
    Rejection,
    Sale,
    TransitionRefusedError,
    items_of,
    merge_items,
    merge_lines,
    order_numbers,
    require_consistent,
    require_transition,
    states_before,
)
from services.orders.store import writes
from services.orders.store.rows import order_from_json

# Decimals of every currency that has a minor unit, by ISO 4217; the others are metals, funds and the like.
EXPONENTS: Mapping[str, int] = {
    str(currency.code): int(currency.exponent)
    for currency in iso4217.Currency
    if currency.exponent is not None
}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a customer asks for; items of one SKU are summed."""

    order_id: UUID
    user_id: UUID
    items: Sequence[OrderItem]
    currency_code: str


@dataclass(frozen=True, kw_only=True)
class Placing(Parts):
    """What one saga does to place an order."""

    async def create_order(self, call: SagaCall, wish: Wish) -> Order:
        """Inserts a PENDING order, once per saga step.

        Raises:
            Fault: recorded: ORDER_EXISTS where another call made an order of that id; or as `barrier.replay`.
        """
        now, event_id = self.clock.now(), self.new_id()
        for number in order_numbers(wish.order_id):
            order = _pending(wish, number, now)
            placed = events.order_placed(event_id, order)
            try:
                row = await writes.create_order(self.database, call, order, placed)
            except OrderNumberTakenError:
                continue
            except OrderExistsError:
                return order_from_json(await self._refuse_another_of_that_id(call, wish.order_id))
            reply = barrier.outcome(row) if row else await barrier.settle_duplicate(self.database, call)
            self.published()
            return order_from_json(reply)
        raise OrderNumberTakenError

    async def confirm_order(self, call: SagaCall, order_id: UUID, user_id: UUID, sale: Sale) -> Order:
        """Makes a PENDING order CONFIRMED, once per saga step. Lines of one SKU are summed.

        Raises:
            Fault: the refusal, recorded: ORDER_NOT_FOUND, ORDER_NOT_PENDING, CUSTOMER_DEACTIVATED, or
                INVALID_ARGUMENT for lines or a quote that this order cannot have; or as `barrier.replay`.
        """
        problem: Json | None = None
        try:
            sale = replace(sale, lines=merge_lines(sale.lines))
            require_consistent(sale.quote, sale.lines, sale.quote.total.currency_code)
        except OrdersError as error:
            problem = self._refusal(error)
        confirmed = events.order_confirmed(
            self.new_id(),
            order_id,
            user_id,
            self.clock.now(),
            total=sale.quote.total,
            payment_id=sale.payment_id,
        )
        row = await writes.confirm_order(
            self.database,
            call,
            order_id=order_id,
            user_id=user_id,
            items=items_of(sale.lines),
            sale=sale,
            refusals={**self._refusals_of_confirm, "refused_request": problem},
            confirmed=confirmed,
        )
        reply = barrier.outcome(row) if row else await barrier.settle_duplicate(self.database, call)
        self.published()
        return order_from_json(reply)

    async def reject_order(self, call: SagaCall, wish: Wish, rejection: Rejection) -> Order | None:
        """Undoes `create_order`, once: the order becomes REJECTED, and is inserted so where no create landed.

        Returns:
            The order; None where there is nothing to undo: the create was refused, or the id is another's.

        Raises:
            TransitionRefusedError: the order is not PENDING; nothing is stored.
            OrderNotFoundError: the create landed, but its order is not there.
        """

        async def undo(tx: Transaction) -> Json:
            return await self._reject(tx, wish, rejection)

        async def insert_rejected(tx: Transaction) -> Json:
            try:
                await self._place(tx, wish, call.saga_id)
            except OrderExistsError:
                return {}
            return await self._reject(tx, wish, rejection)

        reply = await barrier.undo_once(self.database, call, undo, when_nothing=insert_rejected)
        self.published()
        return order_from_json(reply) if reply else None

    async def _place(self, tx: Transaction, wish: Wish, saga_id: UUID) -> None:
        now = self.clock.now()
        for number in order_numbers(wish.order_id):
            order = _pending(wish, number, now)
            try:
                sequence = await writes.insert_order(tx, order, saga_id)
            except OrderNumberTakenError:
                continue
            await outbox.append(tx, events.order_placed(self.new_id(), order), sequence=sequence)
            return
        raise OrderNumberTakenError

    async def _reject(self, tx: Transaction, wish: Wish, rejection: Rejection) -> Json:
        state = await writes.lock_order(tx, wish.order_id)
        require_transition(state, OrderState.REJECTED)
        now = self.clock.now()
        reply, sequence = await writes.reject_order(tx, wish.order_id, state, rejection, now)
        rejected = events.order_rejected(
            self.new_id(), wish.order_id, UUID(reply["user_id"]), now, reason=rejection.reason
        )
        await outbox.append(tx, rejected, sequence=sequence)
        return reply

    async def _refuse_another_of_that_id(self, call: SagaCall, order_id: UUID) -> Json:
        # The one statement rolled back as a whole, its barrier row with it: the refusal is stored here.
        async def refuse(tx: Transaction) -> Json:
            await writes.lock_order(tx, order_id)
            raise OrderExistsError

        return await barrier.do_once(self.database, call, refuse, as_refusal=self.as_refusal)

    @cached_property
    def _refusals_of_confirm(self) -> Mapping[str, Json | None]:
        return {
            "not_found": self._refusal(OrderNotFoundError()),
            "other_items": self._refusal(InvalidLinesError("the lines are not what was ordered")),
            "other_currency": self._refusal(
                CurrencyMismatchError("the order is in another currency than the quote")
            ),
            "customer_deactivated": self._refusal(CustomerDeactivatedError()),
            "refused_in_state": {
                state: self._refusal(TransitionRefusedError(state, OrderState.CONFIRMED))
                for state in OrderState
                if state not in states_before(OrderState.CONFIRMED)
            },
        }

    def _refusal(self, error: OrdersError) -> Json:
        fault = self.as_refusal(error)
        if fault is None:
            raise error
        return fault.to_json()


def quote_order(lines: Sequence[OrderLine], *, country_code: str, expected_total: Money | None) -> Quote:
    """Computes what lines cost, sent to a country; needs no database.

    Args:
        lines: at least one.
        country_code: where it goes, ISO 3166-1 alpha-2.
        expected_total: what the customer expects to pay, where they said so.

    Raises:
        CurrencyUnknownError: ISO 4217 has no such currency with a minor unit.
        OrdersError: as `pricing.quote` and `pricing.require_expected`.
    """
    currency_code = lines[0].unit_price.currency_code
    if currency_code not in EXPONENTS:
        raise CurrencyUnknownError(f"{currency_code} is not a currency that we can sell in")
    quoted = pricing.quote(lines, country_code=country_code, exponent=EXPONENTS[currency_code])
    pricing.require_expected(quoted, expected_total)
    return quoted


def _pending(wish: Wish, order_number: str, now: datetime) -> Order:
    return Order(
        id=wish.order_id,
        order_number=order_number,
        user_id=wish.user_id,
        state=INITIAL_STATE,
        refund_state=RefundState.NONE,
        items=merge_items(wish.items),
        currency_code=wish.currency_code,
        sale=None,
        rejection=None,
        cancellation_reason=None,
        shipment=None,
        refunded=Money(wish.currency_code, 0),
        refunds=(),
        create_time=now,
        update_time=now,
    )
