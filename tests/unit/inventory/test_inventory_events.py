from __future__ import annotations

from datetime import UTC, datetime, timedelta

from chassis.ids import new_id
from sagacity.inventory.v1 import events_pb2
from services.inventory import events
from services.inventory.domain import Hold, Reservation, ReservationState, WantedLine

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_order_id_behind_the_payload_of_a_commit_completes_the_message() -> None:
    reservation_id, order_id = new_id(), new_id()
    event = events.stock_committed_up_to_order_id(new_id(), reservation_id, NOW)
    message = events_pb2.StockCommitted.FromString(event.payload + str(order_id).encode())
    assert message == events_pb2.StockCommitted(reservation_id=str(reservation_id), order_id=str(order_id))


def test_events_of_a_reservation_are_keyed_by_its_id_and_typed_by_their_message() -> None:
    hold = Hold(new_id(), new_id(), (WantedLine("A", 1),), "EUR", timedelta(minutes=1))
    reservation = Reservation(hold.reservation_id, hold.order_id, ReservationState.COMMITTED, (), NOW)
    made = [
        events.stock_reserved(new_id(), hold, NOW),
        events.stock_committed_up_to_order_id(new_id(), hold.reservation_id, NOW),
        events.stock_released_by_undo(new_id(), hold.reservation_id, hold.order_id, NOW),
        events.stock_released_by_expiry(new_id(), hold.reservation_id, hold.order_id, NOW),
        events.stock_released_by_cancellation(new_id(), hold.reservation_id, hold.order_id, NOW),
        events.stock_returned(new_id(), reservation, hold.lines, NOW),
    ]
    assert {(event.aggregate_type, event.aggregate_id) for event in made} == {
        ("reservation", str(hold.reservation_id))
    }
    assert [event.type.removeprefix("sagacity.inventory.v1.") for event in made] == [
        "StockReserved",
        "StockCommitted",
        "StockReleased",
        "StockReleased",
        "StockReleased",
        "StockReturned",
    ]
