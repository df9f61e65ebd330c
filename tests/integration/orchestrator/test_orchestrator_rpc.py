"""The orchestrator's gRPC face on real PostgreSQL: keys, interim answers, and what operators see."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.identity import Caller, set_caller
from chassis.ids import new_id
from chassis.postgres import Database
from orchestrator.calling import Participants
from orchestrator.definitions import Definitions
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.operations import Operations
from orchestrator.rpc import OrderSagas, SagaOperator
from orchestrator.saga import Action
from orchestrator.sagas.place_order import PLACE_ORDER
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1.orders_pb2 import OrderItem
from sagacity.sagas.v1 import sagas_pb2

pytestmark = pytest.mark.integration

USER = new_id()
CONTEXT = cast("Any", None)  # the servicers do not use it
NO = Fault(FaultKind.NOT_FOUND, "USER_NOT_FOUND", "no such user", recorded=False, domain="sagacity.users")


class Refusing(Participants):
    """Every order is refused by its first check; what is undone succeeds. `hold` keeps all calls back."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()

    @override
    async def probe(self, participant: str) -> bool:
        return True

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        await self.hold.wait()
        if action.method == "AssertCanOrder":
            raise NO
        return b""


class World:
    def __init__(self, database: Database) -> None:
        self.participants = Refusing()
        self.journal = Journal(database, "replica")
        definitions = Definitions({(PLACE_ORDER.kind, PLACE_ORDER.version): PLACE_ORDER})
        self.executor = Executor(self.journal, self.participants, definitions)
        self.sagas = OrderSagas(self.executor, self.journal, self.participants, new_id)
        operations = Operations(self.journal, self.executor, definitions)
        self.operator = SagaOperator(database, operations, definitions)

    async def place(self, key: str = "key", **changes: Any) -> sagas_pb2.PlaceOrderResponse:
        return await self.sagas.PlaceOrder(request(key, **changes), CONTEXT)


def request(key: str, *, wait_seconds: int = 20, **changes: Any) -> sagas_pb2.PlaceOrderRequest:
    made = sagas_pb2.PlaceOrderRequest(
        user_id=str(USER),
        idempotency_key=key,
        items=[OrderItem(sku="MUG", quantity=1)],
        currency_code="EUR",
        address_id=str(USER),
        payment_method_id=str(USER),
        wait=Duration(seconds=wait_seconds),
    )
    made.MergeFrom(sagas_pb2.PlaceOrderRequest(**changes))
    return made


@pytest.fixture
async def world(new_database: Callable[..., str]) -> AsyncIterator[World]:
    database = await Database.open(new_database("orchestrator"), application_name="test")
    made = World(database)
    tasks = [asyncio.create_task(part.run()) for part in (made.journal, made.executor)]
    set_caller(Caller("gateway", USER, "customer"))
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await database.close()


async def test_a_refused_order_is_answered_with_its_refusal_and_the_replay_is_the_same(world: World) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    first = await world.place()
    assert first.progress == sagas_pb2.ORDER_PROGRESS_REJECTED
    assert (first.refusal.step, first.refusal.reason) == ("customer", "USER_NOT_FOUND")
    again = await world.place()
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)


async def test_a_replay_before_the_end_gets_the_current_state_of_the_same_order(world: World) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    world.participants.hold.clear()
    first = await world.place(wait_seconds=0)
    again = await world.place(wait_seconds=0)
    assert first.progress == again.progress == sagas_pb2.ORDER_PROGRESS_PENDING
    assert first.order_id == again.order_id
    assert first.order_id
    world.participants.hold.set()
    assert (await world.place()).progress == sagas_pb2.ORDER_PROGRESS_REJECTED


async def test_the_wait_is_not_part_of_what_a_key_names_but_the_items_are(world: World) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    await world.place(wait_seconds=20)
    await world.place(wait_seconds=1)
    with pytest.raises(Fault) as caught:
        await world.place(items=[OrderItem(sku="LAMP", quantity=1)])
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_nobody_orders_for_somebody_else(world: World) -> None:
    set_caller(Caller("gateway", new_id(), "customer"))
    with pytest.raises(Fault) as caught:
        await world.place()
    assert caught.value.kind is FaultKind.PERMISSION_DENIED


async def test_a_total_expected_in_another_currency_is_refused_by_name(world: World) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    with pytest.raises(Fault) as caught:
        await world.place(expected_total=Money(currency_code="USD", minor_units=1))
    assert [field.subject for field in caught.value.fields] == ["expected_total.currency_code"]


async def test_items_whose_sum_no_participant_takes_are_never_accepted(
    world: World,
) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    with pytest.raises(Fault) as caught:
        await world.place(items=[OrderItem(sku="MUG", quantity=1_000_000)])
    assert [field.subject for field in caught.value.fields] == ["items"]
    page = await world.operator.ListSagas(sagas_pb2.ListSagasRequest(), CONTEXT)
    assert list(page.sagas) == []


async def test_new_sagas_are_refused_when_too_many_are_in_flight_but_replays_are_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    first = await world.place("first")
    monkeypatch.setattr("orchestrator.executor.MAX_IN_FLIGHT", 0)
    with pytest.raises(Fault) as caught:
        await world.place("second")
    assert caught.value.kind is FaultKind.RESOURCE_EXHAUSTED
    assert caught.value.retry_after is not None
    assert (await world.place("first")).order_id == first.order_id


async def test_operators_page_through_sagas_newest_first_and_read_a_timeline(world: World) -> None:
    set_caller(Caller("gateway", USER, "customer"))
    placed = [(await world.place(f"key-{number}")).saga_id for number in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await world.operator.ListSagas(
            sagas_pb2.ListSagasRequest(page_size=2, page_token=token, kind="place_order"), CONTEXT
        )
        seen += [saga.id for saga in page.sagas]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(placed, key=UUID, reverse=True)
    timeline = await world.operator.GetTimeline(sagas_pb2.GetTimelineRequest(saga_id=placed[0]), CONTEXT)
    assert [entry.sequence for entry in timeline.entries] == list(range(1, len(timeline.entries) + 1))
    assert timeline.entries[-1].operation == "compensated"
    saga = (await world.operator.GetSaga(sagas_pb2.GetSagaRequest(saga_id=placed[0]), CONTEXT)).saga
    assert (saga.state, saga.refusal.reason) == (sagas_pb2.SAGA_STATE_COMPENSATED, "USER_NOT_FOUND")


async def test_a_saga_that_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(Fault) as caught:
        await world.operator.GetSaga(sagas_pb2.GetSagaRequest(saga_id=str(new_id())), CONTEXT)
    assert caught.value.reason == "SAGA_NOT_FOUND"
