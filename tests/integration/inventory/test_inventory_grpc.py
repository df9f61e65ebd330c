from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chassis.errors import Fault
from chassis.identity import Caller
from chassis.ids import new_id
from sagacity.common.v1 import money_pb2
from sagacity.inventory.v1 import inventory_pb2
from services.inventory import rpc
from tests.integration.inventory.calls import ADMIN, CUSTOMER, EUR, SUPPORT, Client, reserve_fields, step

pytestmark = pytest.mark.integration


def test_every_method_of_the_service_has_a_policy() -> None:
    service = inventory_pb2.DESCRIPTOR.services_by_name["Inventory"]
    assert set(rpc.POLICIES) == {method.name for method in service.methods}


async def test_an_admin_adds_changes_and_archives_a_product_that_anyone_reads(client: Client) -> None:
    created = (
        await client.call("CreateProduct", ADMIN, sku="A-1", name="Ä lamp", category="light", unit_price=EUR)
    ).product
    assert (created.sku, created.name, created.active, created.unit_price) == ("A-1", "Ä lamp", True, EUR)
    changed = (
        await client.call(
            "UpdateProduct",
            ADMIN,
            product=inventory_pb2.Product(sku="A-1", name="Lamp", description="no", etag=created.etag),
            update_mask=FieldMask(paths=["name"]),
        )
    ).product
    assert (changed.name, changed.description, changed.category) == ("Lamp", "", "light")
    assert changed.etag != created.etag
    assert (await client.call("GetProduct", sku="A-1")).product == changed
    archived = (await client.call("ArchiveProduct", ADMIN, sku="A-1")).product
    assert not archived.active
    assert (await client.call("GetProduct", "orders", sku="A-1")).product == archived


async def test_an_admin_gives_a_product_a_threshold_and_takes_it_away(client: Client) -> None:
    created = await client.call(
        "CreateProduct", ADMIN, sku="A-1", name="A", unit_price=EUR, low_stock_threshold=5
    )
    assert created.product.low_stock_threshold == 5

    async def updated(path: str, **fields: Any) -> int:
        product = inventory_pb2.Product(sku="A-1", **fields)
        mask = FieldMask(paths=[path])
        await client.call("UpdateProduct", ADMIN, product=product, update_mask=mask)
        return int((await client.call("GetProduct", sku="A-1")).product.low_stock_threshold)

    assert await updated("name", name="B") == 5
    assert await updated("low_stock_threshold", low_stock_threshold=7) == 7
    assert await updated("low_stock_threshold") == 0
    fault = await client.refused(
        "CreateProduct", ADMIN, sku="A-2", name="A", unit_price=EUR, low_stock_threshold=-1
    )
    assert [detail.subject for detail in fault.fields] == ["low_stock_threshold"]


async def test_refusals_of_the_catalogue_carry_their_reasons(client: Client) -> None:
    await client.product("A-1")
    fault = await client.refused("CreateProduct", ADMIN, sku="A-1", name="A", unit_price=EUR)
    assert (fault.kind, fault.reason, fault.domain) == ("ALREADY_EXISTS", "SKU_TAKEN", "sagacity.inventory")
    assert (await client.refused("GetProduct", sku="NO")).reason == "PRODUCT_NOT_FOUND"
    stale = inventory_pb2.Product(sku="A-1", name="B", etag="v77")
    mask = FieldMask(paths=["name"])
    fault = await client.refused("UpdateProduct", ADMIN, product=stale, update_mask=mask)
    assert (fault.kind, fault.reason) == ("ABORTED", "ETAG_MISMATCH")
    fault = await client.refused(
        "AdjustStock", ADMIN, sku="A-1", delta=-1, reason="x", request_id=str(new_id())
    )
    assert (fault.kind, fault.reason) == ("FAILED_PRECONDITION", "STOCK_WOULD_BE_NEGATIVE")


