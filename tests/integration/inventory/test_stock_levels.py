"""StockLow and StockBack: once per crossing, whatever changes the stock. How: docs/adr/0017."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.errors import Fault
from chassis.ids import new_id
from chassis.outbox import bucket_of
from chassis.postgres import statement
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import InvalidFieldsError, InventoryError, ProductChange
from services.inventory.store import products as store

pytestmark = pytest.mark.integration

WAIT_SECONDS = 30.0
MAX_TURNS = 10
WRITERS, ROUNDS = 16, 12
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LOW, BACK = "StockLow", "StockBack"
SKU = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
UNITS = st.integers(0, 2**63 - 1) | st.sampled_from([0, 1, 127, 128, 2**14 - 1, 2**14, 2**63 - 1])

_numbers = itertools.count(1)


async def set_threshold(world: Any, sku: str, threshold: int) -> None:
    await world.catalogue.update_product(sku, ProductChange(low_stock_threshold=threshold))


async def test_stock_that_falls_below_its_threshold_is_low_until_it_is_back_at_it(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1", stock=10)
    await set_threshold(world, "A-1", 5)
    first, second = world.order(("A-1", 5)), world.order(("A-1", 1))
    await first.reserve()
    assert await world.levels("A-1") == []
    await second.reserve()
    await world.order(("A-1", 2)).reserve()
    assert await world.levels("A-1") == [(LOW, 4, 5)]
    await first.release()
    assert await world.levels("A-1") == [(LOW, 4, 5), (BACK, 7, 5)]
    await invariants_hold()


async def test_a_sale_of_what_was_held_is_no_crossing(world: Any) -> None:
    await world.product("A-1", stock=10)
    await set_threshold(world, "A-1", 5)
    order = world.order(("A-1", 6))
    await order.reserve()
    await order.commit()
    assert await world.levels("A-1") == [(LOW, 4, 5)]


async def test_a_product_without_a_threshold_is_never_low(world: Any) -> None:
    await world.product("A-1", stock=3)
    await world.order(("A-1", 3)).reserve()
    assert await world.levels("A-1") == []


async def test_a_change_of_the_threshold_can_be_the_crossing(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=10)
    for threshold in (10, 11, 30, 10, 11, 0):
        await set_threshold(world, "A-1", threshold)
    assert await world.levels("A-1") == [(LOW, 10, 11), (BACK, 10, 10), (LOW, 10, 11), (BACK, 10, 0)]
    await invariants_hold()


async def test_a_product_that_begins_with_a_threshold_begins_low(world: Any, invariants_hold: Any) -> None:
    product = await world.product("A-1", threshold=5)
    assert product.low_stock_threshold == 5
    assert await world.catalogue.product("A-1") == product
    assert await world.levels("A-1") == [(LOW, 0, 5)]
    await world.adjust("A-1", 5)
    assert await world.levels("A-1") == [(LOW, 0, 5), (BACK, 5, 5)]
    await invariants_hold()


async def test_a_crossing_wakes_the_relay_whatever_made_it(world: Any) -> None:
    await world.product("A-1", stock=10)
    for change in (lambda: set_threshold(world, "A-1", 11), lambda: world.adjust("A-1", 1)):
        before = len(world.wakes)
        await change()
        assert len(world.wakes) == before + 1


async def test_what_is_rolled_back_is_no_crossing(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=10)
    await set_threshold(world, "A-1", 5)

    async def use_case(tx: Any) -> None:
        await tx.fetch(statement("of_a_test", "UPDATE stock SET on_hand = 0"), {})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.database.run(use_case)
    assert await world.levels("A-1") == []
    await invariants_hold()


@pytest.mark.parametrize("threshold", [-1, 10**9 + 1])
async def test_a_threshold_that_cannot_be_is_refused(world: Any, threshold: int) -> None:
    await world.product("A-1")
    with pytest.raises(InvalidFieldsError, match="low_stock_threshold"):
        await set_threshold(world, "A-1", threshold)
    with pytest.raises(psycopg.errors.CheckViolation):
        await world.rows("UPDATE stock SET low_stock_threshold = -1")


class Model:
    """What should have been published, from what the stock is after each change."""

    def __init__(self, world: Any) -> None:
        number = next(_numbers)
        self.world = world
        self.skus = (f"A-{number}", f"B-{number}")
        self.expected: dict[str, list[tuple[str, int, int]]] = {sku: [] for sku in self.skus}
        self.thresholds = dict.fromkeys(self.skus, 0)
        self.orders: list[Any] = []

    async def check(self) -> None:
        for sku, expected in self.expected.items():
            on_hand, reserved = await self.world.stock(sku)
            available, threshold = on_hand - reserved, self.thresholds[sku]
            was_low = bool(expected) and expected[-1][0] == LOW
            if (available < threshold) != was_low:
                expected.append((BACK if was_low else LOW, available, threshold))
            assert await self.world.levels(sku) == expected

    async def change(self, verb: str, which: int, units: int) -> None:
        """Do something; what is refused changes nothing."""
        sku = self.skus[which % len(self.skus)]
        if verb == "threshold":
            self.thresholds[sku] = units
            await set_threshold(self.world, sku, units)
        elif verb == "adjust":
            await self.world.adjust(sku, units - 10 or 1)
        elif verb == "reserve" or not self.orders:
            self.orders.append(self.world.order((sku, units + 1), (self.skus[0], 1)))
            await self.orders[-1].reserve()
        else:
            await self.end(verb, self.orders[which % len(self.orders)], sku)

    async def end(self, verb: str, order: Any, sku: str) -> None:
        if verb == "expire":
            await self.world.run_out(order)
            await self.world.reservations.expire_due()
            return
        verbs: dict[str, Callable[[], Awaitable[object]]] = {
            "commit": order.commit,
            "release": order.release,
            "cancel": order.cancel,
            "restock": lambda: order.restock((sku, 1)),
        }
        await verbs[verb]()


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(
            ["threshold", "adjust", "reserve", "reserve", "commit", "release", "cancel", "expire", "restock"]
        ),
        st.integers(0, 7),
        st.integers(0, 20),
    ),
    max_size=25,
)


@PROPERTY
@given(changes=CHANGES)
async def test_whatever_changes_the_stock_each_crossing_is_published_once_and_in_order(
    world: Any, changes: list[tuple[str, int, int]]
) -> None:
    model = Model(world)
    for sku in model.skus:
        await world.product(sku, stock=10)
    for change in changes:
        try:
            await model.change(*change)
        except (Fault, InventoryError) as refusal:
            assert getattr(refusal, "kind", "") != "UNAVAILABLE", refusal  # noqa: PT017 - whatever else
        await model.check()


def assert_in_turn(levels: list[tuple[str, int, int]]) -> None:
    assert [name for name, _, _ in levels] == [LOW, BACK] * (len(levels) // 2) + [LOW] * (len(levels) % 2)
    assert all((available < threshold) == (name == LOW) for name, available, threshold in levels)


async def buy_and_undo(world: Any, skus: tuple[str, ...]) -> None:
    for number in range(ROUNDS):
        order = world.order(*((sku, 1) for sku in skus))
        await order.reserve()
        if number % 3 == 0:
            await order.commit()
            await order.cancel()
        else:
            await order.release()


async def keep_books(world: Any, skus: tuple[str, ...]) -> None:
    for number, sku in itertools.product(range(ROUNDS), skus):
        await set_threshold(world, sku, number * 7 % WRITERS)
        await world.adjust(sku, 1)
        await world.adjust(sku, -1)


async def test_writers_around_the_threshold_publish_low_and_back_in_turn(
    world: Any, invariants_hold: Any
) -> None:
    """P7: sixteen at once, and the threshold moves under them."""
    skus = ("A-1", "B-1")
    for sku in skus:
        await world.product(sku, stock=WRITERS)
        await set_threshold(world, sku, WRITERS // 2)
    # How often the threshold is crossed is the schedule's; they go on until it was crossed often.
    for _ in range(MAX_TURNS):
        await asyncio.gather(*(buy_and_undo(world, skus) for _ in range(WRITERS)), keep_books(world, skus))
        if min([len(await world.levels(sku)) for sku in skus]) > WRITERS:
            break
    for sku in skus:
        levels = await world.levels(sku)
        assert len(levels) > WRITERS
        assert_in_turn(levels)
    await invariants_hold()


async def test_a_movement_and_a_change_of_the_threshold_wait_for_one_another_in_one_order(world: Any) -> None:
    """A movement has the stock and refers to the product; the change has the product and wants the stock."""
    await world.product("A-1", stock=10)
    movement = """
        INSERT INTO stock_movement
            (id, sku, delta, reason, caller, request_id, on_hand_after, reserved_after, create_time)
        VALUES (%(id)s, 'A-1', 1, 'x', 'x', %(id)s, 0, 0, now())
    """

    async def without_another_try() -> None:
        async with world.database.transaction() as tx:
            await store.lock_product(tx, "A-1")
            await store.set_low_stock_threshold(tx, "A-1", 11)

    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(WAIT_SECONDS), world.database.transaction() as tx:
        await tx.fetch(statement("of_a_test", "SELECT FROM stock FOR UPDATE"), {})
        change = asyncio.create_task(without_another_try())
        while not await world.rows(waiting):
            assert not change.done()
        await tx.fetch(statement("of_a_test", movement), {"id": new_id()})
    await change
    assert await world.levels("A-1") == [(LOW, 10, 11)]


@PROPERTY
@given(facts=st.lists(st.tuples(SKU, UNITS, UNITS), min_size=1, max_size=20))
async def test_the_database_writes_the_bytes_that_protobuf_would(
    world: Any, facts: list[tuple[str, int, int]]
) -> None:
    rows = await world.rows(
        """
        SELECT stock_level_payload(f.sku, f.available, f.threshold) AS payload, outbox_bucket(f.sku) AS bucket
        FROM unnest(%(skus)s::text[], %(available)s::bigint[], %(thresholds)s::bigint[])
            WITH ORDINALITY AS f (sku, available, threshold, n)
        ORDER BY f.n
        """,
        skus=[sku for sku, _, _ in facts],
        available=[available for _, available, _ in facts],
        thresholds=[threshold for _, _, threshold in facts],
    )
    assert [(row["payload"], row["bucket"]) for row in rows] == [
        (
            events_pb2.StockLow(sku=sku, available=available, threshold=threshold).SerializeToString(
                deterministic=True
            ),
            bucket_of(sku),
        )
        for sku, available, threshold in facts
    ]


def test_both_events_have_the_fields_that_the_database_writes() -> None:
    fields = [("sku", 1), ("available", 2), ("threshold", 3)]
    for message in (events_pb2.StockLow, events_pb2.StockBack):
        assert [(field.name, field.number) for field in message.DESCRIPTOR.fields] == fields


async def test_a_negative_number_is_refused_instead_of_encoded_wrongly(world: Any) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await world.rows("SELECT protobuf_varint(-1)")
