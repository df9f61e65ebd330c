"""The shop of the benchmarks: products that do not run out, and customers who buy them."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.local.programs import ADMIN_EMAIL
from deploy.local.rest import Rest
from deploy.local.suite import Suite

SHOPPERS = 20
SKUS = 20
STOCK = 1_000_000
PASSWORD = "correct horse battery"


@dataclass
class Shopper:
    """A customer who orders: the token and what an order needs."""

    token: str
    address_id: str
    payment_method_id: str
    declined_method_id: str


async def prepare(suite: Suite, shoppers: int = SHOPPERS) -> list[Shopper]:
    """Make products that do not run out and customers who buy them."""
    async with Rest(suite.gateway_url) as admin:
        await admin.log_in(ADMIN_EMAIL, suite.password("admin"))
        for number in range(SKUS):
            sku = f"BENCH-{number}"
            price = {"currency": "EUR", "amount_minor": 1000 + number}
            product = {"sku": sku, "name": sku, "description": "", "category": "bench", "unit_price": price}
            await admin.post("/products", product, key=f"product-{number}")
            stock = {"delta": STOCK, "reason": "bench"}
            await admin.post(f"/products/{sku}/stock-adjustments", stock, key=f"stock-{number}")
    # One after the other: passwords are hashed one at a time, and a busy machine is slow at it.
    return [await _shopper(suite.gateway_url, number) for number in range(shoppers)]


async def _shopper(url: str, number: int) -> Shopper:
    email = f"bench-{number}@sagacity.example"
    address = {
        "recipient": "Ada",
        "line1": "Hauptstrasse 1",
        "city": "Berlin",
        "postal_code": "10827",
        "country_code": "DE",
    }
    async with Rest(url) as user:
        registration = {"email": email, "password": PASSWORD, "display_name": f"Bench {number}"}
        await user.post("/users", registration, key=email)
        session = await user.post("/sessions", {"email": email, "password": PASSWORD})
        await user.log_in(email, PASSWORD)
        added = await user.post("/users/me/addresses", address, key="address")
        good, bad = [
            await user.post("/users/me/payment-methods", {"provider_token": token}, key=token)
            for token in ("tok_success", "tok_declined")
        ]
    return Shopper(session["access_token"], added["id"], good["id"], bad["id"])
