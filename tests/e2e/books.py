"""What the databases, the provider's ledger and Kafka's log say, side by side in memory."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from aiokafka import AIOKafkaConsumer
from psycopg.rows import dict_row

from chassis.cloud_events import ReceivedEvent, from_record
from deploy.local.suite import Suite

TOPICS = ("sagacity.users.v1", "sagacity.inventory.v1", "sagacity.payments.v1", "sagacity.orders.v1")
CONNECT_SECONDS = 3
KAFKA_SECONDS = 30.0
POLL_MS = 500

ORDERS = """
    SELECT id::text, saga_id::text, user_id::text, state, total_minor, refunded_minor, currency_code, (
        SELECT jsonb_object_agg(item ->> 'sku', item -> 'quantity') FROM jsonb_array_elements(items) AS item
    ) AS items FROM orders"""
REFUNDS = """
    SELECT id::text, order_id::text, saga_id::text, amount_minor, (
        SELECT coalesce(jsonb_object_agg(line ->> 'sku', line -> 'quantity'), '{}')
        FROM jsonb_array_elements(lines) AS line
    ) AS units FROM order_refund"""
REFUNDS_MADE = """
    SELECT id::text, amount_minor FROM refund WHERE state = 'DONE'
    UNION ALL SELECT id::text, amount_minor FROM provider_operation WHERE kind = 'REFUND'"""
REFUNDS_UNDONE = "SELECT refund_id::text AS id, amount_minor FROM provider_refund WHERE state = 'UNDONE'"
SAGAS = """
    SELECT saga.id::text, kind, saga.key::text, state, epoch, caller, rpc,
        idempotency.key AS idempotency_key
    FROM saga LEFT JOIN idempotency ON saga_id = saga.id"""
DEACTIVATED = "SELECT id FROM users WHERE state = 'DEACTIVATED'"
RESERVATIONS = """
    SELECT order_id::text, state, jsonb_object_agg(sku, quantity) AS lines,
        jsonb_object_agg(sku, returned) AS returned
    FROM reservation JOIN reservation_line ON reservation_id = id GROUP BY id"""

Row = dict[str, Any]


class SeenEvent(NamedTuple):
    """An event in Kafka, or in an outbox, where it has no partition yet."""

    topic: str
    aggregate: str
    sequence: int
    partition: int | None
    type: str


@dataclass(frozen=True)
class Books:
    """Everything that can be compared; ids are text."""

    orders: dict[str, Row]
    refunds: dict[str, Row]  # those that orders have on record
    refunds_made: dict[str, int]  # minor units, as the payments context has them, also those of the provider
    refunds_undone: dict[
        str, int
    ]  # those of the provider whose orders were undone, which are on record beside
    sagas: dict[str, Row]
    order_of_key: dict[tuple[str, str], str]  # (user, idempotency key) → order that was placed with it
    saga_of_request: dict[tuple[str, str, str], str]  # (user, RPC, idempotency key) → saga
    reservations: dict[str, Row]  # by order
    payments: defaultdict[str, list[str]]  # order → its payments
    provider_totals: defaultdict[str, Counter[str]]  # payment → kind → minor units, as the provider has it
    tombstones: list[tuple[str, str, str]]  # database, saga, step
    facts: dict[tuple[str, str], int]  # (topic, aggregate) → number of its last fact
    events: list[SeenEvent]
    statistics: defaultdict[str, Counter[str]]  # user → what was counted
    deactivated: set[str]  # users

    def money(self, order_id: str) -> Counter[str]:
        """Return what the provider did for an order, in minor units by kind."""
        return sum((self.provider_totals[payment] for payment in self.payments.get(order_id, ())), Counter())


async def rows(dsn: str, query: str, **params: Any) -> list[Row]:
    """Return the rows of a query that changes nothing."""
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_SECONDS
    )
    async with connection:
        await connection.set_read_only(True)
        return await (await connection.execute(query, params or None)).fetchall()


async def select(dsn: str, query: str, **params: Any) -> list[str]:
    """Return the only column of a query, as text."""
    return [str(value) for row in await rows(dsn, query, **params) for value in row.values()]


async def read_books(suite: Suite) -> Books:
    """Read everything; the databases one after the other, so look while nothing is under way."""
    orders = await rows(suite.dsn("orders"), ORDERS)
    refunds = await rows(suite.dsn("orders"), REFUNDS)
    refunds_made = await rows(suite.dsn("payments"), REFUNDS_MADE)
    refunds_undone = await rows(suite.dsn("orders"), REFUNDS_UNDONE)
    sagas = await rows(suite.dsn("sagas"), SAGAS)
    reservations = await rows(suite.dsn("inventory"), RESERVATIONS)
    payments: defaultdict[str, list[str]] = defaultdict(list)
    for row in await rows(suite.dsn("payments"), "SELECT order_id::text, id::text FROM payment"):
        payments[row["order_id"]].append(row["id"])
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    ledger = "SELECT payment_id::text, kind, amount_minor FROM provider_simulation.ledger"
    for row in await rows(suite.dsn("payments"), ledger):
        totals[row["payment_id"]][row["kind"]] += row["amount_minor"]
    return Books(
        orders={row["id"]: row for row in orders},
        refunds={row["id"]: row for row in refunds},
        refunds_made={row["id"]: row["amount_minor"] for row in refunds_made},
        refunds_undone={row["id"]: row["amount_minor"] for row in refunds_undone},
        sagas={row["id"]: row for row in sagas},
        order_of_key={
            (row["caller"], row["idempotency_key"]): row["key"] for row in sagas if row["rpc"] == "PlaceOrder"
        },
        saga_of_request={
            (row["caller"], row["rpc"], row["idempotency_key"]): row["id"] for row in sagas if row["rpc"]
        },
        reservations={row["order_id"]: row for row in reservations},
        payments=payments,
        provider_totals=totals,
        tombstones=await _tombstones(suite),
        facts=await _facts(suite),
        events=[*await events_in_kafka(suite), *await _unpublished(suite)],
        statistics=await _statistics(suite),
        deactivated=set(await select(suite.dsn("users"), DEACTIVATED)),
    )


async def _tombstones(suite: Suite) -> list[tuple[str, str, str]]:
    query = "SELECT saga_id::text, step FROM barrier WHERE outcome = 'TOMBSTONE'"
    return [
        (database, row["saga_id"], row["step"])
        for database in ("orders", "inventory", "payments")
        for row in await rows(suite.dsn(database), query)
    ]


async def _facts(suite: Suite) -> dict[tuple[str, str], int]:
    numbered = {
        "users": "SELECT id::text, version AS last FROM users",
        "inventory": """
            SELECT id::text, sequence AS last FROM reservation
            UNION ALL SELECT sku, event_sequence FROM stock""",
        "payments": "SELECT id::text, sequence AS last FROM payment WHERE sequence > 0",
        "orders": """
            SELECT order_id::text AS id, max(sequence) AS last FROM (
                SELECT order_id, sequence FROM order_history
                UNION ALL SELECT order_id, sequence FROM order_refund
            ) fact GROUP BY order_id""",
    }
    return {
        (f"sagacity.{database}.v1", row["id"]): row["last"]
        for database, query in numbered.items()
        for row in await rows(suite.dsn(database), query)
    }


async def _unpublished(suite: Suite) -> list[SeenEvent]:
    query = "SELECT aggregateid, sequence, type FROM outbox ORDER BY position"
    return [
        SeenEvent(f"sagacity.{database}.v1", row["aggregateid"], row["sequence"], None, row["type"])
        for database in ("users", "inventory", "payments", "orders")
        for row in await rows(suite.dsn(database), query)
    ]


async def _statistics(suite: Suite) -> defaultdict[str, Counter[str]]:
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in await rows(suite.dsn("users"), "SELECT *, user_id::text AS id FROM customer_statistics"):
        for name in ("placed", "confirmed", "rejected", "cancelled"):
            counted[row["id"]][name] = row[f"orders_{name}"]
    for row in await rows(suite.dsn("users"), "SELECT *, user_id::text AS id FROM customer_amount_spent"):
        counted[row["id"]][f"spent {row['currency_code']}"] = row["amount_minor"]
    return counted


async def events_in_kafka(suite: Suite) -> list[SeenEvent]:
    """Return what Kafka's log holds now, in its order within each partition."""
    return [_seen(event) for event in await received_from_kafka(suite)]


async def received_from_kafka(suite: Suite) -> list[ReceivedEvent]:
    """Return the same as a consumer gets it."""
    # Without a group: it takes all partitions, and no consumer of the suite loses any.
    kafka = AIOKafkaConsumer(
        *TOPICS, bootstrap_servers=suite.broker.bootstrap_servers, auto_offset_reset="earliest"
    )
    received: list[ReceivedEvent] = []
    async with asyncio.timeout(KAFKA_SECONDS):
        await kafka.start()
        try:
            partitions = list(kafka.assignment())
            ends = await kafka.end_offsets(partitions)
            while any([await kafka.position(partition) < ends[partition] for partition in partitions]):
                for records in (await kafka.getmany(timeout_ms=POLL_MS)).values():
                    received += [from_record(record) for record in records]
        finally:
            await kafka.stop()
    return received


def _seen(event: ReceivedEvent) -> SeenEvent:
    return SeenEvent(event.topic, event.aggregate_id, event.sequence, event.partition, event.type)
