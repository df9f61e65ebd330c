from __future__ import annotations

from typing import Any

import httpx2
import pytest

from sagacity.inventory.v1 import inventory_pb2

pytestmark = pytest.mark.integration

NEW = {"sku": "A-1", "name": "A", "unit_price": {"currency": "EUR", "amount_minor": 5}}


async def test_an_admin_gives_a_product_the_threshold_below_which_it_is_low(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    product = inventory_pb2.Product(sku="A-1", low_stock_threshold=7)
    backends.answers["CreateProduct"] = inventory_pb2.CreateProductResponse(product=product)
    backends.answers["UpdateProduct"] = inventory_pb2.UpdateProductResponse(product=product)
    headers = {**backends.bearer("admin"), "Idempotency-Key": "k"}
    created = await client.post("/api/v1/products", json={**NEW, "low_stock_threshold": 7}, headers=headers)
    assert (created.status_code, created.json()["low_stock_threshold"]) == (201, 7)
    assert backends.last("CreateProduct")[0].low_stock_threshold == 7
    await client.post("/api/v1/products", json=NEW, headers=headers)
    assert backends.last("CreateProduct")[0].low_stock_threshold == 0
    await client.patch("/api/v1/products/A-1", json={"low_stock_threshold": 0}, headers=headers)
    request = backends.last("UpdateProduct")[0]
    assert list(request.update_mask.paths) == ["low_stock_threshold"]
    assert request.product.low_stock_threshold == 0


@pytest.mark.parametrize("threshold", [-1, 10**9 + 1, 1.5, "1", None, True])
async def test_what_is_no_threshold_is_refused_by_its_name(
    client: httpx2.AsyncClient, backends: Any, threshold: Any
) -> None:
    headers = {**backends.bearer("admin"), "Idempotency-Key": "k"}
    body = {"low_stock_threshold": threshold}
    for response in (
        await client.post("/api/v1/products", json={**NEW, **body}, headers=headers),
        await client.patch("/api/v1/products/A-1", json=body, headers=headers),
    ):
        assert response.status_code in {400, 422}
        assert [error["field"] for error in response.json()["errors"]] == ["low_stock_threshold"]
