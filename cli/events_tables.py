"""Lag, dead letters, projections and audit entries as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.event_operator import Answer
from cli.event_payloads import shown_bytes
from cli.output import safe, word
from cli.tables import duration, moment_of, stamp_of
from sagacity.events.v1 import event_operator_pb2 as pb

UNREACHABLE = "unreachable"
STATE_STYLES = {
    "running": "green",
    "paused": "magenta",
    "halted": "bold red",
    "serving": "green",
    "copying": "cyan",
    "catching_up": "cyan",
    UNREACHABLE: "bold red",
}
LATE_SECONDS = 60
MAX_PARTITIONS_SHOWN = 4
_RIGHT = frozenset({"outbox", "oldest", "dead letters", "halted keys", "#", "replays", "copied", "aside"})
_LONG = frozenset({"partition lag", "error", "reason", "target", "aggregate", "outcome"})


def consumer_state(state: int) -> str:
    """The word for what a consumer does."""
    return word(pb.ConsumerState.DESCRIPTOR, state)


def projection_state(state: int) -> str:
    """The word for what a projection does."""
    return word(pb.ProjectionState.DESCRIPTOR, state)


def lag_table(answers: Iterable[Answer[pb.GetLagResponse]]) -> Table:
    """One line a consumer; its context's outbox on the first of them."""
    table = _table(
        "context",
        "outbox",
        "oldest",
        "consumer",
        "state",
        "partition lag",
        "dead letters",
        "halted keys",
    )
    for answer in answers:
        if answer.found is None:
            table.add_row(answer.context, "", "", "", _state(UNREACHABLE))
            continue
        outbox = _outbox(answer.found)
        first = (answer.context, *outbox)
        for consumer in answer.found.consumers:
            table.add_row(*first, *_consumer(consumer))
            first = ("", "", "")
        if not answer.found.consumers:
            table.add_row(*first)
    return table


def letter_table(letters: Iterable[pb.DeadLetter], now: datetime) -> Table:
    """One line a dead letter."""
    table = _table("consumer", "aggregate", "#", "type", "aside", "replays", "error")
    for letter in letters:
        table.add_row(
            safe(letter.consumer),
            safe(letter.aggregate),
            str(letter.sequence),
            safe(letter.type.rpartition(".")[2]),
            duration(now - moment_of(letter.create_time)),
            str(letter.replays or ""),
            safe(letter.error),
        )
    return table


def letter_facts(reply: pb.GetDeadLetterResponse, now: datetime) -> Group:
    """One dead letter, a line a fact, and what it says."""
    letter = reply.dead_letter
    table = Table.grid(padding=(0, 2))
    happened = stamp_of(letter.occurred_at) if letter.HasField("occurred_at") else ""
    rows: list[tuple[str, str | Text]] = [
        ("consumer", safe(letter.consumer)),
        ("aggregate", safe(letter.aggregate)),
        ("sequence", str(letter.sequence)),
        ("type", safe(letter.type) or "(no event of ours)"),
        ("event", safe(letter.event_id)),
        ("read at", f"{safe(letter.topic)} {letter.partition}:{letter.offset}"),
        ("happened", happened),
        ("put aside", f"{stamp_of(letter.create_time)}, {duration(now - moment_of(letter.create_time))} ago"),
        ("replays", str(letter.replays or "")),
        ("error", Text(safe(letter.error), style="red")),
    ]
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="dim"), value)
    return Group(table, Text("payload", style="dim"), *_payload(reply))


def _payload(reply: pb.GetDeadLetterResponse) -> list[Text]:
    if not reply.payload_json:
        return [Text(f"  {shown_bytes(reply.payload)}  (does not decode)")]
    lines = json.dumps(json.loads(reply.payload_json), indent=2, ensure_ascii=False).splitlines()
    return [Text(f"  {' ' * (len(line) - len(line.lstrip()))}{safe(line.lstrip())}") for line in lines]


def projection_table(projections: Iterable[tuple[str, pb.Projection]]) -> Table:
    """One line a projection."""
    table = _table("context", "projection", "state", "serves", "builds", "copied", "begun", "switched")
    for context, projection in projections:
        table.add_row(
            context,
            safe(projection.name),
            _state(projection_state(projection.state)),
            _generation(projection.active_generation),
            _generation(projection.building_generation),
            str(projection.copied),
            stamp_of(projection.begin_time) if projection.HasField("begin_time") else "",
            stamp_of(projection.switch_time) if projection.HasField("switch_time") else "",
        )
    return table


def audit_table(entries: Iterable[tuple[str, pb.AuditEntry]]) -> Table:
    """One line an entry."""
    table = _table("time", "context", "actor", "action", "target", "reason", "outcome")
    for context, entry in entries:
        words = (entry.actor, entry.action, entry.target, entry.reason, entry.outcome)
        table.add_row(stamp_of(entry.time), context, *map(safe, words))
    return table


def _outbox(reply: pb.GetLagResponse) -> tuple[str, str | Text]:
    if not reply.HasField("outbox"):
        return "", ""
    if not reply.outbox.HasField("oldest_age"):
        return str(reply.outbox.waiting), ""
    age = reply.outbox.oldest_age.ToTimedelta()
    late = age.total_seconds() >= LATE_SECONDS
    return str(reply.outbox.waiting), Text(duration(age), style="bold red" if late else "")


def _consumer(consumer: pb.ConsumerLag) -> tuple[str | Text, ...]:
    return (
        safe(consumer.consumer),
        _state(consumer_state(consumer.state)),
        _partitions(consumer.partitions),
        _alarming(consumer.dead_letters),
        _alarming(consumer.halted_keys),
    )


def _partitions(partitions: Sequence[pb.PartitionLag]) -> str:
    """The sum, and of which partitions most of it is."""
    if not partitions:
        return "unknown"
    total = sum(partition.lag for partition in partitions)
    behind = sorted((each for each in partitions if each.lag), key=lambda each: -each.lag)
    named = [f"{safe(each.topic)} {each.partition}:{each.lag}" for each in behind[:MAX_PARTITIONS_SHOWN]]
    more = ["..."] if len(behind) > MAX_PARTITIONS_SHOWN else []
    return f"{total} ({', '.join(named + more)})" if named else str(total)


def _generation(number: int) -> str:
    return str(number) if number else ""


def _alarming(number: int) -> Text:
    return Text(str(number), style="bold red" if number else "")


def _state(word_of_it: str) -> Text:
    return Text(word_of_it, style=STATE_STYLES.get(word_of_it, ""))


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in _RIGHT else "left",
            no_wrap=column not in _LONG,
            overflow="fold",
        )
    return table
