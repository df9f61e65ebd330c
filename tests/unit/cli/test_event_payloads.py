"""Events for people and scripts: decoded where the type is known, harmless on a terminal always."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cli.event_payloads import TOPICS, SeenEvent, decoded, shown_bytes
from sagacity.orders.v1 import events_pb2

EVIL = "a\x1b[31mb\x07\u202e"
PLACED = "sagacity.orders.v1.OrderPlaced"


def record(payload: bytes, **changes: str) -> Any:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "i",
        "ce_source": "sagacity.orders.v1",
        "ce_type": PLACED,
        "ce_time": "2026-11-21T13:00:00.25+01:00",
        "ce_subject": "order/o1",
        "ce_sequence": "3",
    } | changes
    return SimpleNamespace(
        topic="sagacity.orders.v1",
        partition=2,
        offset=17,
        timestamp=0,
        key=b"o1",
        value=payload,
        headers=[(name, value.encode()) for name, value in headers.items()],
    )


def test_the_topics_are_those_of_the_contexts() -> None:
    from importlib import import_module

    topics = {name: import_module(f"services.{name}.events").TOPIC for name in TOPICS}
    assert topics == TOPICS


def test_a_payload_is_decoded_by_its_type() -> None:
    payload = events_pb2.OrderPlaced(order_id="o1", user_id="u1").SerializeToString()
    assert decoded(PLACED, payload) == {"order_id": "o1", "user_id": "u1"}
    assert decoded("sagacity.orders.v1.NotYetKnown", payload) is None
    assert decoded("", payload) is None
    assert decoded(PLACED, b"\xff") is None


def test_times_are_in_utc_and_every_record_has_the_same_names() -> None:
    shown = SeenEvent.of(record(b"")).document()
    assert (shown["time"], shown["sequence"], shown["payload"]) == ("2026-11-21T12:00:00.250000Z", 3, {})
    unreadable = SeenEvent.of(record(b"\x01", ce_sequence="many")).document()
    assert unreadable.keys() == shown.keys()
    assert (unreadable["payload_base64"], unreadable["sequence"], unreadable["key"]) == ("AQ==", None, "o1")
    assert unreadable["error"]


def test_a_line_says_where_what_and_of_which_aggregate() -> None:
    line = SeenEvent.of(record(events_pb2.OrderPlaced(order_id="o1").SerializeToString())).line().plain
    assert line == (
        '2026-11-21 12:00:00.250  orders    2:17     OrderPlaced  order/o1 #3  {"order_id": "o1"}'
    )


@pytest.mark.parametrize("header", ["ce_type", "ce_subject", "ce_sequence"])
def test_nothing_in_a_line_acts_on_a_terminal(header: str) -> None:
    payload = events_pb2.OrderPlaced(order_id=EVIL).SerializeToString()
    for made in (record(payload, **{header: f"order/{EVIL}"}), record(payload)):
        assert not {"\x1b", "\x07", "\u202e"} & set(SeenEvent.of(made).line().plain)


def test_bytes_that_cannot_be_read_are_shown_up_to_a_bound() -> None:
    assert shown_bytes(b"") == "(empty)"
    assert shown_bytes(b"\x00\xff") == "00ff"
    assert shown_bytes(b"\x00" * 201) == "00" * 200 + "... (201 bytes)"


def test_a_type_is_chosen_by_its_full_name_or_the_last_part_of_it() -> None:
    seen = SeenEvent.of(record(b""))
    for types, wanted in (
        ((), True),
        (("OrderPlaced",), True),
        ((PLACED, "Other"), True),
        (("Placed",), False),
        (("Other",), False),
    ):
        assert seen.is_wanted(None, frozenset(types)) is wanted
    assert seen.is_wanted("o1", frozenset())
    assert not seen.is_wanted("o2", frozenset())
