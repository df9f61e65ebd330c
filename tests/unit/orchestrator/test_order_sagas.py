"""cancel_order, refund_order, fulfil_order, walked by hand: each step done, refused, or without an answer."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest

from chassis.errors import Fault
from orchestrator.entries import REQUESTED, Event, Result, State, Verb
from orchestrator.progress import Progress
from orchestrator.saga import Outcome
from orchestrator.sagas import DEFINITIONS
from orchestrator.sagas.place_order import PLACE_ORDER, PlaceOrder
from sagacity.common.v1.saga_step_pb2 import OPERATION_DO
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2
from tests.unit.orchestrator.saga_walks import (
    CANCEL,
    CASES,
    EURO,
    FULFIL,
    IDS,
    NOT_CONFIRMED,
    NOT_THEIRS,
    ORDER,
    PAYMENT,
    PIVOT,
    QUOTE,
    REFUND,
    REFUND_AMOUNT,
    REFUND_LINES,
    REFUSAL,
    RESERVATION,
    SOLD,
    TIMEOUT,
    UNRECORDED,
    USER,
    Case,
    Walk,
)

NAMED = [(name, case, step) for name, case in zip(IDS, CASES, strict=True) for step in case.steps]
EACH_STEP = [pytest.param(case, step, id=f"{name}-{step}") for name, case, step in NAMED]
# The pivot is the second step of each.
UP_TO_PIVOT = [
    pytest.param(case, step, id=f"{name}-{step}") for name, case, step in NAMED if step in case.steps[:2]
]
AFTER_PIVOT = [
    pytest.param(case, step, id=f"{name}-{step}") for name, case, step in NAMED if step in case.steps[2:]
]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_nobody_refuses_is_done_and_answers_with_the_order(case: Case) -> None:
    walk = Walk(case)
    walk.to_the_end()
    assert (walk.progress.state, walk.steps()) == (State.COMPLETED, case.steps)
    answer = walk.answer()
    assert answer.progress == sagas_pb2.REQUEST_PROGRESS_DONE
    assert (answer.order_id, answer.order) == (ORDER, SOLD)
    assert not answer.HasField("refusal")


@pytest.mark.parametrize(("case", "step"), UP_TO_PIVOT)
def test_a_recorded_refusal_up_to_the_pivot_is_the_answer_and_nothing_is_changed(
    case: Case, step: str
) -> None:
    walk = Walk(case)
    walk.forward_to(step)
    walk.go({step: REFUSAL})
    assert walk.progress.state is State.COMPENSATED
    assert walk.steps() == case.steps[: case.steps.index(step) + 1]
    answer = walk.answer()
    assert answer.progress == sagas_pb2.REQUEST_PROGRESS_REFUSED
    assert (answer.refusal.step, answer.refusal.reason) == (step, "NO")
    assert [detail.subject for detail in answer.refusal.details] == ["MUG"]
    assert not answer.HasField("order")


@pytest.mark.parametrize(("case", "step"), AFTER_PIVOT)
@pytest.mark.parametrize("fault", [REFUSAL, UNRECORDED], ids=["recorded", "unrecorded"])
def test_a_refusal_after_the_pivot_parks_and_a_retry_goes_on(case: Case, step: str, fault: Fault) -> None:
    walk = Walk(case)
    walk.forward_to(step)
    walk.go({step: fault})
    assert walk.progress.state is State.PARKED
    assert walk.entry is not None
    assert walk.entry.answer is None
    walk.progress.state = State.RUNNING
    walk.progress.replay(Event("", Verb.RETRY, 0, REQUESTED, actor="ada", reason="mended"))
    walk.to_the_end()
    assert walk.answer().progress == sagas_pb2.REQUEST_PROGRESS_DONE


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_pivot_whose_refusal_is_not_recorded_parks_since_it_may_still_land(case: Case) -> None:
    walk = Walk(case)
    pivot = PIVOT[case.definition.kind]
    walk.forward_to(pivot)
    walk.go({pivot: UNRECORDED})
    assert walk.progress.state is State.PARKED


@pytest.mark.parametrize(("case", "step"), EACH_STEP)
def test_a_call_without_an_answer_is_made_again_with_the_same_bytes(case: Case, step: str) -> None:
    walk = Walk(case)
    walk.forward_to(step)
    walk.go({step: TIMEOUT})
    walk.go({step: TIMEOUT})
    assert walk.progress.state is State.RUNNING
    walk.to_the_end()
    assert walk.progress.state is State.COMPLETED
    requests = [request for name, _, request in walk.sent if name == step]
    assert (len(requests), len(set(requests))) == (3, 1)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_once_the_pivot_is_intended_neither_deadline_nor_cancel_stops_it(case: Case) -> None:
    walk = Walk(case)
    pivot = PIVOT[case.definition.kind]
    walk.forward_to(pivot)
    walk.progress.replay(Event("", Verb.CANCEL, 0, REQUESTED, reason="changed my mind"))
    walk.go({pivot: TIMEOUT}, deadline_passed=True)
    assert walk.progress.state is State.RUNNING
    walk.go(deadline_passed=True)
    walk.to_the_end()
    assert walk.answer().progress == sagas_pb2.REQUEST_PROGRESS_DONE


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_before_the_pivot_a_cancel_ends_it_and_nothing_is_changed(case: Case) -> None:
    walk = Walk(case)
    walk.forward_to(case.steps[0])
    walk.progress.replay(Event("", Verb.CANCEL, 0, REQUESTED, reason="changed my mind"))
    walk.go()
    assert (walk.progress.state, walk.steps()) == (State.COMPENSATED, [case.steps[0]])
    answer = walk.answer()
    assert (answer.progress, answer.refusal.reason) == (sagas_pb2.REQUEST_PROGRESS_REFUSED, "CANCELLED")
    assert not answer.HasField("order")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_one_that_waits_is_withdrawn_without_any_call(case: Case) -> None:
    walk = Walk(case, State.WAITING)
    walk.progress.replay(Event("", Verb.CANCEL, 0, REQUESTED, reason="changed my mind"))
    walk.go()
    assert (walk.progress.state, walk.sent) == (State.COMPENSATED, [])
    assert walk.answer().refusal.message == "changed my mind"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_one_that_waited_past_its_deadline_is_refused_without_any_call(case: Case) -> None:
    walk = Walk(case)
    walk.go(deadline_passed=True)
    assert (walk.progress.state, walk.sent) == (State.COMPENSATED, [])
    assert walk.answer().refusal.reason == "ORDER_TIMED_OUT"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_call_that_changes_something_is_a_do_of_its_own_step(case: Case) -> None:
    walk = Walk(case)
    walk.to_the_end()
    requests = {step: parsed(case.definition.step(step).do.method, request) for step, _, request in walk.sent}
    checks = {step.name for step in case.definition.all_steps() if step.check}
    for step, request in requests.items():
        if step not in checks:
            assert (request.saga_step.step, request.saga_step.operation) == (step, OPERATION_DO)


def parsed(method: str, request: bytes) -> Any:
    for module in (orders_pb2, payments_pb2, inventory_pb2):
        if hasattr(module, f"{method}Request"):
            return getattr(module, f"{method}Request").FromString(request)
    raise AssertionError(method)


def test_a_cancellation_names_who_may_cancel_and_gives_back_what_the_order_says() -> None:
    walk = Walk(CANCEL)
    walk.to_the_end()
    requests = {step: request for step, _, request in walk.sent}
    cancel = orders_pb2.CancelOrderRequest.FromString(requests["cancellation"])
    assert (cancel.order_id, cancel.user_id, cancel.reason) == (ORDER, USER, "ordered twice")
    assert payments_pb2.ReverseRequest.FromString(requests["payment"]).payment_id == PAYMENT
    release = inventory_pb2.ReleaseReservationRequest.FromString(requests["stock"])
    assert release.reservation_id == RESERVATION


def rejected(reason: str) -> orders_pb2.GetOrderResponse:
    return orders_pb2.GetOrderResponse(
        order=orders_pb2.Order(
            id=ORDER,
            state=orders_pb2.ORDER_STATE_REJECTED,
            rejection=orders_pb2.Rejection(reason=reason),
        )
    )


def test_a_cancellation_of_an_order_that_a_cancel_undid_before_its_pivot_is_done() -> None:
    walk = Walk(CANCEL, order=rejected("CANCELLED"))
    walk.forward_to("cancellation")
    walk.go({"cancellation": NOT_CONFIRMED})
    assert walk.progress.state is State.COMPENSATED
    answer = walk.answer()
    assert answer.progress == sagas_pb2.REQUEST_PROGRESS_DONE
    assert answer.order == rejected("CANCELLED").order


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        (rejected("CARD_DECLINED"), NOT_CONFIRMED),
        (orders_pb2.GetOrderResponse(order=SOLD), NOT_CONFIRMED),
        # Not theirs: they are not told what became of it.
        (rejected("CANCELLED"), NOT_THEIRS),
    ],
)
def test_a_cancellation_of_any_other_order_is_refused(
    order: orders_pb2.GetOrderResponse, refusal: Fault
) -> None:
    walk = Walk(CANCEL, order=order)
    walk.forward_to("cancellation")
    walk.go({"cancellation": refusal})
    answer = walk.answer()
    assert (answer.progress, answer.refusal.reason) == (sagas_pb2.REQUEST_PROGRESS_REFUSED, refusal.reason)
    assert not answer.HasField("order")


def test_a_refund_gives_back_what_the_quote_says_under_the_id_that_was_minted() -> None:
    walk = Walk(REFUND_LINES)
    walk.to_the_end()
    requests = {step: request for step, _, request in walk.sent}
    quote = orders_pb2.QuoteRefundRequest.FromString(requests["quote"])
    assert [(line.sku, line.quantity) for line in quote.lines] == [("MUG", 2)]
    assert not quote.HasField("amount")
    refund = payments_pb2.RefundRequest.FromString(requests["refund"])
    assert (refund.payment_id, refund.refund_id, refund.amount) == (PAYMENT, REFUND, EURO)
    restock = inventory_pb2.RestockRequest.FromString(requests["restock"])
    assert (restock.reservation_id, len(restock.lines)) == (RESERVATION, 1)
    record = orders_pb2.RecordRefundRequest.FromString(requests["record"])
    assert (record.refund_id, record.amount, record.reason) == (REFUND, EURO, "broken")
    assert list(record.lines) == list(QUOTE.lines)
    answer = walk.answer()
    assert (answer.refund_id, answer.refunded) == (REFUND, EURO)


def test_a_refund_by_amount_asks_for_the_amount() -> None:
    walk = Walk(REFUND_AMOUNT)
    walk.forward_to("refund")
    quote = orders_pb2.QuoteRefundRequest.FromString(walk.sent[0][2])
    assert (quote.amount, list(quote.lines)) == (EURO, [])


def test_a_restock_that_an_operator_skips_leaves_the_units_sold_and_the_refund_is_recorded() -> None:
    walk = Walk(REFUND_LINES)
    walk.forward_to("restock")
    walk.go({"restock": REFUSAL})
    assert walk.progress.state is State.PARKED
    walk.progress.state = State.RUNNING
    walk.progress.replay(Event("restock", Verb.SKIP, 0, REQUESTED, reply=b"", reason="they are broken"))
    walk.to_the_end()
    assert walk.progress.state is State.COMPLETED
    assert walk.steps()[-1] == "record"


def test_only_the_restock_may_be_skipped() -> None:
    skippable = {
        (kind, step.name)
        for (kind, _), definition in DEFINITIONS.sagas.items()
        for step in definition.all_steps()
        if step.skippable
    }
    assert skippable == {("refund_order", "restock")}


def test_a_shipment_captures_the_orders_payment_and_says_how_it_travels() -> None:
    walk = Walk(FULFIL)
    walk.to_the_end()
    requests = {step: request for step, _, request in walk.sent}
    assert payments_pb2.CaptureRequest.FromString(requests["capture"]).payment_id == PAYMENT
    shipment = orders_pb2.MarkShippedRequest.FromString(requests["shipment"]).shipment
    assert (shipment.carrier, shipment.tracking_number) == ("DHL", "42")


def test_the_definition_of_place_order_is_the_one_of_the_first_release() -> None:
    # P11: sagas that the first release began still load.
    assert (PLACE_ORDER.version, PLACE_ORDER.hash) == (1, "63e541632d53bdbc")


@pytest.mark.parametrize(
    ("more", "mode"),
    [
        ({}, payments_pb2.CAPTURE_MODE_AUTOMATIC),
        ({"capture": "MANUAL"}, payments_pb2.CAPTURE_MODE_MANUAL),
    ],
)
def test_the_charge_captures_unless_the_order_was_placed_with_manual_capture(
    more: dict[str, str], mode: int
) -> None:
    params = PlaceOrder(
        user_id=USER,
        order_id=ORDER,
        reservation_id=RESERVATION,
        payment_id=PAYMENT,
        items=[("MUG", 1)],
        currency_code="EUR",
        address_id=USER,
        payment_method_id=USER,
        **more,
    )
    progress = Progress(PLACE_ORDER, uuid5(NAMESPACE_DNS, "saga"), params, State.RUNNING, 1, 0)
    progress.begin()
    while [call.step for call in progress.pending()] != ["payment"]:
        progress.absorb(
            [Result(call, Outcome.DONE, reply=b"") for call in progress.pending()], deadline_passed=False
        )
    assert payments_pb2.ChargeRequest.FromString(progress.pending()[0].request).capture == mode
