"""`make demo`: three orders against a running suite, and what their sagas did.

One is confirmed, one is short of stock, one is declined: its stock is released again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chassis.ids import new_id
from deploy.local.errors import LocalDeployError
from deploy.local.programs import ADMIN_EMAIL
from deploy.local.rest import Json, RefusedError, Rest
from deploy.local.sample_data import CURRENCY, PAYMENT_METHODS, SCARCE_SKU, load_customer
from deploy.local.secret_files import SecretFiles

WAIT_SECONDS = 20
END_SECONDS = 30
POLL_SECONDS = 0.2
ENDS = ("confirmed", "rejected", "shipped", "delivered", "cancelled")
NUMBERS = ("#", "try", "after", "took")
INTENDED = "intended"
OUTCOME_STYLES = {INTENDED: "dim", "done": "green", "refused": "red", "unknown": "yellow"}
COFFEE, KEYBOARD = "COFFEE-ETH-1K", "KEYB-MECH-DE"


class Scene(NamedTuple):
    """An order of the demo, and the product whose stock is looked at."""

    title: str
    items: dict[str, int]
    token: str
    watched_sku: str


SCENES = (
    Scene("An order that is confirmed", {KEYBOARD: 1, COFFEE: 2}, "tok_success", COFFEE),
    Scene("An order that is short of stock", {COFFEE: 1, SCARCE_SKU: 500}, "tok_success", SCARCE_SKU),
    Scene("An order whose card is declined: its stock is released", {COFFEE: 3}, "tok_declined", COFFEE),
)


class Clients(NamedTuple):
    """The two people of the demo."""

    customer: Rest
    admin: Rest


async def play(url: str, admin_password: str, customer_password: str) -> list[Json]:
    """Place the demo's orders; return for each its order, refusal, stock and sagas with timelines.

    Raises:
        LocalDeployError: nothing runs there, or it refuses what it should not.
    """
    async with Rest(url) as customer, Rest(url) as admin:
        await admin.log_in(ADMIN_EMAIL, admin_password)
        await load_customer(customer, customer_password)
        clients = Clients(customer, admin)
        return [await _play_scene(clients, scene) for scene in SCENES]


async def _play_scene(clients: Clients, scene: Scene) -> Json:
    customer, admin = clients
    (address, *_) = await customer.items("/users/me/addresses")
    methods = {method["last4"]: method["id"] for method in await customer.items("/users/me/payment-methods")}
    body = {
        "items": [{"sku": sku, "quantity": quantity} for sku, quantity in scene.items.items()],
        "currency": CURRENCY,
        "address_id": address["id"],
        "payment_method_id": methods[PAYMENT_METHODS[scene.token]],
    }
    stock_path = f"/products/{scene.watched_sku}/stock"
    before = await admin.get(stock_path)
    refusal: Json | None = None
    try:
        placed = await customer.post("/orders", body, key=f"demo-{new_id()}", wait_seconds=WAIT_SECONDS)
        order_id = str(placed.get("id") or placed["order_id"])
    except RefusedError as refused:
        if "order_id" not in refused.problem:
            raise
        order_id, refusal = str(refused.problem["order_id"]), refused.problem
    order = await _end_of(customer, order_id)
    sagas = await admin.items("/admin/sagas", order_id=order_id)
    return {
        "title": scene.title,
        "order": order,
        "refusal": refusal,
        "stock_before": before,
        "stock_after": await admin.get(stock_path),
        "sagas": [
            {**saga, "timeline": await admin.items(f"/admin/sagas/{saga['id']}/timeline")} for saga in sagas
        ],
    }


async def _end_of(customer: Rest, order_id: str) -> Json:
    """Wait until the order is at its end."""
    try:
        async with asyncio.timeout(END_SECONDS):
            while True:
                try:
                    order = await customer.get(f"/orders/{order_id}")
                    if order["state"] in ENDS:
                        return order
                except RefusedError as refused:
                    if refused.status != 404:  # accepted, and not written yet
                        raise
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise LocalDeployError(f"order {order_id} was not at its end after {END_SECONDS} s") from None


def show(scenes: list[Json], console: Console) -> None:
    """Print what `play` returned, for people."""
    for scene in scenes:
        order, before, after = scene["order"], scene["stock_before"], scene["stock_after"]
        console.rule(scene["title"])
        total = order["total"]
        paid = f", {total['amount_minor'] / 100:.2f} {total['currency']}" if total else ""
        console.print(f"order {order['order_number'] or order['id']}: [bold]{order['state']}[/bold]{paid}")
        if scene["refusal"]:
            console.print(f"refused: {scene['refusal']['code']}: {scene['refusal']['detail']}", markup=False)
        console.print(
            f"stock of {before['sku']}: {before['available']} available before, {after['available']} after "
            f"({after['reserved']} reserved)"
        )
        for saga in scene["sagas"]:
            console.print(_table(saga))


def _table(saga: Json) -> Table:
    """One row a call, and one a decision; the intents of the calls are in the JSON."""
    title = f"{saga['kind']} {saga['id']}: {saga['state']}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("#", "call", "try", "outcome", "after", "took", "detail"):
        table.add_column(
            column,
            justify="right" if column in NUMBERS else "left",
            no_wrap=column != "detail",
            overflow="fold",
        )
    begun: dict[tuple[str, str], datetime] = {}
    first = min(datetime.fromisoformat(entry["time"]) for entry in saga["timeline"])
    for entry in saga["timeline"]:
        time, call = datetime.fromisoformat(entry["time"]), (entry["step"], entry["operation"])
        if entry["step"] and entry["outcome"] == INTENDED:
            begun[call] = time
            continue
        style = OUTCOME_STYLES.get(entry["outcome"], "default")
        table.add_row(
            str(entry["sequence"]),
            f"{entry['operation']} {entry['step']}".strip(),
            str(entry["attempt"] or ""),
            f"[{style}]{entry['outcome']}[/]",
            _milliseconds(time - first),
            _milliseconds(time - begun[call]) if call in begun else "",
            escape(entry["detail"]),
        )
        begun[call] = time
    return table


def _milliseconds(duration: timedelta) -> str:
    return f"{duration.total_seconds() * 1000:.0f} ms"


def _passwords(secrets: SecretFiles) -> tuple[str, str]:
    if not secrets.path("admin-password").exists():
        raise LocalDeployError(
            f"there are no logins in {secrets.folder}; start Sagacity with `make run`, or name its --data-dir"
        )
    return secrets.text("admin-password"), secrets.text("customer-password")


def main(
    url: Annotated[str, typer.Option(help="The gateway's base URL.")] = "http://127.0.0.1:8080",
    data_dir: Annotated[Path, typer.Option(help="Where the suite keeps its logins.")] = Path(".sagacity"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Place a confirmed, a short and a declined order, and show what their sagas did."""
    try:
        passwords = _passwords(SecretFiles(data_dir / "secrets"))
        scenes = asyncio.run(play(url, *passwords))
    except LocalDeployError as error:
        sys.stderr.write(f"demo: {error}\n")
        raise SystemExit(1) from None
    if as_json:
        sys.stdout.write(json.dumps(scenes, indent=2) + "\n")
    else:
        show(scenes, Console())


if __name__ == "__main__":
    typer.run(main)
