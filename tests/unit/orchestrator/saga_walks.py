"""The sagas about an order that exists, with what participants answer them, driven by hand."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import NAMESPACE_DNS, uuid5

from google.protobuf.message import Message

from chassis.errors import Detail, Fault, FaultKind
from orchestrator.entries import Entry, Result, State
from orchestrator.progress import Progress
from orchestrator.saga import Operation, Outcome, Saga, classify
from orchestrator.sagas.cancel_order import CANCEL_ORDER, CancelOrder
from orchestrator.sagas.fulfil_order import FULFIL_ORDER, FulfilOrder
from orchestrator.sagas.refund_order import REFUND_ORDER, RefundOrder
from sagacity.common.v1.money_pb2 import Money
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2


def an_id(name: str) -> str:
    return str(uuid5(NAMESPACE_DNS, name))


ORDER, USER, PAYMENT, RESERVATION, REFUND = map(an_id, ("order", "user", "payment", "reservation", "refund"))
EURO = Money(currency_code="EUR", minor_units=700)
SOLD = orders_pb2.Order(id=ORDER, payment_id=PAYMENT, reservation_id=RESERVATION)
REFUSAL = Fault(
    FaultKind.FAILED_PRECONDITION,
    "NO",
    "no",
    subjects=(Detail("MUG", "2 wanted, 1 left"),),
    recorded=True,
    domain="sagacity.test",
)
UNRECORDED = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", domain="sagacity.test")
TIMEOUT = Fault(FaultKind.DEADLINE_EXCEEDED, "TOO_SLOW", "too slow", domain="sagacity.test")
NOT_CONFIRMED = Fault(
    FaultKind.FAILED_PRECONDITION, "ORDER_NOT_CONFIRMED", "it is not", recorded=True, domain="sagacity.orders"
)
NOT_THEIRS = Fault(
    FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "there is none", recorded=True, domain="sagacity.orders"
)
QUOTE = orders_pb2.QuoteRefundResponse(
    amount=EURO,
    lines=[orders_pb2.RefundLine(sku="MUG", quantity=2)],
    payment_id=PAYMENT,
    reservation_id=RESERVATION,
    user_id=USER,
)
REPLIES: dict[str, dict[str, Message]] = {
    "cancel_order": {
        "order": orders_pb2.GetOrderResponse(order=SOLD),
        "cancellation": orders_pb2.CancelOrderResponse(order=SOLD),
        "payment": payments_pb2.ReverseResponse(),
        "stock": inventory_pb2.ReleaseReservationResponse(),
    },
    "refund_order": {
        "quote": QUOTE,
        "refund": payments_pb2.RefundResponse(),
        "restock": inventory_pb2.RestockResponse(),
        "record": orders_pb2.RecordRefundResponse(order=SOLD),
    },
    "fulfil_order": {
        "order": orders_pb2.AssertCanFulfilResponse(order=SOLD),
        "capture": payments_pb2.CaptureResponse(),
        "shipment": orders_pb2.MarkShippedResponse(order=SOLD),
    },
}
RETURNING = RefundOrder(ORDER, REFUND, "broken", [("MUG", 2)], None, "", restock=True)
BY_AMOUNT = RefundOrder(ORDER, REFUND, "late", [], 700, "EUR", restock=False)


class Case(NamedTuple):
    """A saga with parameters, the steps that it takes, and what its answer is parsed by."""

    definition: Saga[Any]
    params: Any
    steps: list[str]
    answer: Any


CANCEL = Case(
    CANCEL_ORDER,
    CancelOrder(ORDER, USER, "ordered twice"),
    ["order", "cancellation", "payment", "stock"],
    sagas_pb2.CancelOrderResponse,
)
REFUND_LINES = Case(
    REFUND_ORDER, RETURNING, ["quote", "refund", "restock", "record"], sagas_pb2.RefundOrderResponse
)
REFUND_AMOUNT = Case(REFUND_ORDER, BY_AMOUNT, ["quote", "refund", "record"], sagas_pb2.RefundOrderResponse)
FULFIL = Case(
    FULFIL_ORDER,
    FulfilOrder(ORDER, "DHL", "42"),
    ["order", "capture", "shipment"],
    sagas_pb2.FulfilOrderResponse,
)
CASES = [CANCEL, REFUND_LINES, REFUND_AMOUNT, FULFIL]
IDS = ["cancel", "refund-lines", "refund-amount", "fulfil"]
PIVOT = {"cancel_order": "cancellation", "refund_order": "refund", "fulfil_order": "capture"}


class Walk:
    """A saga that waited for its turn, so that it begins without an intent, and is driven by hand."""

    def __init__(self, case: Case, state: State = State.RUNNING, **replies: Message) -> None:
        self.case = case
        self.replies = {**REPLIES[case.definition.kind], **replies}
        self.progress = Progress(case.definition, uuid5(NAMESPACE_DNS, "saga"), case.params, state, 1, 0)
        self.sent: list[tuple[str, Operation, Any]] = []
        self.entry: Entry | None = None

    def go(self, faults: dict[str, Fault] | None = None, *, deadline_passed: bool = False) -> None:
        """Answer what is pending, with faults for the steps that are named."""
        results = []
        for call in self.progress.pending():
            self.sent.append((call.step, call.operation, call.request))
            fault = (faults or {}).get(call.step)
            if fault is not None:
                results.append(Result(call, classify(fault), fault=fault))
            else:
                reply = self.replies[call.step].SerializeToString()
                results.append(Result(call, Outcome.DONE, reply=reply))
        self.entry = self.progress.absorb(results, deadline_passed=deadline_passed)

    def forward_to(self, step: str) -> None:
        for _ in range(10):
            if [call.step for call in self.progress.pending()] == [step]:
                return
            self.go()
        raise AssertionError(f"{step} does not come")

    def to_the_end(self) -> None:
        for _ in range(10):
            if self.progress.state not in {State.RUNNING, State.COMPENSATING}:
                return
            self.go()
        raise AssertionError("no end")

    def answer(self) -> Any:
        assert self.entry is not None
        assert self.entry.answer is not None
        return self.case.answer.FromString(self.entry.answer)

    def steps(self) -> list[str]:
        return [step for step, _, _ in self.sent]
