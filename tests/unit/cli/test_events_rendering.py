"""Tables of events and their JSON: what is late or halted is told, whatever foreign text says."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from cli import events_tables
from cli.event_operator import Answer, require_all, require_any
from cli.failures import CommandError, ExitCode
from cli.output import plain
from sagacity.events.v1 import event_operator_pb2 as pb

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EVIL = "a\x1b[31mb\x07\u202e"
CONSUMER = "users.customer-statistics"
AWAY = CommandError(ExitCode.UNAVAILABLE, "UNAVAILABLE", "orders at here:1 does not answer")


def stamp(seconds_ago: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(NOW - timedelta(seconds=seconds_ago))
    return made


def printed(value: Any, *, coloured: bool = False) -> str:
    out = io.StringIO()
    system: Any = "standard" if coloured else None
    Console(file=out, width=220, color_system=system, force_terminal=coloured, markup=False).print(value)
    return out.getvalue()


def consumer(**changes: Any) -> pb.ConsumerLag:
    values: dict[str, Any] = {"consumer": CONSUMER, "generation": 1, "state": pb.CONSUMER_STATE_RUNNING}
    return pb.ConsumerLag(**(values | changes))


def partitions(*lags: int) -> list[pb.PartitionLag]:
    return [pb.PartitionLag(topic="t", partition=number, lag=lag) for number, lag in enumerate(lags)]


def lag(*consumers: pb.ConsumerLag, **outbox: Any) -> str:
    reply = pb.GetLagResponse(outbox=pb.OutboxLag(**outbox), consumers=consumers)
    return printed(events_tables.lag_table([Answer("users", reply)]))


def letter(**changes: Any) -> pb.DeadLetter:
    values: dict[str, Any] = {
        "consumer": CONSUMER,
        "generation": 1,
        "aggregate": "sagacity.orders.v1/order/o1",
        "sequence": 3,
        "type": "sagacity.orders.v1.OrderPlaced",
        "error": "ValueError('no')",
        "create_time": stamp(90),
    }
    return pb.DeadLetter(**(values | changes))


def test_lag_shows_outbox_and_each_consumer() -> None:
    busy = consumer(partitions=partitions(0, 3, 4), dead_letters=2, halted_keys=1)
    shown = lag(busy, consumer(consumer="users.other"), waiting=7, oldest_age=Duration(seconds=5))
    rows = [line.split() for line in shown.splitlines() if "users." in line]
    assert rows[0] == [
        "users",
        "7",
        "5.0",
        "s",
        CONSUMER,
        "running",
        "7",
        "(t",
        "2:4,",
        "t",
        "1:3)",
        "2",
        "1",
    ]
    assert rows[1] == ["users.other", "running", "unknown", "0", "0"]


def test_of_many_partitions_the_worst_are_named() -> None:
    shown = lag(consumer(partitions=partitions(1, 2, 3, 4, 5, 6)))
    assert "21 (t 5:6, t 4:5, t 3:4, t 2:3, ...)" in shown
    assert " 0 " in lag(consumer(partitions=partitions(0, 0)))


def test_a_context_without_consumers_and_one_that_is_away_have_their_lines() -> None:
    answers = [
        Answer("payments", pb.GetLagResponse(outbox=pb.OutboxLag(waiting=1))),
        Answer("orders", None, AWAY),
    ]
    lines = [line.split() for line in printed(events_tables.lag_table(answers)).splitlines()]
    assert ["payments", "1"] in lines
    assert ["orders", "unreachable"] in lines


def test_what_is_late_or_halted_is_red() -> None:
    fine = pb.GetLagResponse(outbox=pb.OutboxLag(waiting=1, oldest_age=Duration(seconds=59)))
    late = pb.GetLagResponse(outbox=pb.OutboxLag(waiting=1, oldest_age=Duration(seconds=60)))
    assert "\x1b[1;31m" not in printed(events_tables.lag_table([Answer("users", fine)]), coloured=True)
    halted = pb.GetLagResponse(consumers=[consumer(dead_letters=1)])
    for reply in (late, halted):
        assert "\x1b[1;31m" in printed(events_tables.lag_table([Answer("users", reply)]), coloured=True)


@pytest.mark.parametrize("state", pb.ConsumerState.values())
def test_every_state_of_a_consumer_has_a_word(state: Any) -> None:
    name = pb.ConsumerState.Name(state).removeprefix("CONSUMER_STATE_").lower()
    assert events_tables.consumer_state(state) == name
    assert state == pb.CONSUMER_STATE_UNSPECIFIED or name in events_tables.STATE_STYLES


@pytest.mark.parametrize("state", pb.ProjectionState.values())
def test_every_state_of_a_projection_has_a_word(state: Any) -> None:
    name = pb.ProjectionState.Name(state).removeprefix("PROJECTION_STATE_").lower()
    assert events_tables.projection_state(state) == name
    assert state == pb.PROJECTION_STATE_UNSPECIFIED or name in events_tables.STATE_STYLES


def test_a_state_of_a_later_release_is_unknown() -> None:
    assert events_tables.consumer_state(99) == events_tables.projection_state(99) == "unknown"


def test_a_dead_letter_is_shown_with_its_payload_where_that_can_be_read() -> None:
    reply = pb.GetDeadLetterResponse(dead_letter=letter(replays=2), payload_json='{"order_id": "o1"}')
    shown = printed(events_tables.letter_facts(reply, NOW))
    for words in ("sagacity.orders.v1/order/o1", "ValueError('no')", "1m 30s ago", '    "order_id": "o1"'):
        assert words in shown
    foreign = pb.GetDeadLetterResponse(dead_letter=letter(type=""), payload=b"\xff")
    shown = printed(events_tables.letter_facts(foreign, NOW))
    assert "(no event of ours)" in shown
    assert "ff  (does not decode)" in shown


def test_foreign_text_cannot_act_on_a_terminal() -> None:
    evil = letter(consumer=EVIL, aggregate=EVIL, type=EVIL, error=EVIL, topic=EVIL, event_id=EVIL)
    payload = '{"\\u001b[2J": "\\u202e\\u0007"}'
    entry = pb.AuditEntry(time=stamp(1), actor=EVIL, action=EVIL, target=EVIL, reason=EVIL, outcome=EVIL)
    strange = consumer(consumer=EVIL, partitions=[pb.PartitionLag(topic=EVIL, lag=1)])
    for value in (
        events_tables.letter_table([evil], NOW),
        events_tables.letter_facts(pb.GetDeadLetterResponse(dead_letter=evil, payload_json=payload), NOW),
        events_tables.audit_table([("users", entry)]),
        events_tables.projection_table([("users", pb.Projection(name=EVIL))]),
        events_tables.lag_table([Answer("users", pb.GetLagResponse(consumers=[strange]))]),
    ):
        assert not {"\x1b", "\x07", "\u202e"} & set(printed(value))


def test_json_has_the_words_of_the_rest_api_at_any_depth() -> None:
    outbox = pb.OutboxLag(topic="t", waiting=7, oldest_age=Duration(seconds=1, nanos=500_000_000))
    paused = consumer(state=pb.CONSUMER_STATE_PAUSED, partitions=partitions(4), dead_letters=2)
    shown = plain(pb.GetLagResponse(outbox=outbox, consumers=[paused]))
    assert shown["outbox"] == {"topic": "t", "waiting": 7, "oldest_age_seconds": 1.5}
    (found,) = shown["consumers"]
    assert (found["state"], found["dead_letters"], found["partitions"][0]["lag"]) == ("paused", 2, 4)
    assert plain(letter())["create_time"] == "2026-11-21T11:58:30Z"


def test_nobody_answering_is_a_failure_and_somebody_is_not() -> None:
    require_any([Answer("users", 1), Answer("orders", None, AWAY)])
    require_any([])
    with pytest.raises(CommandError) as caught:
        require_any([Answer("users", None, AWAY), Answer("orders", None, AWAY)])
    assert caught.value.code == ExitCode.UNAVAILABLE


def test_somebody_missing_from_what_is_shown_is_told_by_an_exit_code_of_its_own() -> None:
    require_all([Answer("users", 1), Answer("orders", 0)])
    with pytest.raises(CommandError) as caught:
        require_all([Answer("users", 1), Answer("orders", None, AWAY), Answer("payments", None, AWAY)])
    assert (caught.value.code, caught.value.reason) == (ExitCode.INCOMPLETE, "UNAVAILABLE")
    assert caught.value.message == f"orders: {AWAY.message}; payments: {AWAY.message}"
