"""For every saga a world: what was there before it began, and how the books stand when it has ended.

A saga that is added to `orchestrator.sagas.DEFINITIONS` needs a world here; else test_worlds.py fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from orchestrator.entries import State
from orchestrator.saga import Saga
from orchestrator.sagas import DEFINITIONS
from orchestrator.sagas.place_order import PLACE_ORDER, PlaceOrder
from tests.sagas.contexts import STOCK, Contexts

QUANTITY = 2
SOLD = frozenset({"CONFIRMED", "SHIPPED", "DELIVERED"})


@dataclass(frozen=True)
class Books:
    """What the four databases and the provider say about one order and the units of its product.

    Attributes:
        order: Its state; None where there is none.
        kept: What the provider took of the customer and has not given back, in minor units.
        held: What the provider holds and has not taken.
        reservation: Its state; None where there is none.
        on_hand: Units on the shelf.
        reserved: Those of them that are held.
    """

    order: str | None
    kept: int
    held: int
    reservation: str | None
    on_hand: int
    reserved: int


@dataclass(frozen=True)
class Case:
    """One saga that can begin, and the books that its two ends demand.

    Attributes:
        behind: Whether it begins on an order that exists.
    """

    definition: Saga[Any]
    params: Any
    order_id: UUID
    sku: str
    ends: dict[State, Books]
    behind: bool = True


Run = Callable[[Case], Awaitable[State]]
# Makes a case; `run` drives another saga to its end, where one has to come first.
World = Callable[[Contexts, Run], Awaitable[Case]]


async def placing(contexts: Contexts, run: Run) -> Case:
    """Nothing but a product, and a customer who can pay."""
    sku = await contexts.product()
    order_id = new_id()
    params = PlaceOrder(
        user_id=str(contexts.user_id),
        order_id=str(order_id),
        reservation_id=str(new_id()),
        payment_id=str(new_id()),
        items=[(sku, QUANTITY)],
        currency_code="EUR",
        address_id=str(contexts.address_id),
        payment_method_id=str(contexts.payment_method_id),
    )
    ends = {
        State.COMPLETED: Books("CONFIRMED", TOTAL_MINOR, 0, "COMMITTED", STOCK - QUANTITY, 0),
        State.COMPENSATED: Books("REJECTED", 0, 0, None, STOCK, 0),
    }
    return Case(PLACE_ORDER, params, order_id, sku, ends, behind=False)


# What QUANTITY units cost in Berlin: their price, the shipping, and the tax on both.
TOTAL_MINOR = 2_963

WORLDS: dict[tuple[str, int], World] = {("place_order", 1): placing}
ALL = tuple(DEFINITIONS.sagas.values())


async def books_of(contexts: Contexts, case: Case) -> Books:
    """Read the books of one order. A reservation that gave its units back is none."""
    order = await contexts.rows("orders", "SELECT state FROM orders WHERE id = %(id)s", id=case.order_id)
    reservation = await contexts.rows(
        "inventory",
        "SELECT state FROM reservation WHERE order_id = %(id)s AND state IN ('HELD', 'COMMITTED')",
        id=case.order_id,
    )
    stock = await contexts.rows(
        "inventory", "SELECT on_hand, reserved FROM stock WHERE sku = %(sku)s", sku=case.sku
    )
    money = await _money(contexts, case.order_id)
    return Books(
        order=order[0]["state"] if order else None,
        kept=money.get("CAPTURE", 0) - money.get("REFUND", 0),
        held=money.get("AUTHORIZATION", 0) - money.get("VOID", 0) - money.get("CAPTURE", 0),
        reservation=reservation[0]["state"] if reservation else None,
        on_hand=stock[0]["on_hand"],
        reserved=stock[0]["reserved"],
    )


async def _money(contexts: Contexts, order_id: UUID) -> dict[str, int]:
    """What the provider did for an order, by its own ledger; also for a payment that we do not know."""
    payments = await contexts.rows("payments", "SELECT id FROM payment WHERE order_id = %(id)s", id=order_id)
    entries = await contexts.rows(
        "provider",
        "SELECT kind, sum(amount_minor)::bigint AS minor FROM provider_simulation.ledger"
        " WHERE payment_id = ANY (%(ids)s::uuid[]) GROUP BY kind",
        ids=[row["id"] for row in payments],
    )
    return {row["kind"]: row["minor"] for row in entries}
