from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from chassis.errors import Fault
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import (
    Money,
    ProductChange,
    ReservationExistsError,
    ReservationNotFoundError,
    ReservationState,
    ReservedLine,
)

pytestmark = pytest.mark.integration


async def refused(awaitable: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await awaitable
    return caught.value


async def test_a_reservation_holds_its_lines_and_returns_them_priced_in_sku_order(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("B-1", stock=10, price=250)
    await world.product("A-1", stock=5, price=100)
    order = world.order(("B-1", 3), ("A-1", 2), ttl=timedelta(hours=1))

    reservation = await order.reserve()

    assert reservation.state is ReservationState.HELD
    assert reservation.order_id == order.order_id
    assert reservation.lines == (
        ReservedLine("A-1", "Name of A-1", 2, Money("EUR", 100)),
        ReservedLine("B-1", "Name of B-1", 3, Money("EUR", 250)),
    )
    assert await world.stock("A-1") == (5, 2)
    assert await world.stock("B-1") == (10, 3)
    assert await world.reservations.reservation(order.reservation_id) == reservation
    await invariants_hold()


async def test_lines_of_one_sku_are_summed_before_they_are_held(world: Any) -> None:
    await world.product("A-1", stock=5)
    reservation = await world.order(("A-1", 2), ("A-1", 3)).reserve()
    assert [(line.sku, line.quantity) for line in reservation.lines] == [("A-1", 5)]
    assert await world.stock("A-1") == (5, 5)


async def test_a_reserve_publishes_what_it_holds(world: Any) -> None:
    await world.product("A-1", stock=5)
    order = world.order(("A-1", 2))
    world.wakes.clear()
    await order.reserve()
    [row] = await world.events()
    event = events_pb2.StockReserved.FromString(row["payload"])
    assert (row["type"], row["sequence"]) == ("sagacity.inventory.v1.StockReserved", 1)
    assert row["aggregateid"] == event.reservation_id == str(order.reservation_id)
    assert event.order_id == str(order.order_id)
    assert [(line.sku, line.quantity) for line in event.lines] == [("A-1", 2)]
    assert len(world.wakes) == 1


async def test_a_shortage_lists_every_sku_that_is_short_and_holds_nothing(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1", stock=3)
    await world.product("B-1", stock=100)
    await world.product("C-1")
    order = world.order(("A-1", 5), ("B-1", 1), ("C-1", 2))

    fault = await refused(order.reserve())

    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "INSUFFICIENT_STOCK", True)
    assert [(detail.subject, detail.description) for detail in fault.subjects] == [
        ("A-1", "requested 5, available 3"),
        ("C-1", "requested 2, available 0"),
    ]
    assert await world.stock("B-1") == (100, 0)
    assert await world.events() == []
    with pytest.raises(ReservationNotFoundError):
        await world.reservations.reservation(order.reservation_id)
    await invariants_hold()


async def test_what_others_hold_is_not_available(world: Any) -> None:
    await world.product("A-1", stock=5)
    await world.order(("A-1", 3)).reserve()
    fault = await refused(world.order(("A-1", 3)).reserve())
    assert fault.subjects[0].description == "requested 3, available 2"


async def test_a_refusal_is_remembered_although_stock_came_meanwhile(world: Any) -> None:
    await world.product("A-1")
    order = world.order(("A-1", 1))
    first = await refused(order.reserve())
    await world.adjust("A-1", 10)
    second = await refused(order.reserve())
    assert second.recorded
    assert second.to_json() == first.to_json()
    assert await world.stock("A-1") == (10, 0)


async def test_a_missing_and_an_archived_product_are_not_found(world: Any) -> None:
    await world.product("A-1", stock=5)
    await world.product("B-1", stock=5)
    await world.catalogue.archive_product("B-1")
    fault = await refused(world.order(("A-1", 1), ("B-1", 1), ("NO-SUCH", 1)).reserve())
    assert (fault.kind, fault.reason) == ("NOT_FOUND", "PRODUCT_NOT_FOUND")
    assert [detail.subject for detail in fault.subjects] == ["B-1", "NO-SUCH"]


async def test_a_product_in_another_currency_is_a_mismatch(world: Any) -> None:
    await world.product("A-1", stock=5)
    await world.product("B-1", stock=5, currency_code="USD")
    fault = await refused(world.order(("A-1", 1), ("B-1", 1)).reserve())
    assert (fault.kind, fault.reason) == ("FAILED_PRECONDITION", "CURRENCY_MISMATCH")
    assert [detail.subject for detail in fault.subjects] == ["B-1"]


async def test_the_price_of_a_reservation_does_not_follow_the_product(world: Any) -> None:
    await world.product("A-1", stock=5, price=100)
    order = world.order(("A-1", 1))
    await order.reserve()
    await world.catalogue.update_product("A-1", ProductChange(name="New", unit_price=Money("EUR", 999)))
    [line] = (await world.reservations.reservation(order.reservation_id)).lines
    assert (line.name, line.unit_price) == ("Name of A-1", Money("EUR", 100))


async def test_a_reserve_that_comes_again_gets_the_stored_reply(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=5)
    order = world.order(("A-1", 2))
    assert await order.reserve() == await order.reserve()
    assert await world.stock("A-1") == (5, 2)
    assert len(await world.events()) == 1
    await invariants_hold()


async def test_the_same_step_with_another_request_is_refused(world: Any) -> None:
    await world.product("A-1", stock=5)
    order = world.order(("A-1", 2))
    await order.reserve()
    order.call = lambda step: type(order).call(order, step, b"another request")
    assert (await refused(order.reserve())).reason == "REQUEST_CHANGED"


async def test_twenty_duplicates_at_once_hold_the_stock_once(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=5)
    await world.product("B-1", stock=5)
    order = world.order(("A-1", 2), ("B-1", 5))
    replies = await asyncio.gather(*(order.reserve() for _ in range(20)))
    assert all(reply == replies[0] for reply in replies)
    assert await world.stock("A-1") == (5, 2)
    assert await world.stock("B-1") == (5, 5)
    await invariants_hold()


async def test_an_order_cannot_hold_stock_twice(world: Any) -> None:
    await world.product("A-1", stock=5)
    first = world.order(("A-1", 1))
    await first.reserve()
    same_order = world.order(("A-1", 1), order_id=first.order_id)
    with pytest.raises(ReservationExistsError):
        await same_order.reserve()
    same_reservation = world.order(("A-1", 1), reservation_id=first.reservation_id)
    with pytest.raises(ReservationExistsError):
        await same_reservation.reserve()
    assert await world.stock("A-1") == (5, 1)


async def test_a_late_reserve_after_its_undo_is_refused(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=5)
    order = world.order(("A-1", 1))
    assert await order.release() is None
    fault = await refused(order.reserve())
    assert (fault.reason, fault.recorded) == ("TOMBSTONED", True)
    assert await world.stock("A-1") == (5, 0)
    await invariants_hold()


async def test_no_order_of_reserve_and_release_harms_the_stock(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=5)
    calls = ("reserve", "reserve", "release", "release")
    for permutation in sorted(set(itertools.permutations(calls))):
        order = world.order(("A-1", 2))
        for name in permutation:
            try:
                await getattr(order, name)()
            except Fault as fault:
                assert fault.reason == "TOMBSTONED", permutation  # noqa: PT017 - only some permutations raise
        assert await world.stock("A-1") == (5, 0), permutation
        await invariants_hold()


async def test_no_order_of_commit_and_release_harms_the_stock(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=5)
    reasons = {"TOMBSTONED", "RESERVATION_RELEASED"}
    calls = (("commit",), ("commit",), ("release", "stock"), ("release", "reservation"))
    for permutation in sorted(set(itertools.permutations(calls))):
        order = world.order(("A-1", 2))
        await order.reserve()
        for name, *arguments in permutation:
            try:
                await getattr(order, name)(*arguments)
            except Fault as fault:
                assert fault.reason in reasons, permutation  # noqa: PT017 - only some permutations raise
        assert await world.stock("A-1") == (5, 0), permutation
        await invariants_hold()


async def test_fifty_buyers_of_twenty_units_get_exactly_twenty(world: Any, invariants_hold: Any) -> None:
    for round_number in range(15):
        sku = f"R-{round_number}"
        await world.product(sku, stock=20)
        orders = [world.order((sku, 1)) for _ in range(50)]
        results = await asyncio.gather(*(order.reserve() for order in orders), return_exceptions=True)
        outcomes = Counter(getattr(result, "reason", "held") for result in results)
        assert outcomes == {"held": 20, "INSUFFICIENT_STOCK": 30}
        assert await world.stock(sku) == (20, 20)
    await invariants_hold()


async def test_buyers_of_many_products_in_any_order_never_deadlock_and_never_oversell(
    world: Any, invariants_hold: Any
) -> None:
    skus = [f"M-{number}" for number in range(6)]
    for sku in skus:
        await world.product(sku, stock=40)
    chance = random.Random(7)  # noqa: S311 - which products a test buys

    async def buy() -> str:
        chosen = chance.sample(skus, 4)
        order = world.order(*((sku, chance.randint(1, 3)) for sku in chosen))
        try:
            await order.reserve()
        except Fault as fault:
            return fault.reason
        end = chance.choice(("commit", "release", "both at once", "nothing"))
        if end == "both at once":
            results = await asyncio.gather(order.commit(), order.release(), return_exceptions=True)
            faults = [result for result in results if isinstance(result, BaseException)]
            assert all(getattr(fault, "reason", fault) == "RESERVATION_RELEASED" for fault in faults)
        elif end != "nothing":
            await getattr(order, end)()
        return "held"

    outcomes = Counter(await asyncio.gather(*(buy() for _ in range(300))))
    assert set(outcomes) == {"held", "INSUFFICIENT_STOCK"}
    await invariants_hold()
    [row] = await world.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert row["deadlocks"] == 0


@pytest.mark.parametrize("beside", ["deliveries", "losses", "returns"])
async def test_buyers_beside_changes_of_the_stock_fail_only_for_want_of_it(
    world: Any, invariants_hold: Any, beside: str
) -> None:
    # An UPDATE tries its CHECKs on the row of the snapshot, before it sees the newer one that was locked.
    async def buy(sku: str) -> None:
        order = world.order((sku, 1))
        await order.reserve()
        if beside == "returns":
            await order.release()
        else:
            await order.commit()

    outcomes: Counter[str] = Counter()
    for round_number in range(10):
        sku = f"X-{round_number}"
        await world.product(sku, stock=10)
        deltas = {"deliveries": 1, "losses": -1, "returns": 0}[beside]
        changes = [world.adjust(sku, deltas) for _ in range(10)] if deltas else []
        results = await asyncio.gather(*(buy(sku) for _ in range(40)), *changes, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        outcomes.update(getattr(failure, "reason", type(failure).__name__) for failure in failures)
    assert "INSUFFICIENT_STOCK" in outcomes
    assert set(outcomes) <= {"INSUFFICIENT_STOCK", "StockWouldBeNegativeError"}
    await invariants_hold()
