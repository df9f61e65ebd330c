"""For every saga a world: what was there before it began, and how the books stand when it has ended.

A saga that is added to `orchestrator.sagas.DEFINITIONS` needs a world here; else test_worlds.py fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from orchestrator.entries import State
from orchestrator.saga import Saga
from orchestrator.sagas import DEFINITIONS
from orchestrator.sagas.cancel_order import CANCEL_ORDER, CancelOrder
from orchestrator.sagas.fulfil_order import FULFIL_ORDER, FulfilOrder
from orchestrator.sagas.place_order import PLACE_ORDER, PlaceOrder
from orchestrator.sagas.refund_order import REFUND_ORDER, RefundOrder
from tests.sagas.contexts import STOCK, Contexts

QUANTITY = 2


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
        refunded: What the order says went back, in minor units.
    """

    order: str | None
    kept: int
    held: int
    reservation: str | None
    on_hand: int
    reserved: int
    refunded: int = 0


@dataclass(frozen=True)
class Case:
    """One saga that can begin, and the books that its two ends demand.

    Attributes:
        names: Ids that its calls may name and its parameters do not.
        behind: Whether it begins on an order that exists.
    """

    definition: Saga[Any]
    params: Any
    order_id: UUID
    sku: str
    ends: dict[State, Books]
    names: dict[str, str] = field(default_factory=dict)
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
        State.COMPLETED: PLACED,
        State.COMPENSATED: Books("REJECTED", 0, 0, None, STOCK, 0),
    }
    return Case(PLACE_ORDER, params, order_id, sku, ends, behind=False)


# What QUANTITY units cost in Berlin: their price, the shipping, and the tax on both.
TOTAL_MINOR = 2_963
# What goes back of it for one unit: half of the units' price, and half of the tax.
UNIT_MINOR = 1_237
PLACED = Books("CONFIRMED", TOTAL_MINOR, 0, "COMMITTED", STOCK - QUANTITY, 0)


async def placed(contexts: Contexts, run: Run) -> Case:
    """An order that a customer has placed."""
    case = await placing(contexts, run)
    assert await run(case) is State.COMPLETED
    assert await books_of(contexts, case) == PLACED
    return case


def after(case: Case, definition: Saga[Any], params: Any, completed: Books) -> Case:
    """A saga about an order that was placed; where it is refused, the order stays as it is."""
    return Case(
        definition,
        params,
        case.order_id,
        case.sku,
        {State.COMPLETED: completed, State.COMPENSATED: PLACED},
        {name: getattr(case.params, name) for name in ("payment_id", "reservation_id")} | {"sku": case.sku},
    )


async def cancelling(contexts: Contexts, run: Run) -> Case:
    """A placed order, and its customer who thinks better of it."""
    case = await placed(contexts, run)
    params = CancelOrder(str(case.order_id), str(contexts.user_id), "too late for the party")
    return after(case, CANCEL_ORDER, params, Books("CANCELLED", 0, 0, None, STOCK, 0))


async def refunding(contexts: Contexts, run: Run) -> Case:
    """A placed order, of which one unit comes back."""
    case = await placed(contexts, run)
    params = RefundOrder(
        order_id=str(case.order_id),
        refund_id=str(new_id()),
        reason="it is broken",
        lines=[(case.sku, 1)],
        amount_minor=None,
        currency_code="EUR",
        restock=True,
    )
    kept, on_hand = TOTAL_MINOR - UNIT_MINOR, STOCK - QUANTITY + 1
    return after(case, REFUND_ORDER, params, Books("CONFIRMED", kept, 0, "COMMITTED", on_hand, 0, UNIT_MINOR))


async def fulfilling(contexts: Contexts, run: Run) -> Case:
    """A placed order, and a parcel."""
    case = await placed(contexts, run)
    params = FulfilOrder(str(case.order_id), "DHL", "JD014600003")
    return after(case, FULFIL_ORDER, params, dataclasses.replace(PLACED, order="SHIPPED"))


WORLDS: dict[tuple[str, int], World] = {
    ("place_order", 1): placing,
    ("cancel_order", 1): cancelling,
    ("refund_order", 1): refunding,
    ("fulfil_order", 1): fulfilling,
}
ALL = tuple(DEFINITIONS.sagas.values())


async def books_of(contexts: Contexts, case: Case) -> Books:
    """Read the books of one order. A reservation that gave its units back is none."""
    order = await contexts.rows(
        "orders", "SELECT state, refunded_minor FROM orders WHERE id = %(id)s", id=case.order_id
    )
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
        refunded=order[0]["refunded_minor"] if order else 0,
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
