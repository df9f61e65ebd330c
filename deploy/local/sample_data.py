"""Sample data over REST: a customer with an address and payment methods, twenty products with stock."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from deploy.local.programs import ADMIN_EMAIL, CUSTOMER_EMAIL
from deploy.local.rest import Json, RefusedError, Rest

CURRENCY = "EUR"
AT_ONCE = 4


class Product(NamedTuple):
    """A product to sell: `price_minor` in cents, `stock` in units."""

    sku: str
    name: str
    category: str
    price_minor: int
    stock: int
    description: str


# The one that the demo's shortage is shown on.
SCARCE_SKU = "LAMP-BRASS-01"
PRODUCTS = (
    Product(
        "KEYB-MECH-DE", "Mechanical keyboard, German layout", "office", 11900, 120, "Brown switches, 87 keys."
    ),
    Product(
        "KEYB-MECH-US", "Mechanical keyboard, US layout", "office", 11900, 80, "Brown switches, 87 keys."
    ),
    Product("MOUSE-VERT-L", "Vertical mouse, large", "office", 5490, 200, "For the right hand, wireless."),
    Product(
        "DESK-OAK-160", "Standing desk, oak, 160 cm", "furniture", 64900, 25, "Electric, 62 to 127 cm high."
    ),
    Product(
        "CHAIR-MESH-BK",
        "Office chair, black mesh",
        "furniture",
        38900,
        40,
        "Adjustable arms and lumbar support.",
    ),
    Product(SCARCE_SKU, "Desk lamp, brass", "lighting", 14900, 3, "Made by hand, in small numbers."),
    Product("LAMP-LED-WH", "Desk lamp, LED, white", "lighting", 4990, 300, "Dimmable, 2700 to 5000 K."),
    Product("MONITOR-27-4K", "Monitor, 27 inches, 4K", "electronics", 42900, 60, "IPS, USB-C with 90 W."),
    Product(
        "HEADSET-ANC", "Headset with noise cancelling", "electronics", 22900, 90, "30 hours on one charge."
    ),
    Product("WEBCAM-1080P", "Webcam, 1080p", "electronics", 6990, 150, "With a cover for its lens."),
    Product(
        "DOCK-USBC-11", "USB-C dock, 11 ports", "electronics", 18900, 70, "Two displays, gigabit Ethernet."
    ),
    Product("CABLE-USBC-2M", "USB-C cable, 2 m", "electronics", 1290, 1000, "100 W, braided."),
    Product("NOTE-A5-DOT", "Notebook A5, dotted", "stationery", 1490, 800, "192 pages, 100 g paper."),
    Product("PEN-FOUNT-M", "Fountain pen, medium nib", "stationery", 3490, 140, "With a converter."),
    Product("INK-BLUE-50", "Ink, royal blue, 50 ml", "stationery", 890, 400, "Washable."),
    Product("MUG-STONE-35", "Stoneware mug, 0.35 l", "kitchen", 1690, 260, "Dishwasher-safe."),
    Product(
        "KETTLE-SS-17", "Kettle, stainless steel, 1.7 l", "kitchen", 5990, 75, "Keeps five temperatures."
    ),
    Product("COFFEE-ETH-1K", "Coffee beans, Ethiopia, 1 kg", "groceries", 2790, 180, "Washed, light roast."),
    Product("TEA-ASSAM-250", "Assam tea, 250 g", "groceries", 1190, 220, "Second flush, loose."),
    Product(
        "BAG-CANVAS-20", "Backpack, canvas, 20 l", "bags", 8990, 55, "With a sleeve for a 15 inch laptop."
    ),
)
ADDRESS = {
    "recipient": "Ada Lovelace",
    "line1": "Hauptstrasse 1",
    "city": "Berlin",
    "postal_code": "10827",
    "country_code": "DE",
}
# The provider's test tokens, and the last four digits of their cards, by which they are known afterwards.
PAYMENT_METHODS = {"tok_success": "4242", "tok_declined": "0002", "tok_insufficient_funds": "9995"}


async def load_sample_data(url: str, admin_password: str, customer_password: str) -> None:
    """Load what is missing; what is there stays. The users process has made the admin at its start.

    Raises:
        LocalDeployError: the gateway refuses something, or does not answer.
    """
    async with Rest(url) as admin, Rest(url) as customer:
        await admin.log_in(ADMIN_EMAIL, admin_password)
        bound = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            group.create_task(load_customer(customer, customer_password))
            for product in PRODUCTS:
                group.create_task(_load_product(admin, product, bound))


async def load_customer(customer: Rest, password: str) -> None:
    """Register the sample customer, log in, add the address and payment methods; what is there stays."""
    new = {"email": CUSTOMER_EMAIL, "password": password, "display_name": ADDRESS["recipient"]}
    await _unless(customer, "EMAIL_TAKEN", "/users", new, key="sample-customer")
    await customer.log_in(CUSTOMER_EMAIL, password)
    if not await customer.items("/users/me/addresses"):
        await customer.post("/users/me/addresses", ADDRESS, key="sample-address")
    there = {method["last4"] for method in await customer.items("/users/me/payment-methods")}
    for token, last4 in PAYMENT_METHODS.items():
        if last4 not in there:
            await customer.post("/users/me/payment-methods", {"provider_token": token}, key=f"sample-{token}")


async def _load_product(admin: Rest, product: Product, bound: asyncio.Semaphore) -> None:
    price = {"currency": CURRENCY, "amount_minor": product.price_minor}
    body = product._asdict()
    del body["price_minor"], body["stock"]
    async with bound:
        await _unless(
            admin, "SKU_TAKEN", "/products", {**body, "unit_price": price}, key=f"sample-{product.sku}"
        )
        # Its key makes the second time change nothing.
        stock = {"delta": product.stock, "reason": "sample data"}
        await admin.post(
            f"/products/{product.sku}/stock-adjustments", stock, key=f"sample-stock-{product.sku}"
        )


async def _unless(client: Rest, taken: str, path: str, body: Json, *, key: str) -> None:
    try:
        await client.post(path, body, key=key)
    except RefusedError as refused:
        if refused.code != taken:
            raise
