"""Orders as rows: domain values -> parameters, and the jsonb of a row -> domain values."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from chassis.barrier import Json
from chassis.postgres import Row
from services.orders.domain import (
    INITIAL_STATE,
    Money,
    Order,
    OrderItem,
    OrderLine,
    OrderRefund,
    OrderState,
    PostalAddress,
    Quote,
    RefundState,
    Rejection,
    Sale,
    Shipment,
)

# An order `o` as `order_from_json` reads it. Its refunds are those of the statement's snapshot: a
# statement that may have to wait for the order's lock must not ask for them, and the one after it may.
REPLY = """
    to_jsonb(o) || jsonb_build_object('refunds', CASE WHEN o.refunded_minor > 0 THEN (
        SELECT jsonb_agg(to_jsonb(r) ORDER BY r.sequence) FROM order_refund r WHERE r.order_id = o.id
    ) END)
"""


def order_from_json(reply: Json) -> Order:
    """Reads an order from the jsonb of its row, which is also what the barrier stores as the reply.

    Columns that the writer did not know yet may be missing.
    """
    rejection = None
    if reply.get("rejection_reason") is not None:
        rejection = Rejection(reply["rejection_reason"], reply["rejection_message"])
    return Order(
        id=UUID(reply["id"]),
        order_number=reply["order_number"],
        user_id=UUID(reply["user_id"]),
        state=OrderState(reply["state"]),
        refund_state=RefundState(reply["refund_state"]),
        items=tuple(OrderItem(item["sku"], item["quantity"]) for item in reply["items"]),
        currency_code=reply["currency_code"],
        sale=_sale(reply) if reply.get("lines") is not None else None,
        rejection=rejection,
        cancellation_reason=reply.get("cancellation_reason"),
        shipment=_shipment(reply),
        refunded=Money(reply["currency_code"], reply.get("refunded_minor") or 0),
        refunds=tuple(_refund(refund, reply["currency_code"]) for refund in reply.get("refunds") or ()),
        create_time=datetime.fromisoformat(reply["create_time"]),
        update_time=datetime.fromisoformat(reply["update_time"]),
    )


def _sale(reply: Json) -> Sale:
    def amount(minor_units: int) -> Money:
        return Money(reply["currency_code"], minor_units)

    return Sale(
        lines=tuple(
            OrderLine(line["sku"], line["name"], line["quantity"], amount(line["unit_price_minor"]))
            for line in reply["lines"]
        ),
        quote=Quote(
            subtotal=amount(reply["subtotal_minor"]),
            discount=amount(reply["discount_minor"]),
            shipping=amount(reply["shipping_minor"]),
            tax=amount(reply["tax_minor"]),
            total=amount(reply["total_minor"]),
        ),
        shipping_address=PostalAddress(**reply["shipping_address"]),
        payment_id=UUID(reply["payment_id"]),
        reservation_id=UUID(reply["reservation_id"]),
    )


def _shipment(reply: Json) -> Shipment | None:
    if reply.get("carrier") is None:
        return None
    return Shipment(reply["carrier"], reply["tracking_number"])


def _refund(refund: Json, currency_code: str) -> OrderRefund:
    return OrderRefund(
        id=UUID(refund["id"]),
        amount=Money(currency_code, refund["amount_minor"]),
        lines=tuple(OrderItem(item["sku"], item["quantity"]) for item in refund["lines"]),
        reason=refund["reason"],
        create_time=datetime.fromisoformat(refund["create_time"]),
    )


def sale_columns(sale: Sale) -> Row:
    """The parameters of what an order gets when it is confirmed."""
    lines = [
        {
            "sku": line.sku,
            "name": line.name,
            "quantity": line.quantity,
            "unit_price_minor": line.unit_price.minor_units,
        }
        for line in sale.lines
    ]
    return {
        "currency_code": sale.quote.total.currency_code,
        "lines": Jsonb(lines),
        "subtotal_minor": sale.quote.subtotal.minor_units,
        "discount_minor": sale.quote.discount.minor_units,
        "shipping_minor": sale.quote.shipping.minor_units,
        "tax_minor": sale.quote.tax.minor_units,
        "total_minor": sale.quote.total.minor_units,
        "shipping_address": asdict(sale.shipping_address),
        "payment_id": sale.payment_id,
        "reservation_id": sale.reservation_id,
    }


def new_order(order: Order, saga_id: UUID) -> Row:
    """The parameters of an order that is inserted; every order starts in the initial state."""
    assert order.state is INITIAL_STATE
    return {
        "id": order.id,
        "order_number": order.order_number,
        "user_id": order.user_id,
        "saga_id": saga_id,
        "state": order.state,
        "refund_state": order.refund_state,
        "items": items_json(order.items),
        "currency_code": order.currency_code,
        "now": order.create_time,
    }


def items_json(items: Sequence[OrderItem]) -> Jsonb:
    """The items as the rows of orders and refunds hold them, so that equal ones compare equal in SQL."""
    return Jsonb([{"sku": item.sku, "quantity": item.quantity} for item in items])
