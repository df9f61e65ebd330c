"""What is printed: words that no foreign text can disturb, and JSON in the words of the REST API."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from cli import tables
from cli.output import console, plain, safe
from sagacity.sagas.v1 import sagas_pb2 as pb

ID = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EVIL = "a\x1b[31mb\x07c\r\nd\u202ee\x9b2Jf[red]g"


def stamp(seconds_ago: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(NOW - timedelta(seconds=seconds_ago))
    return made


def saga(**changes: Any) -> pb.Saga:
    values: dict[str, Any] = {
        "id": ID,
        "kind": "place_order",
        "version": 1,
        "state": pb.SAGA_STATE_RUNNING,
        "order_id": ID,
        "sequence": 5,
        "epoch": 1,
        "create_time": stamp(3_725),
        "update_time": stamp(2),
        "deadline_time": stamp(-60),
        "step": "payment",
    }
    return pb.Saga(**(values | changes))


def printed(value: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None, markup=False).print(value)
    return out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 ms"),
        (0.0124, "12 ms"),
        (3.44, "3.4 s"),
        (59.9, "59.9 s"),
        (60, "1m 00s"),
        (3_725, "1h 02m"),
        (86_400 * 12 + 3_600 * 4, "12d 4h"),
    ],
)
def test_a_duration_is_in_the_unit_that_people_take(seconds: float, words: str) -> None:
    assert tables.duration(timedelta(seconds=seconds)) == words


def test_foreign_text_cannot_act_on_a_terminal() -> None:
    assert safe(EVIL) == "a[31mbc de2Jf[red]g"
    for made in (
        saga(last_error=EVIL, step=EVIL, kind=EVIL, refusal=pb.Refusal(step=EVIL, reason=EVIL, message=EVIL)),
        saga(waiting_for=EVIL, owner=EVIL, error_fingerprint=EVIL),
    ):
        for shown in (tables.saga_table([made], NOW), tables.saga_facts(made, NOW)):
            text = printed(shown)
            assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(text)
            assert "[red]" in text
    entry = pb.TimelineEntry(sequence=1, step=EVIL, operation=EVIL, outcome=EVIL, detail=EVIL, actor=EVIL)
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(printed(tables.timeline([entry])))


@pytest.mark.parametrize("state", pb.SagaState.values())
def test_every_state_has_a_word_and_a_table_shows_it(state: Any) -> None:
    word = pb.SagaState.Name(state).removeprefix("SAGA_STATE_").lower()
    assert tables.state_of(state) == word
    assert word in printed(tables.saga_table([saga(state=state)], NOW))
    assert state == pb.SAGA_STATE_UNSPECIFIED or word in tables.STATE_STYLES


def test_a_state_of_a_later_release_is_shown_as_unknown() -> None:
    assert tables.state_of(99) == "unknown"


def test_a_list_shows_age_step_tries_and_fingerprint() -> None:
    text = printed(tables.saga_table([saga(attempts=3, error_fingerprint="0123456789ab")], NOW))
    for word in (ID, "place_order v1", "running", "1h 02m", "payment", "3", "0123456789ab"):
        assert word in text


def test_a_timeline_shows_the_time_between_entries_and_that_of_each_call() -> None:
    entries = [
        pb.TimelineEntry(sequence=1, step="payment", operation="do", outcome="intended", time=stamp(10)),
        pb.TimelineEntry(
            sequence=2, step="payment", operation="do", attempt=1, outcome="unknown", time=stamp(9.9)
        ),
        pb.TimelineEntry(
            sequence=3, step="payment", operation="do", attempt=2, outcome="done", time=stamp(7.9)
        ),
        pb.TimelineEntry(
            sequence=4, operation="cancel", outcome="requested", actor="ops", reason="why", time=stamp(1)
        ),
    ]
    lines = [line.split() for line in printed(tables.timeline(entries)).splitlines()]
    body = [line for line in lines if line and line[0].isdigit()]
    assert body[1][2:] == ["100", "ms", "do", "payment", "1", "unknown", "100", "ms"]
    assert body[2][2:] == ["2.0", "s", "do", "payment", "2", "done", "2.0", "s"]
    assert body[3][2:] == ["6.9", "s", "cancel", "requested", "ops:", "why"]
    assert "do payment       2   done      2.1 s" in printed(tables.steps(entries))


def test_a_plan_without_calls_says_so() -> None:
    assert printed(tables.plan(pb.PreviewResponse(state=pb.SAGA_STATE_PAUSED))).split("\n")[:2] == [
        "no calls",
        "then: paused",
    ]
    call = pb.PlannedCall(step="payment", operation="do", rpc="/p/Charge")
    text = printed(tables.plan(pb.PreviewResponse(calls=[call], state=pb.SAGA_STATE_COMPLETED)))
    assert "do payment" in text
    assert "depends on replies" in text


def test_json_has_the_words_of_the_rest_api_and_numbers_are_numbers() -> None:
    shown = plain(saga())
    assert (shown["state"], shown["sequence"], shown["epoch"]) == ("running", 5, 1)
    assert (shown["create_time"], shown["overdue"]) == ("2026-11-21T10:57:55Z", False)
    use = plain(pb.DefinitionUse(kind="k", open=3, parked=1))
    assert (use["open"], use["parked"], use["loadable"]) == (3, 1, False)


def test_what_is_no_terminal_gets_no_colours_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    console(out).print(tables.saga_table([saga(state=pb.SAGA_STATE_PARKED)], NOW))
    assert "\x1b" not in out.getvalue()
    assert "parked" in out.getvalue()
