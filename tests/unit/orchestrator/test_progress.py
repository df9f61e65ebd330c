"""What follows from what the calls of place_order said: pure, so every path is a table."""

from itertools import product
from uuid import NAMESPACE_DNS, uuid5

import pytest

from chassis.errors import Fault, FaultKind
from orchestrator.entries import INTENDED, REQUESTED, Entry, Event, Result, State, Verb
from orchestrator.progress import Progress
from orchestrator.saga import Operation, Outcome, classify
from orchestrator.sagas.place_order import PLACE_ORDER, PlaceOrder
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.postal_address_pb2 import PostalAddress
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2
from sagacity.users.v1 import users_pb2

IDS = [
    str(uuid5(NAMESPACE_DNS, name))
    for name in ("user", "order", "reservation", "payment", "address", "method")
]
PARAMS = PlaceOrder(
    user_id=IDS[0],
    order_id=IDS[1],
    reservation_id=IDS[2],
    payment_id=IDS[3],
    items=[("MUG", 2)],
    currency_code="EUR",
    address_id=IDS[4],
    payment_method_id=IDS[5],
)
EURO = Money(currency_code="EUR", minor_units=100)
REPLIES = {
    "order": orders_pb2.CreateOrderResponse(),
    "customer": users_pb2.AssertCanOrderResponse(address=PostalAddress(city="Berlin")),
    "reservation": inventory_pb2.ReserveResponse(
        reservation=inventory_pb2.Reservation(
            lines=[inventory_pb2.ReservedLine(sku="MUG", name="Mug", quantity=2, unit_price=EURO)]
        )
    ),
    "quote": orders_pb2.QuoteOrderResponse(quote=orders_pb2.Quote(total=EURO)),
    "payment": payments_pb2.ChargeResponse(),
    "stock": inventory_pb2.CommitReservationResponse(),
    "confirmation": orders_pb2.ConfirmOrderResponse(order=orders_pb2.Order(id=IDS[1])),
}
FORWARD = [["order", "customer"], ["reservation"], ["quote"], ["payment"], ["stock"], ["confirmation"]]
UNDOABLE = ["order", "reservation", "payment", "stock"]
REFUSAL = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", recorded=True, domain="sagacity.test")
UNRECORDED = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", domain="sagacity.test")
TIMEOUT = Fault(FaultKind.DEADLINE_EXCEEDED, "TOO_SLOW", "too slow", domain="sagacity.test")


class Walk:
    """A saga that is driven by hand; it keeps every event, as the journal would."""

    def __init__(self) -> None:
        self.progress = Progress(PLACE_ORDER, uuid5(NAMESPACE_DNS, "saga"), PARAMS, State.RUNNING, 1, 0)
        self.events: list[Event] = list(self.progress.begin())
        self.progress.sequence = len(self.events)
        self.entry: Entry | None = None

    def pending(self) -> list[str]:
        return [call.step for call in self.progress.pending()]

    def answer(self, faults: dict[str, Fault] | None = None, *, deadline_passed: bool = False) -> None:
        results = []
        for call in self.progress.pending():
            fault = (faults or {}).get(call.step)
            if fault is not None:
                results.append(Result(call, classify(fault), fault=fault))
            else:
                reply = (
                    REPLIES[call.step] if call.operation is Operation.DO else orders_pb2.RejectOrderResponse()
                )
                results.append(Result(call, Outcome.DONE, reply=reply.SerializeToString()))
        self.entry = self.progress.absorb(results, deadline_passed=deadline_passed)
        self.events += self.entry.events

    def forward_to(self, step: str) -> None:
        while step not in self.pending():
            self.answer()

    def undo_all(self) -> list[list[str]]:
        undone = []
        while self.progress.state is State.COMPENSATING:
            undone.append(self.pending())
            self.answer()
        return undone

    def reloaded(self) -> Progress:
        copy = Progress(PLACE_ORDER, self.progress.saga_id, PARAMS, self.progress.state, 1, len(self.events))
        copy.refusal = self.progress.refusal
        for event in self.events:
            copy.replay(event)
        return copy


def test_an_order_that_nobody_refuses_is_confirmed() -> None:
    walk, seen = Walk(), []
    while walk.progress.state is State.RUNNING:
        seen.append(walk.pending())
        walk.answer()
    assert seen == FORWARD
    assert walk.progress.state is State.COMPLETED
    assert walk.entry is not None
    answer = sagas_pb2.PlaceOrderResponse.FromString(walk.entry.answer or b"")
    assert answer.progress == sagas_pb2.ORDER_PROGRESS_CONFIRMED
    assert answer.order.id == IDS[1]


@pytest.mark.parametrize("step", [step for group in FORWARD for step in group])
def test_a_recorded_refusal_undoes_what_came_before_in_reverse(step: str) -> None:
    walk = Walk()
    walk.forward_to(step)
    walk.answer({step: REFUSAL})
    before = [name for group in FORWARD for name in group][: [n for g in FORWARD for n in g].index(step) + 1]
    expected = [[name] for name in reversed(UNDOABLE) if name in before and name != step]
    if step == "customer":
        expected = [["order"]]
    assert walk.undo_all() == expected
    assert walk.progress.state is State.COMPENSATED


@pytest.mark.parametrize("step", UNDOABLE)
def test_an_unrecorded_refusal_may_still_land_so_its_step_is_undone_too(step: str) -> None:
    walk = Walk()
    walk.forward_to(step)
    walk.answer({step: UNRECORDED})
    assert [step] in walk.undo_all()


