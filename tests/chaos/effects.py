"""What a request about an order has brought about, once: its state, its money at the provider, its stock."""

from __future__ import annotations

from typing import NamedTuple

from deploy.local.suite import Suite
from tests.e2e.books import rows, select


class Effect(NamedTuple):
    """What is there after a request that is done; money in orders' totals, "" for no reservation."""

    orders: set[str]
    taken: set[int]
    given_back: bool
    stock: set[str]


# An order that was cancelled while it was being placed is rejected, and may have come to no stock or money.
EFFECTS = {
    "cancel_order": Effect(
        orders={"CANCELLED", "REJECTED"}, taken={0, 1}, given_back=True, stock={"RELEASED", ""}
    ),
    "refund_order": Effect(orders={"CONFIRMED"}, taken={1}, given_back=True, stock={"RETURNED"}),
    "fulfil_order": Effect(orders={"SHIPPED"}, taken={1}, given_back=False, stock={"COMMITTED"}),
}


async def check_effect(suite: Suite, kind: str, order_id: str) -> None:
    """Check that a request of this kind, which is done, has had its effect on the order exactly once.

    Raises:
        AssertionError: money, stock and state are not what one effect makes.
    """
    effect = EFFECTS[kind]
    (order,) = await rows(
        suite.dsn("orders"), "SELECT state, total_minor FROM orders WHERE id = %(id)s", id=order_id
    )
    ledger = await rows(
        suite.dsn("payments"),
        """SELECT kind, sum(ledger.amount_minor)::bigint AS minor
           FROM provider_simulation.ledger JOIN payment ON payment.id = payment_id
           WHERE order_id = %(order_id)s GROUP BY kind""",
        order_id=order_id,
    )
    money = {row["kind"]: row["minor"] for row in ledger}
    stock = await select(
        suite.dsn("inventory"), "SELECT state FROM reservation WHERE order_id = %(id)s", id=order_id
    )
    taken, back = money.get("CAPTURE", 0), money.get("REFUND", 0)
    assert order["state"] in effect.orders, (kind, order_id, order)
    assert taken in {times * (order["total_minor"] or taken) for times in effect.taken}, (
        kind,
        order_id,
        money,
    )
    assert back == (taken if effect.given_back else 0), (kind, order_id, money)
    assert money.get("AUTHORIZATION", 0) == taken + money.get("VOID", 0), (kind, order_id, money)
    assert "".join(stock) in effect.stock, (kind, order_id, stock)
