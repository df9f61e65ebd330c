"""Every state of a reservation and everything that can be asked of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from chassis.barrier import SagaCall
from chassis.errors import Fault
from chassis.ids import new_id
from services.inventory.domain import InventoryError

pytestmark = pytest.mark.integration

ON_HAND = 10
LINES = (("A-1", 3), ("B-1", 2))
ALL = {"A-1": 3, "B-1": 2}
NOT_COMMITTED, TOO_LARGE = "ReservationNotCommittedError", "ReturnTooLargeError"

STATES = ("none", "HELD", "EXPIRED", "COMMITTED", "partly returned", "RETURNED", "RELEASED", "rest released")
VERBS = ("commit", "undo", "cancel", "restock one", "restock the rest", "restock too much", "restock nothing")
# The answer: a state, None, or why it is refused.
ANSWERS: dict[tuple[str, str], str | None] = {
    ("none", "commit"): "RESERVATION_NOT_FOUND",
    ("HELD", "commit"): "COMMITTED",
    ("EXPIRED", "commit"): "RESERVATION_EXPIRED",
    ("COMMITTED", "commit"): "COMMITTED",
    ("partly returned", "commit"): "COMMITTED",
    ("RETURNED", "commit"): "RESERVATION_RELEASED",
    ("RELEASED", "commit"): "RESERVATION_RELEASED",
    ("rest released", "commit"): "RESERVATION_RELEASED",
    **{("none", verb): None for verb in ("undo", "cancel", "restock nothing")},
    **{
        (state, verb): "RELEASED"
        for state in ("HELD", "COMMITTED", "partly returned", "RELEASED", "rest released")
        for verb in ("undo", "cancel")
    },
    **{(state, verb): state for state in ("EXPIRED", "RETURNED") for verb in ("undo", "cancel")},
    **{
        (state, verb): NOT_COMMITTED
        for state in ("HELD", "EXPIRED", "RETURNED", "RELEASED", "rest released")
        for verb in ("restock one", "restock the rest", "restock too much")
    },
    **{("none", f"restock {what}"): "ReservationNotFoundError" for what in ("one", "the rest", "too much")},
    **{
        (state, verb): answer
        for state in ("COMMITTED", "partly returned")
        for verb, answer in (
            ("restock one", "COMMITTED"),
            ("restock the rest", "RETURNED"),
            ("restock too much", TOO_LARGE),
        )
    },
    **{
        (state, "restock nothing"): state
        for state in ("HELD", "EXPIRED", "COMMITTED", "RETURNED", "RELEASED")
    },
    ("partly returned", "restock nothing"): "COMMITTED",
    ("rest released", "restock nothing"): "RELEASED",
}
# Units of the order that are neither on sale again nor held: sold. By SKU, for the state that is.
SOLD = {"COMMITTED": ALL, "partly returned": {"A-1": 2, "B-1": 2}}


async def reach(world: Any, state: str) -> Any:
    for sku, _ in LINES:
        await world.product(sku, stock=ON_HAND)
    order = world.order(*LINES)
    if state != "none":
        await order.reserve()
    if state == "EXPIRED":
        await world.run_out(order)
        await world.reservations.expire_due()
    elif state not in {"none", "HELD"}:
        await order.commit()
    if state in {"partly returned", "rest released"}:
        await order.restock(("A-1", 1))
    if state in {"RELEASED", "rest released"}:
        await order.cancel()
    if state == "RETURNED":
        await order.restock(*LINES)
    return order


async def ask(order: Any, state: str, verb: str) -> str | None:
    rest = tuple(SOLD.get(state, ALL).items())
    asked = {
        "commit": lambda: order.world.reservations.commit_reservation(
            SagaCall(new_id(), "stock", b"another saga"), order.reservation_id
        ),
        "undo": order.release,
        "cancel": order.cancel,
        "restock one": lambda: order.restock(("A-1", 1)),
        "restock the rest": lambda: order.restock(*rest),
        "restock too much": lambda: order.restock(("A-1", 1), ("B-1", 1), ("B-1", 2)),
        "restock nothing": order.restock,
    }
    try:
        answer = await asked[verb]()
    except Fault as fault:
        return fault.reason
    except InventoryError as error:
        return type(error).__name__
    return str(answer) if answer else None


def units_sold(state: str, verb: str) -> dict[str, int]:
    before = SOLD.get(state, {"A-1": 0, "B-1": 0})
    answer = ANSWERS[state, verb]
    if (state, verb) == ("HELD", "commit"):
        return ALL
    if verb == "restock one" and answer == "COMMITTED":
        return before | {"A-1": before["A-1"] - 1}
    return {"A-1": 0, "B-1": 0} if answer in {"RELEASED", "RETURNED"} else before


def test_every_state_is_asked_everything() -> None:
    assert set(ANSWERS) == set(product(STATES, VERBS))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", STATES)
async def test_the_answer_and_the_stock_are_what_the_table_says(
    world: Any, invariants_hold: Any, state: str, verb: str
) -> None:
    order = await reach(world, state)
    events = len(await world.events())
    held = {sku: (await world.stock(sku))[1] for sku, _ in LINES}
    assert await ask(order, state, verb) == ANSWERS[state, verb]
    sold = units_sold(state, verb)
    still_held = state == "HELD" and verb not in {"commit", "undo", "cancel"}
    for sku, _ in LINES:
        assert await world.stock(sku) == (ON_HAND - sold[sku], held[sku] if still_held else 0), sku
    effect = (state == "HELD" and verb in {"commit", "undo", "cancel"}) or (
        state in SOLD and verb not in {"commit", "restock too much", "restock nothing"}
    )
    assert len(await world.events()) == events + effect
    await invariants_hold()
