"""What may be asked of an order that exists, through the gateway: statuses, who may, what is passed on."""

from __future__ import annotations

from typing import Any, NamedTuple

import httpx2
import pytest

from chassis.errors import Detail, Fault, FaultKind
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2

ORDER = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
REFUND = "018f7e9c-5d1a-7c3e-9b1f-000000000009"
KEY = {"Idempotency-Key": "key-1"}


class Verb(NamedTuple):
    """What may be asked of an order: where, of whom, with which body."""

    path: str
    rpc: str
    response: Any
    body: dict[str, Any]


VERBS = (
    Verb("cancellation", "CancelOrder", sagas_pb2.CancelOrderResponse, {"reason": "ordered twice"}),
    Verb("refunds", "RefundOrder", sagas_pb2.RefundOrderResponse, {"reason": "broken"}),
    Verb("shipment", "FulfilOrder", sagas_pb2.FulfilOrderResponse, {"carrier": "DHL"}),
)
each_verb = pytest.mark.parametrize("verb", VERBS, ids=[verb.path for verb in VERBS])


def euro(minor: int) -> Money:
    return Money(currency_code="EUR", minor_units=minor)


def order() -> orders_pb2.Order:
    made = orders_pb2.Order(
        id=ORDER,
        state=orders_pb2.ORDER_STATE_SHIPPED,
        refund_state=orders_pb2.REFUND_STATE_PARTIAL,
        refunded=euro(500),
        refunds=[
            orders_pb2.OrderRefund(
                id=REFUND,
                amount=euro(500),
                lines=[orders_pb2.RefundLine(sku="MUG", quantity=1)],
                reason="broken",
            )
        ],
        shipment=orders_pb2.Shipment(carrier="DHL", tracking_number="42"),
        cancellation_reason="ordered twice",
    )
    made.refunds[0].create_time.FromJsonString("2026-11-21T02:03:04Z")
    return made


async def ask(
    client: httpx2.AsyncClient, backends: Any, path: str, body: Any, role: str = "support", **headers: str
) -> httpx2.Response:
    sent = {**backends.bearer(role), **KEY, **headers}
    return await client.post(f"/api/v1/orders/{ORDER}/{path}", json=body, headers=sent)


@each_verb
async def test_what_is_done_is_200_with_the_order_after_it(
    client: httpx2.AsyncClient, backends: Any, verb: Verb
) -> None:
    backends.answers[verb.rpc] = verb.response(
        order_id=ORDER, progress=sagas_pb2.REQUEST_PROGRESS_DONE, order=order()
    )
    answer = await ask(client, backends, verb.path, verb.body)
    assert answer.status_code == 200
    seen = answer.json()
    assert (seen["id"], seen["state"], seen["refund_state"]) == (ORDER, "shipped", "partial")
    assert seen["refunded"] == {"currency": "EUR", "amount_minor": 500}
    assert seen["shipment"] == {"carrier": "DHL", "tracking_number": "42"}
    assert seen["cancellation_reason"] == "ordered twice"
    assert [refund["id"] for refund in seen["refunds"]] == [REFUND]


@each_verb
async def test_what_is_not_done_yet_is_202_with_a_location(
    client: httpx2.AsyncClient, backends: Any, verb: Verb
) -> None:
    backends.answers[verb.rpc] = verb.response(order_id=ORDER, progress=sagas_pb2.REQUEST_PROGRESS_PENDING)
    answer = await ask(client, backends, verb.path, verb.body, Prefer="respond-async")
    assert (answer.status_code, answer.json()) == (202, {"order_id": ORDER, "state": "pending"})
    where = f"/api/v1/orders/{ORDER}"
    assert answer.headers["location"] == (f"{where}/refunds" if verb.path == "refunds" else where)
    assert answer.headers["preference-applied"] == "respond-async"


@each_verb
async def test_what_is_refused_is_409_with_the_reason_and_the_order(
    client: httpx2.AsyncClient, backends: Any, verb: Verb
) -> None:
    backends.answers[verb.rpc] = verb.response(
        order_id=ORDER,
        progress=sagas_pb2.REQUEST_PROGRESS_REFUSED,
        refusal=sagas_pb2.Refusal(
            step="order",
            reason="REFUND_TOO_LARGE",
            message="More than is left.",
            details=[sagas_pb2.RefusalDetail(subject="MUG", description="2 wanted, 1 left")],
        ),
    )
    answer = await ask(client, backends, verb.path, verb.body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "REFUND_TOO_LARGE")
    assert (problem["order_id"], problem["detail"]) == (ORDER, "More than is left.")
    assert problem["details"] == [{"subject": "MUG", "description": "2 wanted, 1 left"}]


