"""What the relay has to publish: the facts of many orders that go on side by side."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
from google.protobuf.message import Message

from chassis.ids import new_id
from chassis.outbox import bucket_of
from sagacity.common.v1 import money_pb2
from sagacity.orders.v1 import events_pb2

# Orders that are under way at the same time; the events of one are so far apart in the outbox.
SIDE_BY_SIDE = 64
ITEMS = 3
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
_COPY = (
    "COPY outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at, traceparent)"
    " FROM STDIN"
)


def append(connection: psycopg.Connection, events: int, seed: int) -> None:
    """Write so many events; nobody sees them before the caller commits."""
    rng = random.Random(seed)  # noqa: S311 - it chooses what is bought
    with connection.cursor().copy(_COPY) as copy:
        for row in itertools.islice(_rows(rng), events):
            copy.write_row(row)


def _rows(rng: random.Random) -> Iterator[tuple[Any, ...]]:
    """Rows without end: of SIDE_BY_SIDE orders the first event of each, then the second of each, ..."""
    for _ in itertools.count():
        orders = [list(_facts(str(new_id()), rng)) for _ in range(SIDE_BY_SIDE)]
        for sequence, facts in enumerate(zip(*orders, strict=True), start=1):
            yield from (_row(sequence, fact, rng) for fact in facts)


def _facts(order_id: str, rng: random.Random) -> Iterable[Message]:
    user_id, total = str(new_id()), money_pb2.Money(currency_code="EUR", minor_units=rng.randint(100, 90_000))
    items = [
        events_pb2.OrderedItem(sku=f"SKU-{rng.randint(1, 500):04}", quantity=rng.randint(1, 5))
        for _ in range(rng.randint(1, ITEMS))
    ]
    yield events_pb2.OrderPlaced(
        order_id=order_id, user_id=user_id, order_number="SG-3F7K-92QX", currency_code="EUR", items=items
    )
    yield events_pb2.OrderConfirmed(order_id=order_id, user_id=user_id, total=total, payment_id=str(new_id()))
    yield events_pb2.OrderShipped(
        order_id=order_id, user_id=user_id, carrier="DHL", tracking_number="00340434161094042557"
    )
    yield events_pb2.OrderRefunded(order_id=order_id, user_id=user_id)


def _row(sequence: int, fact: Any, rng: random.Random) -> tuple[Any, ...]:
    return (
        new_id(),
        "order",
        fact.order_id,
        fact.DESCRIPTOR.full_name,
        fact.SerializeToString(),
        sequence,
        bucket_of(fact.order_id),
        _NOW,
        TRACEPARENT if rng.random() < 0.5 else None,
    )