@pytest.mark.parametrize(
    ("product", "paths", "field"),
    [
        ({"name": "A"}, [], "update_mask"),
        ({"name": "A"}, ["sku"], "update_mask"),
        ({"name": "A"}, ["unit_price.minor_units"], "update_mask"),
        ({"name": ""}, ["name"], "product.name"),
        ({"description": "\0"}, ["description"], "product.description"),
        ({}, ["unit_price"], "product.unit_price"),
        (
            {"unit_price": money_pb2.Money(currency_code="EUR", minor_units=-1)},
            ["unit_price"],
            "product.unit_price",
        ),
        ({"sku": "\0", "name": "A"}, ["name"], "product.sku"),
        ({"low_stock_threshold": -1}, ["low_stock_threshold"], "product.low_stock_threshold"),
    ],
)
async def test_an_update_that_makes_no_sense_names_the_field(
    client: Client, product: dict[str, Any], paths: list[str], field: str
) -> None:
    await client.product("A-1")
    message = inventory_pb2.Product(**({"sku": "A-1"} | product))
    fault = await client.refused("UpdateProduct", ADMIN, product=message, update_mask=FieldMask(paths=paths))
    assert fault.kind == "INVALID_ARGUMENT"
    assert [detail.subject for detail in fault.fields] == [field]


async def test_pages_follow_one_another_in_sku_order_and_fit_their_filter(client: Client) -> None:
    for number in range(7):
        await client.product(f"P-{number}", category="odd" if number % 2 else "even")
    await client.call("ArchiveProduct", ADMIN, sku="P-4")

    async def all_pages(**fields: Any) -> list[str]:
        skus: list[str] = []
        token = ""
        while True:
            page = await client.call("ListProducts", page_size=2, page_token=token, **fields)
            assert len(page.products) <= 2
            skus += [product.sku for product in page.products]
            token = page.next_page_token
            if not token:
                return skus

    assert await all_pages() == ["P-0", "P-1", "P-2", "P-3", "P-5", "P-6"]
    assert await all_pages(category="even") == ["P-0", "P-2", "P-6"]
    assert await all_pages(category="even", include_inactive=True) == ["P-0", "P-2", "P-4", "P-6"]
    assert await all_pages(category="none") == []
    assert len((await client.call("ListProducts")).products) == 6

    token = (await client.call("ListProducts", page_size=2)).next_page_token
    fault = await client.refused("ListProducts", page_size=2, page_token=token, category="odd")
    assert (fault.kind, [detail.subject for detail in fault.fields]) == ("INVALID_ARGUMENT", ["page_token"])
    assert (await client.refused("ListProducts", page_token="rubbish")).kind == "INVALID_ARGUMENT"


async def test_a_product_listed_says_how_much_of_it_can_be_ordered(client: Client) -> None:
    await client.product("A-1", stock=5)
    await client.call("Reserve", "orchestrator", **reserve_fields(("A-1", 2)))
    assert (await client.call("GetProduct", sku="A-1")).product.available == 3
    assert [product.available for product in (await client.call("ListProducts")).products] == [3]
    stock = (await client.call("GetStock", SUPPORT, sku="A-1")).stock
    assert (stock.on_hand, stock.reserved, stock.available) == (5, 2, 3)


async def test_two_admins_may_choose_the_same_request_id(client: Client) -> None:
    await client.product("A-1")
    other = Caller("gateway", UUID("01890000-0000-7000-8000-000000000009"), "admin")
    fields: dict[str, Any] = {"sku": "A-1", "delta": 3, "reason": "x", "request_id": str(new_id())}
    assert (await client.call("AdjustStock", ADMIN, **fields)).stock.on_hand == 3
    assert (await client.call("AdjustStock", ADMIN, **fields)).stock.on_hand == 3
    assert (await client.call("AdjustStock", other, **fields)).stock.on_hand == 6


