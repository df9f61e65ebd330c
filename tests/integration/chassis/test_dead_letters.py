"""What operators do with dead letters, beside the live consumer."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from chassis import dead_letters
from chassis.cloud_events import ReceivedEvent
from chassis.errors import Fault, FaultKind
from chassis.event_audit import Asked
from chassis.ids import new_id
from chassis.inbox import Handler, Inbox
from chassis.postgres import Database, Transaction
from tests.integration.chassis.consuming import DDL, LETTERS, PLACED, effects, letters, record_effect

pytestmark = pytest.mark.integration

TOPIC = "sagacity.test.v1"
ASKED = Asked("ops", "the handler is mended")
Rows = Callable[..., Awaitable[list[dict[str, Any]]]]


def event(key: str, sequence: int, **changes: Any) -> ReceivedEvent:
    values: dict[str, Any] = {
        "id": str(new_id()),
        "type": PLACED,
        "aggregate_type": "order",
        "aggregate_id": key,
        "sequence": sequence,
        "payload": b"",
        "occurred_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "traceparent": None,
        "topic": TOPIC,
        "partition": 0,
        "offset": sequence,
    }
    return ReceivedEvent(**(values | changes))


def name_of(key: str) -> str:
    return event(key, 1).aggregate


def inbox_of(database: Database, handler: Handler = record_effect) -> Inbox:
    return Inbox(database, consumer="tests", generation=1, handlers={PLACED: handler})


async def parked(database: Database, key: str, *sequences: int) -> Inbox:
    """Park the first of these events, and the others behind it."""
    inbox = inbox_of(database)
    first, *others = sequences
    await inbox.apply([event(key, number) for number in range(1, first)])
    await inbox.park(event(key, first), "ValueError('bad code')")
    if others:
        await inbox.apply([event(key, number) for number in others])
    return inbox


async def replay(database: Database, inbox: Inbox, key: str) -> list[tuple[int, str]]:
    """Replay a key as far as it goes."""
    done = []
    while found := await dead_letters.replay_first(database, inbox, name_of(key), ASKED):
        done.append((found.sequence, found.error))
        if found.error:
            break
    return done


async def test_a_replay_applies_in_order_and_the_key_flows_again(open_database: Any, rows: Rows) -> None:
    database = await open_database(DDL)
    inbox = await parked(database, "a", 2, 3, 4)
    await parked(database, "b", 1)
    assert await replay(database, inbox, "a") == [(2, ""), (3, ""), (4, "")]
    assert (await inbox.apply([event("a", 5)])).applied == 1
    assert await effects(database) == {"a": [1, 2, 3, 4, 5]}
    assert await letters(database) == [("b", 1)]
    audit = await rows(database, "SELECT actor, action, target, reason, outcome FROM event_audit ORDER BY id")
    assert [tuple(row.values()) for row in audit] == [
        ("ops", "replay", f"tests {name_of('a')} {number}", ASKED.reason, "applied") for number in (2, 3, 4)
    ]


async def test_a_replay_that_fails_keeps_the_event_its_new_error_and_those_behind_it(
    open_database: Any, rows: Rows
) -> None:
    database = await open_database(DDL)
    await parked(database, "a", 1, 2, 3)

    async def still_bad(tx: Transaction, got: ReceivedEvent) -> None:
        await record_effect(tx, got)
        if got.sequence == 2:
            raise ValueError("still \x00 bad")

    inbox = inbox_of(database, still_bad)
    assert await replay(database, inbox, "a") == [(1, ""), (2, "ValueError('still \\x00 bad')")]
    assert (await replay(database, inbox, "a"))[0][0] == 2
    first, second = await database.fetch(LETTERS, {})
    assert (first["sequence"], first["replays"]) == (2, 2)
    assert "still" in first["error"]
    assert (second["sequence"], second["replays"]) == (3, 0)
    # Whatever comes is parked behind them still.
    assert (await inbox.apply([event("a", 4)])).parked == 1
    assert await effects(database) == {"a": [1]}
    outcomes = [row["outcome"] for row in await rows(database, "SELECT outcome FROM event_audit ORDER BY id")]
    assert outcomes[0] == "applied"
    assert [each.partition(":")[0] for each in outcomes[1:]] == ["failed", "failed"]


async def test_replays_and_the_live_consumer_at_once_apply_each_event_once_and_in_order(
    open_database: Any,
) -> None:
    database = await open_database(DDL, max_size=12)
    inbox = await parked(database, "a", 1, *range(2, 21))

    async def live() -> None:
        for number in range(21, 61):
            # Kafka gives it again, as after a rebalance.
            await inbox.apply([event("a", number)])
            await inbox.apply([event("a", number - 1), event("a", number)])

    async def replaying() -> None:
        for _ in range(30):
            await replay(database, inbox, "a")

    await asyncio.gather(live(), replaying(), replaying(), replaying())
    await replay(database, inbox, "a")
    assert await effects(database) == {"a": list(range(1, 61))}
    assert await letters(database) == []


async def test_what_is_parked_while_it_is_being_applied_elsewhere_is_not_parked(open_database: Any) -> None:
    database = await open_database(DDL)
    inbox = await parked(database, "a", 1)
    first = (await database.fetch(LETTERS, {}))[0]
    await replay(database, inbox, "a")
    assert not await inbox.park(event("a", 1, id=first["event_id"]), "it failed here, long ago")
    assert await letters(database) == []
    assert (await inbox.apply([event("a", 2)])).applied == 1


async def test_a_discarded_event_is_never_applied_and_the_next_counts_as_next(
    open_database: Any, rows: Rows
) -> None:
    database = await open_database(DDL)
    inbox = await parked(database, "a", 2, 3)
    assert await dead_letters.discard_first(database, inbox, name_of("a"), 2, ASKED) == 1
    assert await replay(database, inbox, "a") == [(3, "")]
    assert (await inbox.apply([event("a", 4)])).applied == 1
    assert await effects(database) == {"a": [1, 3, 4]}
    (discarded, _) = await rows(database, "SELECT action, target, outcome FROM event_audit ORDER BY id")
    assert discarded["action"] == "discard"
    assert discarded["target"].endswith("/a 2")
    assert "bad code" in discarded["outcome"]


async def test_with_the_last_letter_discarded_the_key_flows_and_the_event_that_comes_again_is_dropped(
    open_database: Any,
) -> None:
    database = await open_database(DDL)
    inbox = await parked(database, "a", 1)
    assert await dead_letters.discard_first(database, inbox, name_of("a"), 1, ASKED) == 0
    result = await inbox.apply([event("a", 1), event("a", 2)])
    assert (result.duplicates, result.applied) == (1, 1)


@pytest.mark.parametrize(
    ("sequence", "kind", "reason"),
    [
        (1, FaultKind.NOT_FOUND, "DEAD_LETTER_NOT_FOUND"),
        (3, FaultKind.FAILED_PRECONDITION, "NOT_THE_FIRST"),
        (9, FaultKind.FAILED_PRECONDITION, "NOT_THE_FIRST"),
    ],
)
async def test_only_the_first_letter_of_a_key_can_be_discarded(
    open_database: Any, sequence: int, kind: FaultKind, reason: str
) -> None:
    database = await open_database(DDL)
    inbox = await parked(database, "a", 2, 3)
    with pytest.raises(Fault) as caught:
        await dead_letters.discard_first(database, inbox, name_of("a"), sequence, ASKED)
    assert (caught.value.kind, caught.value.reason) == (kind, reason)
    assert await letters(database) == [("a", 2), ("a", 3)]


async def test_behind_a_gap_nothing_is_applied_until_the_event_that_shows_it_is_given_up(
    open_database: Any,
) -> None:
    database = await open_database(DDL)
    inbox = inbox_of(database)
    await inbox.apply([event("a", 1)])
    await inbox.park(event("a", 3), "GapError")
    await inbox.apply([event("a", 4)])
    ((sequence, error),) = await replay(database, inbox, "a")
    assert sequence == 3
    assert "event 2 is missing" in error
    await dead_letters.discard_first(database, inbox, name_of("a"), 3, ASKED)
    assert await replay(database, inbox, "a") == [(4, "")]
    assert await effects(database) == {"a": [1, 4]}


async def test_a_record_that_is_no_event_can_only_be_discarded(open_database: Any) -> None:
    database = await open_database(DDL)
    inbox = inbox_of(database)
    record = event("0", 8, type="", id="", aggregate_type="unreadable")
    await inbox.park(record, "garbage")
    done = await dead_letters.replay_first(database, inbox, record.aggregate, ASKED)
    assert done is not None
    assert "only be discarded" in done.error
    assert await dead_letters.discard_first(database, inbox, record.aggregate, 8, ASKED) == 0
    # It comes again where its offset was not committed.
    assert not await inbox.park(record, "garbage")
    assert await letters(database) == []


async def test_an_effect_whose_audit_cannot_be_written_is_not_had(open_database: Any, rows: Rows) -> None:
    database = await open_database(DDL)
    inbox = await parked(database, "a", 1)
    await rows(database, "DROP TABLE event_audit")
    with pytest.raises(Exception, match="event_audit"):
        await replay(database, inbox, "a")
    assert await effects(database) == {}
    assert await letters(database) == [("a", 1)]


async def test_a_handler_that_hangs_in_a_replay_is_a_failure_with_an_error(
    open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "HANDLER_SECONDS", 0.1)
    database = await open_database(DDL)
    await parked(database, "a", 1)

    async def hanging(tx: Transaction, got: ReceivedEvent) -> None:
        await record_effect(tx, got)
        await asyncio.Event().wait()

    ((_, error),) = await replay(database, inbox_of(database, hanging), "a")
    assert error == "TimeoutError()"
    (letter,) = await database.fetch(LETTERS, {})
    assert letter["replays"] == 1
    assert await effects(database) == {}


async def test_while_the_database_is_away_a_replay_says_nothing_about_the_event(
    open_database: Any, rows: Rows
) -> None:
    database = await open_database(DDL)
    await parked(database, "a", 1)
    other = await open_database()

    async def cut_off(tx: Transaction, got: ReceivedEvent) -> None:
        await record_effect(tx, got)
        await rows(
            other,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        await record_effect(tx, got)

    with pytest.raises(Fault) as caught:
        await replay(database, inbox_of(database, cut_off), "a")
    assert caught.value.kind is FaultKind.UNAVAILABLE
    (letter,) = await other.fetch(LETTERS, {})
    assert letter["replays"] == 0
