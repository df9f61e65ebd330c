"""The requester asks for cancellations until the order is open no more; the orchestrator follows a script."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from typing_extensions import override

from chassis import tracing
from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, current_caller, new_key_pair
from chassis.ids import new_id
from chassis.postgres import Transaction
from orchestrator.rpc import ORDER_SAGAS_POLICIES, SAGA_OPERATOR_POLICIES
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc
from services.orders import requester as requester_module
from services.orders.cancellations import CancellationCause
from services.orders.requester import BATCH, CancellationRequester
from services.orders.store import cancellations

pytestmark = pytest.mark.integration

DONE = sagas_pb2.REQUEST_PROGRESS_DONE
PENDING = sagas_pb2.REQUEST_PROGRESS_PENDING
BUSY = Fault(FaultKind.FAILED_PRECONDITION, "ORDER_BUSY", "the order is held by saga 1")
CROWDED = Fault(FaultKind.RESOURCE_EXHAUSTED, "TOO_MANY_WAITING", "100 requests wait for this order")
AWAY = Fault(FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "the database cannot be reached")


def refused(reason: str) -> sagas_pb2.CancelOrderResponse:
    """The answer of a cancel_order saga that was refused."""
    return sagas_pb2.CancelOrderResponse(
        progress=sagas_pb2.REQUEST_PROGRESS_REFUSED, refusal=sagas_pb2.Refusal(reason=reason)
    )


@dataclass
class Orchestrator(sagas_pb2_grpc.OrderSagasServicer):
    """Answers by a script; then that it is at work."""

    asked: list[sagas_pb2.CancelOrderRequest] = field(default_factory=list)
    callers: set[Caller] = field(default_factory=set)
    traces: list[str | None] = field(default_factory=list)
    script: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    @override
    async def CancelOrder(
        self, request: sagas_pb2.CancelOrderRequest, context: Any
    ) -> sagas_pb2.CancelOrderResponse:
        self.asked.append(request)
        self.callers.add(current_caller())
        self.traces.append(tracing.current())
        answers = self.script[request.order_id]
        answer = answers.pop(0) if answers else sagas_pb2.CancelOrderResponse(progress=PENDING)
        if callable(answer):
            return await answer()  # type: ignore[no-any-return]
        if isinstance(answer, Fault):
            raise answer
        return answer

    def keys(self, order_id: UUID) -> list[str]:
        """The keys under which an order's cancellation was asked for."""
        return [request.idempotency_key for request in self.asked if request.order_id == str(order_id)]


@dataclass
class Asking:
    """A requester, the orchestrator that it asks, and the rows of the orders context."""

    world: Any
    orchestrator: Orchestrator
    requester: CancellationRequester

    async def want(self, order_id: UUID, cause: CancellationCause = CancellationCause.PAYMENT_VOIDED) -> None:
        async def ask(tx: Transaction) -> None:
            await cancellations.request_of_order(tx, order_id, cause)

        await self.world.database.run(ask)

    async def row(self, order_id: UUID) -> dict[str, Any]:
        rows = await self.world.rows(
            "SELECT * FROM cancellation_request WHERE order_id = %(id)s", id=order_id
        )
        return dict(rows[0])

    async def again(self, order_id: UUID) -> None:
        """Let the time come for the next try, and try."""
        due = "UPDATE cancellation_request SET next_try = now() WHERE order_id = %(id)s"
        await self.world.rows(due, id=order_id)
        await self.requester.ask_some()


@pytest.fixture
async def asking(world: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asking]:
    # What is put off comes when a test says so.
    monkeypatch.setattr(requester_module, "full_jitter", lambda *_, **__: 3_600.0)
    await world.rows("UPDATE cancellation_request SET next_try = now() + interval '1 hour'")
    pem, public = new_key_pair("orders")
    orchestrator = Orchestrator()  # type: ignore[abstract]  # nobody asks for the rest
    server = build_server(
        domain="sagacity.sagas",
        policies=ORDER_SAGAS_POLICIES | SAGA_OPERATOR_POLICIES,
        verifier=Verifier({"keys": [public]}),
    )
    sagas_pb2_grpc.add_OrderSagasServicer_to_server(orchestrator, server.server)
    port = await server.start("127.0.0.1:0")
    connection = Connection(f"127.0.0.1:{port}", ServiceIdentity("orders", pem))
    yield Asking(world, orchestrator, CancellationRequester(world.database, connection))
    await connection.close()
    await server.stop()


