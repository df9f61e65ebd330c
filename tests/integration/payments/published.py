"""What was published of a payment, where it agrees with both ledgers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sagacity.payments.v1 import events_pb2

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Step, World

BY_SAGA = events_pb2.REFUND_ORIGIN_SAGA
BY_PROVIDER = events_pb2.REFUND_ORIGIN_PROVIDER


async def facts(world: World, step: Step) -> list[Any]:
    """Return the published facts of a payment, with their numbers in order and both ledgers alike."""
    assert await world.broken() == []
    assert sorted(await world.ledger(step)) == sorted(await world.provider_ledger(step))
    rows = await world.rows(
        "SELECT type, payload, sequence FROM outbox WHERE aggregateid = %(id)s ORDER BY position",
        id=str(step.order.payment_id),
    )
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    return [getattr(events_pb2, row["type"].rpartition(".")[2]).FromString(row["payload"]) for row in rows]


async def given_back(world: World, step: Step) -> list[tuple[int, int]]:
    """Return amount and origin of each published refund; the ledger has the same amounts."""
    refunds = [fact for fact in await facts(world, step) if isinstance(fact, events_pb2.PaymentRefunded)]
    back = [minor for kind, minor in await world.ledger(step) if kind == "REFUND"]
    assert sorted(fact.amount.minor_units for fact in refunds) == sorted(back)
    return [(fact.amount.minor_units, fact.origin) for fact in refunds]
