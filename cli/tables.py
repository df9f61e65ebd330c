"""Sagas, timelines and plans as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.output import safe, word
from sagacity.sagas.v1 import sagas_pb2

INTENDED = "intended"
REQUESTED = "requested"
STATE_STYLES = {
    "running": "cyan",
    "compensating": "yellow",
    "waiting": "blue",
    "paused": "magenta",
    "parked": "bold red",
    "completed": "green",
    "compensated": "dim",
}
_OUTCOME_STYLES = {
    INTENDED: "dim",
    "done": "green",
    "refused": "red",
    "unknown": "yellow",
    REQUESTED: "magenta",
}
_RIGHT = frozenset({"#", "age", "tries", "after", "took", "open", "parked", "version", "try"})


def state_of(state: int) -> str:
    """The word for a state."""
    return word(sagas_pb2.SagaState.DESCRIPTOR, state)


def state_text(state: int) -> Text:
    """The word for a state, coloured."""
    shown = state_of(state)
    return Text(shown, style=STATE_STYLES.get(shown, ""))


def duration(span: timedelta) -> str:
    """A span in the unit that people would take: 12 ms, 3.4 s, 5m 20s, 3h 05m, 12d 4h."""
    seconds = max(span.total_seconds(), 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def saga_table(sagas: Iterable[sagas_pb2.Saga], now: datetime) -> Table:
    """One line a saga."""
    table = _table("saga", "kind", "state", "age", "step", "tries", "fingerprint", "waits for", "last error")
    for saga in sagas:
        step = saga.step or (saga.refusal.step if saga.HasField("refusal") else "")
        age = duration(now - moment_of(saga.create_time))
        table.add_row(
            saga.id,
            f"{safe(saga.kind)} v{saga.version}",
            state_text(saga.state),
            Text(age, style="bold red" if saga.overdue else ""),
            safe(step),
            str(saga.attempts or ""),
            safe(saga.error_fingerprint),
            safe(saga.waiting_for),
            safe(saga.last_error),
        )
    return table


def saga_facts(saga: sagas_pb2.Saga, now: datetime) -> Table:
    """One saga, a line a fact."""
    table = Table.grid(padding=(0, 2))
    rows: list[tuple[str, str | Text]] = [
        ("saga", saga.id),
        ("kind", f"{safe(saga.kind)} v{saga.version}"),
        ("state", state_text(saga.state)),
        ("order", saga.order_id),
        ("accepted", f"{stamp_of(saga.create_time)}, {duration(now - moment_of(saga.create_time))} ago"),
        ("changed", f"{stamp_of(saga.update_time)}, {duration(now - moment_of(saga.update_time))} ago"),
        ("deadline", f"{stamp_of(saga.deadline_time)}{' (overdue)' if saga.overdue else ''}"),
        ("step", safe(saga.step)),
        ("tries", str(saga.attempts or "")),
        ("next try", stamp_of(saga.next_attempt_time) if saga.HasField("next_attempt_time") else ""),
        ("waits for", safe(saga.waiting_for)),
        ("pivot", "intended: it only goes forward" if saga.pivot_intended else ""),
        ("driven by", _driver(saga)),
        ("last error", safe(saga.last_error)),
        ("fingerprint", safe(saga.error_fingerprint)),
    ]
    if saga.HasField("refusal"):
        refusal = saga.refusal
        at = f" at {refusal.step}" if refusal.step else ""
        rows.append(("refusal", Text(safe(f"{refusal.reason}{at}: {refusal.message}"), style="red")))
        rows += [("", safe(f"{detail.subject}: {detail.description}")) for detail in refusal.details]
    for name, value in rows:
        if value:
            table.add_row(Text(name, style="dim"), value)
    return table


def timeline(entries: Sequence[sagas_pb2.TimelineEntry]) -> Table:
    """One line an entry: when, how long after the one before, and for an outcome how long its call took."""
    table = _table("#", "time", "after", "entry", "try", "outcome", "took", "detail")
    begun: dict[tuple[str, str], datetime] = {}
    before: datetime | None = None
    for entry in entries:
        moment, call = moment_of(entry.time), (entry.step, entry.operation)
        took = ""
        if entry.step and entry.outcome != INTENDED and call in begun:
            took = duration(moment - begun[call])
        begun[call] = moment
        table.add_row(
            str(entry.sequence),
            moment.strftime("%H:%M:%S.%f")[:-3],
            "" if before is None else duration(moment - before),
            safe(f"{entry.operation} {entry.step}".strip()),
            str(entry.attempt or ""),
            Text(safe(entry.outcome), style=_OUTCOME_STYLES.get(entry.outcome, "")),
            took,
            safe(_detail(entry)),
        )
        before = moment
    return table


def steps(entries: Sequence[sagas_pb2.TimelineEntry]) -> Table:
    """One line a call of a step: how often it was tried, what became of it, how long all of it took."""
    table = _table("step", "tries", "outcome", "took")
    begun: dict[tuple[str, str], datetime] = {}
    last: dict[tuple[str, str], sagas_pb2.TimelineEntry] = {}
    for entry in entries:
        if entry.step and entry.outcome != REQUESTED:
            call = (entry.operation, entry.step)
            begun.setdefault(call, moment_of(entry.time))
            last[call] = entry
    for call, entry in last.items():
        ended = entry.outcome != INTENDED
        table.add_row(
            safe(" ".join(call)),
            str(entry.attempt or ""),
            Text(safe(entry.outcome), style=_OUTCOME_STYLES.get(entry.outcome, "")),
            duration(moment_of(entry.time) - begun[call]) if ended else "",
        )
    return table


def whole(saga: sagas_pb2.Saga, entries: Sequence[sagas_pb2.TimelineEntry], now: datetime) -> Group:
    """A saga, its timeline, and what its steps took."""
    return Group(saga_facts(saga, now), timeline(entries), steps(entries))


def plan(preview: sagas_pb2.PreviewResponse) -> Group:
    """The calls that a verb would send, and where the saga would stand then."""
    end = Text("then: ").append(state_text(preview.state))
    if not preview.calls:
        return Group(Text("no calls"), end)
    table = _table("#", "entry", "rpc", "request")
    for number, call in enumerate(preview.calls, start=1):
        request = safe(call.request_json) or "(depends on replies that are not known yet)"
        table.add_row(str(number), safe(f"{call.operation} {call.step}"), safe(call.rpc), request)
    return Group(table, end)


def definitions(uses: Iterable[sagas_pb2.DefinitionUse]) -> Table:
    """One line a version of a definition."""
    table = _table("kind", "version", "definition", "open", "parked", "this code")
    for use in uses:
        if use.loadable:
            verdict = Text("drives it", style="green")
        else:
            verdict = Text("does not have it", style="bold red")
        parked = Text(str(use.parked), style="bold red" if use.parked else "")
        cells = (safe(use.kind), str(use.version), safe(use.definition_hash), str(use.open), parked, verdict)
        table.add_row(*cells)
    return table


def _detail(entry: sagas_pb2.TimelineEntry) -> str:
    asked = f"{entry.actor}: {entry.reason}" if entry.actor or entry.reason else ""
    return "; ".join(filter(None, (asked, entry.detail)))


def _driver(saga: sagas_pb2.Saga) -> str:
    ended = saga.state in {sagas_pb2.SAGA_STATE_COMPLETED, sagas_pb2.SAGA_STATE_COMPENSATED}
    return "" if ended else f"{safe(saga.owner) or 'nobody'} (epoch {saga.epoch})"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        long = column in {"detail", "last error", "request", "rpc"}
        table.add_column(
            column, justify="right" if column in _RIGHT else "left", no_wrap=not long, overflow="fold"
        )
    return table


def moment_of(stamp: Timestamp) -> datetime:
    """A time of a message, aware."""
    return stamp.ToDatetime(tzinfo=UTC)


def stamp_of(stamp: Timestamp) -> str:
    """A time of a message, for people."""
    return f"{moment_of(stamp).strftime('%Y-%m-%d %H:%M:%S')} UTC"
