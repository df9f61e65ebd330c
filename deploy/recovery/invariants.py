"""`python -m deploy.recovery.invariants`: what the five databases say that cannot be true together.

It reads and changes nothing. Within a database the queries of `queries` are asked, between databases it is
compared here, in memory. Meant for a quiet moment: of what is under way, one database knows before another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from chassis.config import SettingsError
from deploy.recovery.databases import dsns
from deploy.recovery.queries import QUERIES

SOLD = {"CONFIRMED", "SHIPPED", "DELIVERED"}
UNDONE = {"REJECTED", "CANCELLED"}
OPEN = {"RUNNING", "COMPENSATING", "WAITING", "PAUSED", "PARKED"}
# place_order sagas by how they ended → what their order may be. An open one's order is what it is.
ENDS: Mapping[str, set[str | None]] = {"COMPLETED": {*SOLD, "CANCELLED"}, "COMPENSATED": {"REJECTED", None}}
TABLES = {
    "orders": """
        SELECT id::text, saga_id::text, state, coalesce(total_minor, 0) - refunded_minor AS due
        FROM orders""",
    "inventory": "SELECT order_id::text AS id, state FROM reservation",
    "payments": """
        SELECT order_id::text AS id, sum(captured_minor - refunded_minor)::bigint AS net,
            sum(authorized_minor)::bigint AS authorized FROM payment GROUP BY order_id""",
    "sagas": """
        SELECT id::text, kind, key::text, state FROM saga
        UNION ALL SELECT id::text, kind, key::text, state FROM saga_archive""",
}
CALLS = "SELECT DISTINCT saga_id::text AS id FROM barrier"

Row = Mapping[str, Any]


class Broken(NamedTuple):
    """An invariant, and what breaks it."""

    invariant: str
    subject: str


def find_broken(where: Mapping[str, str]) -> list[Broken]:
    """Return what breaks an invariant, by the DSNs of users, inventory, payments, orders and sagas."""
    broken = [
        Broken(invariant, f"{database}: {row['found']}")
        for database, queries in QUERIES.items()
        for invariant, query in queries.items()
        for row in _rows(where[database], f"SELECT found FROM ({query}) AS asked (found)")  # noqa: S608 - ours
    ]
    tables = {database: _rows(where[database], query) for database, query in TABLES.items()}
    sagas = {row["id"]: row for row in tables["sagas"]}
    orders = {row["id"]: row for row in tables["orders"]}
    broken += _orders_and_sagas(orders, sagas)
    busy = {row["key"] for row in sagas.values() if row["state"] in OPEN}
    quiet = {order_id: order for order_id, order in orders.items() if order_id not in busy}
    broken += _stock(quiet, {row["id"]: row["state"] for row in tables["inventory"]})
    broken += _money(quiet, {row["id"]: row for row in tables["payments"]})
    for database in ("inventory", "payments"):
        nowhere = {row["id"] for row in tables[database]} - orders.keys() - busy
        broken += [Broken("I3", f"{database}: order {order_id} does not exist") for order_id in nowhere]
    for database in ("orders", "inventory", "payments"):
        unknown = {row["id"] for row in _rows(where[database], CALLS)} - sagas.keys()
        broken += [
            Broken("I3", f"{database}: called by saga {saga}, which no journal has") for saga in unknown
        ]
    return broken


def _orders_and_sagas(orders: Mapping[str, Row], sagas: Mapping[str, Row]) -> Iterator[Broken]:
    by_saga = {order["saga_id"]: order for order in orders.values()}
    for saga_id, saga in sagas.items():
        state = by_saga.get(saga_id, {}).get("state")
        ends = ENDS.get(saga["state"])
        if saga["kind"] == "place_order" and ends is not None and state not in ends:
            yield Broken("I5", f"saga {saga_id} is {saga['state']}, its order {state}")
    for order_id, order in orders.items():
        if order["saga_id"] not in sagas:
            yield Broken("I5", f"order {order_id} is {order['state']}, and no journal has its saga")


def _stock(orders: Mapping[str, Row], reservations: Mapping[str, str]) -> Iterator[Broken]:
    for order_id, order in orders.items():
        state = reservations.get(order_id)
        if order["state"] in SOLD and state not in {"COMMITTED", "RETURNED"}:
            yield Broken("I6", f"order {order_id} is {order['state']}, its stock {state}")
        if order["state"] in UNDONE and state in {"HELD", "COMMITTED"}:
            yield Broken("I7", f"order {order_id} is {order['state']}, its stock {state}")


def _money(orders: Mapping[str, Row], payments: Mapping[str, Row]) -> Iterator[Broken]:
    nothing: Row = {"net": 0, "authorized": 0}
    for order_id, order in orders.items():
        payment = payments.get(order_id, nothing)
        # What is only authorised may be so until it is on its way.
        ways = {payment["net"]} if payment["net"] else {0, payment["authorized"]}
        paid = order["due"] in ways
        if order["state"] in SOLD and not paid:
            yield Broken("I6", f"order {order_id} is {order['state']}: {order['due']} due, {dict(payment)}")
        if order["state"] in UNDONE and payment["net"]:
            yield Broken("I7", f"order {order_id} is {order['state']}: {payment['net']} charged")


def _rows(dsn: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        connection.read_only = True
        return connection.execute(query.encode()).fetchall()


def main() -> None:
    """Print what breaks an invariant, a line each; exit with 1 where there is anything."""
    try:
        where = dsns(("users", "inventory", "payments", "orders", "orchestrator"))
        broken = find_broken({**where, "sagas": where["orchestrator"]})
    except (psycopg.Error, SettingsError) as error:
        sys.exit(f"recovery: {type(error).__name__}: {error}")
    for found in broken:
        print(f"{found.invariant}  {found.subject}")  # noqa: T201 - what the command says
    print(f"{len(broken)} broken")  # noqa: T201 - what the command says
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