@pytest.mark.parametrize("step", [step for group in FORWARD for step in group])
def test_a_time_out_is_the_same_call_again_with_the_same_bytes(step: str) -> None:
    walk = Walk()
    walk.forward_to(step)
    before = {call.step: call.request for call in walk.progress.pending()}
    walk.answer({step: TIMEOUT})
    assert walk.progress.state is State.RUNNING
    assert walk.pending() == [step]
    again = walk.progress.pending()[0]
    assert again.request == before[step]
    assert again.attempt == 2


def test_the_deadline_unwinds_before_the_intent_of_the_pivot() -> None:
    walk = Walk()
    walk.forward_to("payment")
    walk.answer({"payment": TIMEOUT}, deadline_passed=True)
    assert walk.undo_all() == [["payment"], ["reservation"], ["order"]]
    assert walk.progress.refusal is not None
    assert walk.progress.refusal.reason == "ORDER_TIMED_OUT"


def test_the_deadline_has_no_effect_once_the_pivot_is_intended() -> None:
    walk = Walk()
    walk.forward_to("confirmation")
    walk.answer({"confirmation": TIMEOUT}, deadline_passed=True)
    assert walk.progress.state is State.RUNNING
    walk.answer(deadline_passed=True)
    assert walk.progress.state is State.COMPLETED


CANCEL = Event("", Verb.CANCEL, 0, REQUESTED, actor="ada", reason="ordered twice")


@pytest.mark.parametrize("step", [group[0] for group in FORWARD[:-1]])
def test_a_cancel_before_the_intent_of_the_pivot_undoes_what_was_intended(step: str) -> None:
    walk = Walk()
    walk.forward_to(step)
    intended = [call.step for call in walk.progress.pending()]
    walk.progress.replay(CANCEL)
    assert walk.progress.must_unwind
    # The executor makes no further call then: what is pending is undone, whatever became of it.
    walk.entry = walk.progress.absorb([], deadline_passed=False)
    undone = [name for group in walk.undo_all() for name in group]
    names = [name for group in FORWARD for name in group]
    before = names[: names.index(intended[-1]) + 1]
    assert undone == [name for name in reversed(UNDOABLE) if name in before]
    assert walk.progress.state is State.COMPENSATED
    assert walk.progress.refusal is not None
    assert (walk.progress.refusal.reason, walk.progress.refusal.message) == ("CANCELLED", "ordered twice")


def test_a_cancel_has_no_effect_once_the_pivot_is_intended() -> None:
    walk = Walk()
    walk.forward_to("confirmation")
    walk.progress.replay(CANCEL)
    assert not walk.progress.must_unwind
    walk.answer()
    assert walk.progress.state is State.COMPLETED


def test_a_cancel_of_an_order_that_is_being_undone_already_changes_nothing() -> None:
    walk = Walk()
    walk.forward_to("payment")
    walk.answer({"payment": REFUSAL})
    walk.progress.replay(CANCEL)
    assert walk.undo_all() == [["reservation"], ["order"]]
    assert walk.progress.refusal is not None
    assert walk.progress.refusal.to_json() == REFUSAL.to_json()


def test_an_unrecorded_refusal_of_the_pivot_parks() -> None:
    walk = Walk()
    walk.forward_to("confirmation")
    walk.answer({"confirmation": UNRECORDED})
    assert walk.progress.state is State.PARKED


def test_a_refused_undo_parks_and_an_unknown_one_is_tried_again() -> None:
    walk = Walk()
    walk.forward_to("payment")
    walk.answer({"payment": REFUSAL})
    walk.answer({"reservation": TIMEOUT})
    assert walk.progress.state is State.COMPENSATING
    walk.answer({"reservation": UNRECORDED})
    assert walk.progress.state is State.PARKED


@pytest.mark.parametrize(("faults", "kind"), list(product([TIMEOUT, REFUSAL], ["order", "customer"])))
def test_what_the_journal_holds_is_enough_to_go_on_anywhere(faults: Fault, kind: str) -> None:
    walk = Walk()
    walk.answer({kind: faults})
    while walk.progress.state in {State.RUNNING, State.COMPENSATING}:
        copy = walk.reloaded()
        assert copy.pending() == walk.progress.pending()
        walk.answer()
    assert [event.outcome for event in walk.events].count(INTENDED) > 2


def test_no_step_is_called_before_its_intent_and_sequences_have_no_gap() -> None:
    walk = Walk()
    length = len(walk.events)
    while walk.progress.state is State.RUNNING:
        intended = {(event.step, event.operation) for event in walk.events if event.outcome == INTENDED}
        assert {(call.step, call.operation) for call in walk.progress.pending()} <= intended
        walk.answer()
        assert walk.entry is not None
        assert walk.entry.sequence == length
        length += len(walk.entry.events)


@pytest.mark.parametrize("kind", FaultKind)
def test_a_refusal_is_one_of_six_kinds_and_of_our_own_domain_and_all_else_is_unknown(kind: FaultKind) -> None:
    refusals = {
        FaultKind.FAILED_PRECONDITION,
        FaultKind.INVALID_ARGUMENT,
        FaultKind.NOT_FOUND,
        FaultKind.ALREADY_EXISTS,
        FaultKind.PERMISSION_DENIED,
        FaultKind.OUT_OF_RANGE,
    }
    ours = Fault(kind, "NO", "a participant said so", domain="sagacity.inventory")
    foreign = Fault(kind, "NO", "a proxy said so")
    assert classify(ours) is (Outcome.REFUSED if kind in refusals else Outcome.UNKNOWN)
    assert classify(foreign) is Outcome.UNKNOWN