async def test_a_reservation_goes_through_its_life(client: Client) -> None:
    await client.product("A-1", stock=5)
    await client.product("B-1", stock=5)
    saga_id = new_id()
    fields = reserve_fields(("B-1", 1), ("A-1", 1), ("B-1", 1), saga_id=saga_id)
    reservation = (await client.call("Reserve", "orchestrator", **fields)).reservation
    assert [(line.sku, line.quantity, line.unit_price) for line in reservation.lines] == [
        ("A-1", 1, EUR),
        ("B-1", 2, EUR),
    ]
    assert reservation.state == inventory_pb2.RESERVATION_STATE_HELD
    assert (await client.call("Reserve", "orchestrator", **fields)).reservation == reservation
    reservation_id = reservation.id
    read = await client.call("GetReservation", "orchestrator", reservation_id=reservation_id)
    assert read.reservation == reservation

    committed = await client.call(
        "CommitReservation",
        "orchestrator",
        saga_step=step("stock", saga_id=saga_id),
        reservation_id=reservation_id,
    )
    assert committed.state == inventory_pb2.RESERVATION_STATE_COMMITTED
    for name in ("stock", "reservation"):
        released = await client.call(
            "ReleaseReservation",
            "orchestrator",
            saga_step=step(name, "UNDO", saga_id),
            reservation_id=reservation_id,
        )
        assert released.state == inventory_pb2.RESERVATION_STATE_RELEASED
    read = await client.call("GetReservation", SUPPORT, reservation_id=reservation_id)
    assert read.reservation.state == inventory_pb2.RESERVATION_STATE_RELEASED


async def test_a_shortage_crosses_the_wire_with_every_sku(client: Client) -> None:
    await client.product("A-1", stock=1)
    await client.product("B-1")
    fault = await client.refused("Reserve", "orchestrator", **reserve_fields(("B-1", 2), ("A-1", 3)))
    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "INSUFFICIENT_STOCK", True)
    assert [(detail.subject, detail.description) for detail in fault.subjects] == [
        ("A-1", "requested 3, available 1"),
        ("B-1", "requested 2, available 0"),
    ]


async def test_the_release_of_what_never_was_succeeds_and_refuses_the_late_reserve(client: Client) -> None:
    await client.product("A-1", stock=5)
    saga_id = new_id()
    fields = reserve_fields(("A-1", 1), saga_id=saga_id)
    released = await client.call(
        "ReleaseReservation",
        "orchestrator",
        saga_step=step("reservation", "UNDO", saga_id),
        reservation_id=fields["reservation_id"],
    )
    assert released.state == inventory_pb2.RESERVATION_STATE_UNSPECIFIED
    assert (await client.refused("Reserve", "orchestrator", **fields)).reason == "TOMBSTONED"
    fault = await client.refused("GetReservation", SUPPORT, reservation_id=fields["reservation_id"])
    assert (fault.kind, fault.reason) == ("NOT_FOUND", "RESERVATION_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        ("CreateProduct", {"admin"}),
        ("UpdateProduct", {"admin"}),
        ("ArchiveProduct", {"admin"}),
        ("AdjustStock", {"admin"}),
        ("GetStock", {"admin", "support"}),
        ("GetReservation", {"admin", "support", "orchestrator"}),
        ("Reserve", {"orchestrator"}),
        ("CommitReservation", {"orchestrator"}),
        ("ReleaseReservation", {"orchestrator"}),
        ("Restock", {"orchestrator"}),
        ("GetProduct", {"admin", "support", "customer", "gateway", "orchestrator", "orders"}),
        ("ListProducts", {"admin", "support", "customer", "gateway", "orchestrator", "orders"}),
    ],
)
async def test_who_may_call_what(client: Client, method: str, allowed: set[str]) -> None:
    fields = {"reservation_id": str(new_id())} if method == "GetReservation" else {}
    users: dict[str, Caller | str] = {"admin": ADMIN, "support": SUPPORT, "customer": CUSTOMER}
    for name in ("admin", "support", "customer", "gateway", "orchestrator", "orders"):
        try:
            await client.call(method, users.get(name, name), **fields)
            permitted = True
        except Fault as fault:
            permitted = fault.kind != "PERMISSION_DENIED"
        assert permitted == (name in allowed), name
