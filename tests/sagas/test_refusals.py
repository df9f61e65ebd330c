"""What the participants themselves refuse: the saga is undone, whatever happens to the refusal on its way."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from orchestrator.entries import State
from orchestrator.saga import Operation
from tests.sagas.contexts import STOCK
from tests.sagas.engine import Engine
from tests.sagas.faults import Half, Trouble, Troubled
from tests.sagas.worlds import (
    PLACED,
    TOTAL_MINOR,
    Books,
    Case,
    books_of,
    cancelling,
    fulfilling,
    placing,
    refunding,
)

pytestmark = pytest.mark.integration

Make = Callable[[Engine], Awaitable[Case]]
ON_ITS_WAY = [None, Trouble.LOST_REQUEST, Trouble.LOST_REPLY, Trouble.TWICE_AT_ONCE]


def changed(case: Case, **params: Any) -> Case:
    return dataclasses.replace(case, params=dataclasses.replace(case.params, **params))


async def too_many(engine: Engine) -> Case:
    case = await placing(engine.contexts, engine.run)
    return changed(case, items=[(case.sku, STOCK + 1)])


async def somebody_elses_address(engine: Engine) -> Case:
    return changed(await placing(engine.contexts, engine.run), address_id=str(new_id()))


async def another_price(engine: Engine) -> Case:
    return changed(await placing(engine.contexts, engine.run), expected_total_minor=TOTAL_MINOR - 1)


async def declined_card(engine: Engine) -> Case:
    card = await engine.contexts.card("tok_declined")
    return changed(await placing(engine.contexts, engine.run), payment_method_id=str(card))


async def somebody_elses_order(engine: Engine) -> Case:
    return changed(await cancelling(engine.contexts, engine.run), user_id=str(new_id()))


async def more_than_was_paid(engine: Engine) -> Case:
    case = await refunding(engine.contexts, engine.run)
    return changed(case, lines=[], amount_minor=TOTAL_MINOR + 1, restock=False)


async def shipped_already(engine: Engine) -> Case:
    case = await fulfilling(engine.contexts, engine.run)
    assert await engine.run(case) is State.COMPLETED
    shipped = dataclasses.replace(PLACED, order="SHIPPED")
    return dataclasses.replace(case, ends={State.COMPENSATED: shipped})


async def cancelled_before_it_is_shipped(engine: Engine) -> Case:
    case = await cancelling(engine.contexts, engine.run)
    assert await engine.run(case) is State.COMPLETED
    fulfil = await fulfilling(engine.contexts, engine.run)
    ends = {State.COMPENSATED: Books("CANCELLED", 0, 0, None, STOCK, 0)}
    late = dataclasses.replace(fulfil, order_id=case.order_id, sku=case.sku, ends=ends)
    return changed(late, order_id=str(case.order_id))


REFUSALS: list[tuple[Make, str]] = [
    (too_many, "reservation"),
    (somebody_elses_address, "customer"),
    (another_price, "quote"),
    (declined_card, "payment"),
    (somebody_elses_order, "cancellation"),
    (more_than_was_paid, "quote"),
    (shipped_already, "order"),
    (cancelled_before_it_is_shipped, "order"),
]


async def refused(engine: Engine, make: Make, step: str, trouble: Trouble | None) -> tuple[Case, str]:
    """Drive a saga to a refusal; its case and the reason."""
    case = await make(engine)
    troubled = Troubled(engine.contexts.participants, case.definition)
    if trouble is not None:
        troubled.expect(Half(step, Operation.DO), trouble)
    async with engine.driving(troubled) as executor:
        saga_id = await engine.begin(executor, case)
        standing, parked = await engine.finish(executor, saga_id)
        row, _ = await engine.journal.load(saga_id)
    assert (standing.state, parked) == (State.COMPENSATED, 0), trouble
    assert troubled.all_happened
    assert row.refusal is not None
    assert row.refusal["step"] == step
    refusals = [call for call in troubled.sent if isinstance(call.said, Fault)]
    assert {call.half.step for call in refusals} == {step}
    # A refusal that is recorded is the same whenever it is asked for again.
    again = await engine.send_again([call for call in refusals if recorded(call.said)])
    assert {said_by(call.said) for call in again} <= {said_by(call.said) for call in refusals}
    return case, str(row.refusal["reason"])


def recorded(said: bytes | Fault) -> bool:
    return isinstance(said, Fault) and said.recorded


def said_by(said: bytes | Fault) -> str:
    return f"{said!r} {said.to_json()}" if isinstance(said, Fault) else repr(said)


@pytest.mark.parametrize(("make", "step"), REFUSALS)
async def test_what_a_participant_refuses_is_undone_completely_whatever_happens_on_the_way(
    engine: Engine, make: Make, step: str
) -> None:
    ended = await asyncio.gather(*(refused(engine, make, step, trouble) for trouble in ON_ITS_WAY))
    assert len({reason for _, reason in ended}) == 1
    for case, _ in ended:
        assert await books_of(engine.contexts, case) == case.ends[State.COMPENSATED]
    assert await engine.broken() == []