@each_verb
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "m"), 404),
        (Fault(FaultKind.FAILED_PRECONDITION, "ORDER_BUSY", "held by saga 1"), 409),
        (Fault(FaultKind.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", "m"), 422),
        (Fault(FaultKind.RESOURCE_EXHAUSTED, "OVERLOADED", "m"), 503),
    ],
)
async def test_a_fault_of_the_orchestrator_is_a_problem_with_its_code(
    client: httpx2.AsyncClient, backends: Any, verb: Verb, fault: Fault, status: int
) -> None:
    backends.answers[verb.rpc] = fault
    answer = await ask(client, backends, verb.path, verb.body)
    assert (answer.status_code, answer.json()["code"]) == (status, fault.reason)
    assert answer.headers["content-type"] == "application/problem+json"


@each_verb
async def test_the_key_the_wait_and_the_caller_are_passed_on(
    client: httpx2.AsyncClient, backends: Any, verb: Verb
) -> None:
    backends.answers[verb.rpc] = verb.response(order_id=ORDER, progress=sagas_pb2.REQUEST_PROGRESS_PENDING)
    await ask(client, backends, verb.path, verb.body, Prefer="wait=7")
    request, caller = backends.last(verb.rpc)
    assert (request.order_id, request.idempotency_key, request.wait.seconds) == (ORDER, "key-1", 7)
    assert (caller.service, caller.role) == ("gateway", "support")


@each_verb
async def test_without_an_idempotency_key_nothing_is_asked(
    client: httpx2.AsyncClient, backends: Any, verb: Verb
) -> None:
    answer = await client.post(
        f"/api/v1/orders/{ORDER}/{verb.path}", json=verb.body, headers=backends.bearer("support")
    )
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert not [name for name, _, _ in backends.calls if name.endswith("Order")]


async def test_a_customer_may_cancel_but_neither_refund_nor_ship(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    statuses = {
        verb.path: (await ask(client, backends, verb.path, verb.body, "customer")).status_code
        for verb in VERBS
    }
    assert statuses == {"cancellation": 202, "refunds": 403, "shipment": 403}


async def test_lines_an_amount_and_a_restock_are_passed_on(client: httpx2.AsyncClient, backends: Any) -> None:
    body = {"reason": "broken", "lines": [{"sku": "MUG", "quantity": 2}], "restock": True}
    await ask(client, backends, "refunds", body)
    by_line, _ = backends.last("RefundOrder")
    assert [(line.sku, line.quantity) for line in by_line.lines] == [("MUG", 2)]
    assert (by_line.restock, by_line.HasField("amount")) == (True, False)
    money = {"currency": "EUR", "amount_minor": 700}
    await ask(client, backends, "refunds", {"reason": "late", "amount": money})
    by_amount, _ = backends.last("RefundOrder")
    assert (by_amount.amount, list(by_amount.lines), by_amount.restock) == (euro(700), [], False)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"amount": {"currency": "EUR", "amount_minor": 0}}, "amount.amount_minor"),
        ({"amount": {"currency": "euro", "amount_minor": 1}}, "amount.currency"),
        ({"lines": []}, "lines"),
        ({"lines": [{"sku": "MUG", "quantity": 0}]}, "lines[0].quantity"),
    ],
)
async def test_a_refund_of_nothing_is_422_with_its_field(
    client: httpx2.AsyncClient, backends: Any, wrong: Any, field: str
) -> None:
    answer = await ask(client, backends, "refunds", {"reason": "broken", **wrong})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_what_the_orchestrator_refuses_of_a_refund_is_422_with_its_field(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    problem = Detail("amount", "a refund is by line or by amount, not both")
    backends.answers["RefundOrder"] = Fault(
        FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", problem.description, fields=(problem,)
    )
    answer = await ask(client, backends, "refunds", {"reason": "broken"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "amount")


async def test_a_user_reads_the_refunds_of_their_order(client: httpx2.AsyncClient, backends: Any) -> None:
    backends.answers["GetOrder"] = orders_pb2.GetOrderResponse(order=order())
    answer = await client.get(f"/api/v1/orders/{ORDER}/refunds", headers=backends.bearer())
    assert answer.status_code == 200
    assert answer.json() == {
        "items": [
            {
                "id": REFUND,
                "amount": {"currency": "EUR", "amount_minor": 500},
                "lines": [{"sku": "MUG", "quantity": 1}],
                "reason": "broken",
                "create_time": "2026-11-21T02:03:04Z",
            }
        ],
        "next_page_token": None,
    }


async def test_the_refunds_of_somebody_elses_order_are_404(client: httpx2.AsyncClient, backends: Any) -> None:
    backends.answers["GetOrder"] = Fault(FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "There is no such order.")
    answer = await client.get(f"/api/v1/orders/{ORDER}/refunds", headers=backends.bearer())
    assert (answer.status_code, answer.json()["code"]) == (404, "ORDER_NOT_FOUND")


async def test_an_order_that_nothing_was_asked_of_shows_so(client: httpx2.AsyncClient, backends: Any) -> None:
    backends.answers["GetOrder"] = orders_pb2.GetOrderResponse(order=orders_pb2.Order(id=ORDER))
    seen = (await client.get(f"/api/v1/orders/{ORDER}", headers=backends.bearer())).json()
    names = ("refunded", "refunds", "shipment", "cancellation_reason")
    assert [seen[name] for name in names] == [None, [], None, None]