async def test_it_asks_in_its_own_name_and_is_done_when_the_order_is_cancelled(asking: Asking) -> None:
    saga = asking.world.saga()
    await saga.sold()
    await asking.want(saga.order_id)
    await asking.requester.ask_some()
    (asked,) = asking.orchestrator.asked
    assert asked == sagas_pb2.CancelOrderRequest(
        order_id=str(saga.order_id),
        idempotency_key=f"payment_voided-{saga.order_id}-1",
        reason="the payment provider let the payment go",
    )
    assert asking.orchestrator.callers == {Caller("orders")}
    row = await asking.row(saga.order_id)
    assert (row["state"], row["answer"], row["attempts"]) == ("WAITING", "PENDING", 1)
    await saga.cancel()
    await asking.again(saga.order_id)
    assert len(asking.orchestrator.asked) == 1
    row = await asking.row(saga.order_id)
    assert (row["state"], row["outcome"]) == ("DONE", "CANCELLED")


@pytest.mark.parametrize("given", ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None])
async def test_it_asks_in_the_trace_of_the_fact_however_often(asking: Asking, given: str | None) -> None:
    saga = asking.world.saga()
    await saga.sold()
    with tracing.handed_on(given):
        await asking.want(saga.order_id)
    with tracing.handed_on("00-11111111111111111111111111111111-2222222222222222-01"):
        await asking.requester.ask_some()
        await asking.again(saga.order_id)
    assert asking.orchestrator.traces == [given, given]
    await saga.cancel()


@pytest.mark.parametrize(
    ("become", "outcome"), [("cancel", "CANCELLED"), ("ship", "SHIPPED"), ("reject", "REJECTED")]
)
async def test_an_order_that_is_open_no_more_is_not_asked_for(
    asking: Asking, become: str, outcome: str
) -> None:
    saga = asking.world.saga()
    await (saga.create() if become == "reject" else saga.sold())
    await asking.want(saga.order_id)
    await getattr(saga, become)()
    await asking.requester.ask_some()
    assert asking.orchestrator.asked == []
    row = await asking.row(saga.order_id)
    assert (row["state"], row["outcome"]) == ("DONE", outcome)


async def test_what_is_closed_already_is_not_asked_for_in_the_first_place(asking: Asking) -> None:
    saga = asking.world.saga()
    await saga.sold()
    await saga.ship()
    await asking.want(saga.order_id)
    sql = "SELECT order_id FROM cancellation_request WHERE order_id = %(id)s"
    assert await asking.world.rows(sql, id=saga.order_id) == []


@pytest.mark.parametrize("fault", [CROWDED, AWAY], ids=lambda fault: fault.reason)
async def test_what_may_be_over_soon_is_asked_again_under_the_same_key(asking: Asking, fault: Fault) -> None:
    saga = asking.world.saga()
    await saga.sold()
    await asking.want(saga.order_id)
    asking.orchestrator.script[str(saga.order_id)] = [fault, fault]
    await asking.requester.ask_some()
    row = await asking.row(saga.order_id)
    assert (row["state"], row["answer"], row["round"]) == ("WAITING", fault.reason, 1)
    for _ in range(2):
        await asking.again(saga.order_id)
    assert asking.orchestrator.keys(saga.order_id) == [f"payment_voided-{saga.order_id}-1"] * 3
    await saga.cancel()


