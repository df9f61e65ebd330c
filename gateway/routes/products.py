"""Products and their stock."""

import re
from typing import Annotated, Final

from fastapi import Path, Query, Response
from google.protobuf.field_mask_pb2 import FieldMask

from gateway import render
from gateway.auth import Access
from gateway.context import Context, Ctx
from gateway.models import Money, NewProduct, ProductPatch, ProductQuery, Sku, StockAdjustment
from gateway.openapi import IDEMPOTENCY_KEY, IF_MATCH, headers_of, problems
from gateway.problems import FieldError, malformed
from gateway.routing import API, allow, router
from gateway.views import Page, ProductView, StockView
from sagacity.common.v1 import money_pb2
from sagacity.inventory.v1 import inventory_pb2

ROUTER = router(f"{API}/products", tags=["products"])

_ETAG: Final = re.compile(r'"([\x21\x23-\x7e]{1,200})"')
_NOT_FOUND: Final = {404: "There is no such product"}

SkuPath = Annotated[Sku, Path()]


def money(amount: Money) -> money_pb2.Money:
    """Turns the JSON of an amount into protobuf."""
    return money_pb2.Money(currency_code=amount.currency, minor_units=amount.amount_minor)


@ROUTER.get("")
@allow(Access.ANYONE)
async def list_products(query: Annotated[ProductQuery, Query()], context: Ctx) -> Page[ProductView]:
    """Lists products in SKU order."""
    inventory = context.backends.inventory
    request = inventory_pb2.ListProductsRequest(
        page_size=query.page_size,
        page_token=query.page_token,
        category=query.category,
        include_inactive=query.include_inactive == "true",
    )
    reply = await context.call(inventory, inventory.stub.ListProducts, request)
    return Page(
        items=[render.product(product) for product in reply.products],
        next_page_token=reply.next_page_token or None,
    )


@ROUTER.post(
    "",
    status_code=201,
    openapi_extra=headers_of(IDEMPOTENCY_KEY),
    responses=problems({409: "The SKU is taken"}),
)
@allow(Access.ADMIN)
async def create_product(body: NewProduct, response: Response, context: Ctx) -> ProductView:
    """Adds a product, with no stock.

    The SKU is the natural key: the same one again is refused with SKU_TAKEN.
    """
    context.idempotency_key()
    inventory = context.backends.inventory
    request = inventory_pb2.CreateProductRequest(
        sku=body.sku,
        name=body.name,
        description=body.description,
        category=body.category,
        unit_price=money(body.unit_price),
        low_stock_threshold=body.low_stock_threshold,
    )
    reply = await context.call(inventory, inventory.stub.CreateProduct, request)
    response.headers["Location"] = f"{API}/products/{reply.product.sku}"
    return _tagged(reply.product, response)


@ROUTER.get("/{sku}", responses=problems(_NOT_FOUND))
@allow(Access.ANYONE)
async def read_product(sku: SkuPath, response: Response, context: Ctx) -> ProductView:
    """Reads one product; its `ETag` is what `If-Match` of a change may name."""
    inventory = context.backends.inventory
    request = inventory_pb2.GetProductRequest(sku=sku)
    reply = await context.call(inventory, inventory.stub.GetProduct, request)
    return _tagged(reply.product, response)


@ROUTER.patch(
    "/{sku}",
    openapi_extra=headers_of(IF_MATCH),
    responses=problems({**_NOT_FOUND, 412: "Somebody else changed it: read it again"}),
)
@allow(Access.ADMIN)
async def update_product(sku: SkuPath, body: ProductPatch, response: Response, context: Ctx) -> ProductView:
    """Changes the fields that are given; with `If-Match`, only the version that was read."""
    changed = sorted(body.model_fields_set)
    if not changed:
        raise malformed("There is nothing to change: give at least one field.", FieldError("", "is empty"))
    product = inventory_pb2.Product(
        sku=sku,
        etag=_if_match(context),
        name=body.name or "",
        description=body.description or "",
        category=body.category or "",
        unit_price=money(body.unit_price) if body.unit_price else None,
        active=bool(body.active),
        low_stock_threshold=body.low_stock_threshold or 0,
    )
    inventory = context.backends.inventory
    request = inventory_pb2.UpdateProductRequest(product=product, update_mask=FieldMask(paths=changed))
    reply = await context.call(inventory, inventory.stub.UpdateProduct, request)
    return _tagged(reply.product, response)


@ROUTER.delete("/{sku}", status_code=204, responses=problems(_NOT_FOUND))
@allow(Access.ADMIN)
async def archive_product(sku: SkuPath, context: Ctx) -> None:
    """Takes a product out of sale; orders that hold it are not touched."""
    inventory = context.backends.inventory
    request = inventory_pb2.ArchiveProductRequest(sku=sku)
    await context.call(inventory, inventory.stub.ArchiveProduct, request)


@ROUTER.get("/{sku}/stock", responses=problems(_NOT_FOUND))
@allow(Access.STAFF)
async def read_stock(sku: SkuPath, context: Ctx) -> StockView:
    """Reads the stock of a product."""
    inventory = context.backends.inventory
    reply = await context.call(inventory, inventory.stub.GetStock, inventory_pb2.GetStockRequest(sku=sku))
    return render.stock(reply.stock)


@ROUTER.post(
    "/{sku}/stock-adjustments",
    status_code=201,
    openapi_extra=headers_of(IDEMPOTENCY_KEY),
    responses=problems({**_NOT_FOUND, 409: "There would be less than nothing"}),
)
@allow(Access.ADMIN)
async def adjust_stock(sku: SkuPath, body: StockAdjustment, response: Response, context: Ctx) -> StockView:
    """Adds to the stock on hand, or takes from it; answers with the stock after it."""
    inventory = context.backends.inventory
    request = inventory_pb2.AdjustStockRequest(
        sku=sku,
        delta=body.delta,
        reason=body.reason,
        request_id=context.request_id_of(f"POST /products/{sku}/stock-adjustments"),
    )
    reply = await context.call(inventory, inventory.stub.AdjustStock, request)
    response.headers["Location"] = f"{API}/products/{sku}/stock"
    return render.stock(reply.stock)


def _tagged(product: inventory_pb2.Product, response: Response) -> ProductView:
    if product.etag:
        response.headers["ETag"] = f'"{product.etag}"'
    return render.product(product)


def _if_match(context: Context) -> str:
    """Returns the version that If-Match names, empty where any will do."""
    values = context.request.headers.getlist("if-match")
    if not values or values == ["*"]:
        return ""
    found = _ETAG.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        why = 'must be one strong entity tag, "..." with its quotes'
        raise malformed(f"The header If-Match {why}.", FieldError("If-Match", why))
    return found[1]