@pytest.mark.parametrize(
    "answer",
    [BUSY, refused("ORDER_NOT_CONFIRMED"), refused("DEADLINE_EXCEEDED")],
    ids=["busy", "refused", "late"],
)
async def test_a_refusal_that_the_order_did_not_follow_is_asked_anew_under_the_next_key(
    asking: Asking, answer: Any
) -> None:
    """A refusal stays the answer of its key, and may be about a moment that has passed."""
    saga = asking.world.saga()
    await saga.sold()
    await asking.want(saga.order_id, CancellationCause.CUSTOMER_DEACTIVATED)
    asking.orchestrator.script[str(saga.order_id)] = [answer]
    await asking.requester.ask_some()
    await asking.again(saga.order_id)
    keys = [f"customer_deactivated-{saga.order_id}-{number}" for number in (1, 2)]
    assert asking.orchestrator.keys(saga.order_id) == keys
    await saga.cancel()


async def test_an_orchestrator_that_is_away_is_asked_again(asking: Asking) -> None:
    saga = asking.world.saga()
    await saga.sold()
    await asking.want(saga.order_id)
    nobody = Connection("127.0.0.1:1", ServiceIdentity("orders", new_key_pair("orders")[0]))
    await CancellationRequester(asking.world.database, nobody).ask_some()
    await nobody.close()
    row = await asking.row(saga.order_id)
    assert (row["state"], row["round"], row["attempts"]) == ("WAITING", 1, 1)
    await asking.again(saga.order_id)
    assert len(asking.orchestrator.keys(saga.order_id)) == 1
    await saga.cancel()


async def test_a_request_that_a_replica_has_in_hand_is_left_to_it(asking: Asking) -> None:
    saga = asking.world.saga()
    await saga.sold()
    await asking.want(saga.order_id)
    held = asyncio.Event()
    arrived = asyncio.Event()

    async def slow() -> sagas_pb2.CancelOrderResponse:
        arrived.set()
        await held.wait()
        return sagas_pb2.CancelOrderResponse(progress=PENDING)

    asking.orchestrator.script[str(saga.order_id)] = [slow]
    async with asyncio.TaskGroup() as group:
        group.create_task(asking.requester.ask_some())
        await arrived.wait()
        assert await cancellations.claim(asking.world.database, limit=BATCH, lease_seconds=1.0) == []
        held.set()
    assert len(asking.orchestrator.keys(saga.order_id)) == 1
    await saga.cancel()


async def test_replicas_share_the_requests_and_each_is_asked_for_once(asking: Asking) -> None:
    user_id = new_id()
    sagas = [asking.world.saga(user_id=user_id) for _ in range(3 * BATCH)]
    await asyncio.gather(*(saga.sold() for saga in sagas))

    async def deactivate(tx: Transaction) -> None:
        await asking.world.app.customer_deactivated(tx, user_id, datetime(2026, 3, 1, tzinfo=UTC))

    await asking.world.database.run(deactivate)
    full = await asyncio.gather(*(asking.requester.ask_some() for _ in range(3)))
    assert any(full)
    while await asking.requester.ask_some():
        pass
    asked = [request.order_id for request in asking.orchestrator.asked]
    assert sorted(asked) == sorted(str(saga.order_id) for saga in sagas)
    await asyncio.gather(*(saga.cancel() for saga in sagas))
    await asking.world.rows("UPDATE cancellation_request SET next_try = now() WHERE state = 'WAITING'")
    while await asking.requester.ask_some():
        pass
    waiting = await cancellations.census(asking.world.database)
    assert len(asking.orchestrator.asked) >= len(sagas)
    assert waiting.waiting == requester_module.WAITING._value.get()


async def test_the_metrics_tell_how_many_wait_and_for_how_long(asking: Asking) -> None:
    saga = asking.world.saga()
    await saga.sold()
    await asking.want(saga.order_id)
    older = "UPDATE cancellation_request SET create_time = now() - interval '2 hours' WHERE order_id = %(id)s"
    await asking.world.rows(older, id=saga.order_id)
    await asking.requester.ask_some()
    assert requester_module.WAITING._value.get() >= 1
    assert requester_module.OLDEST_SECONDS._value.get() >= 7_200
    await saga.cancel()
    await asking.again(saga.order_id)
    await asking.requester.ask_some()
    assert requester_module.OLDEST_SECONDS._value.get() < 7_200
