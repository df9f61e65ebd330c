"""What the engine counts. Children are looked up once: a look-up each time costs more than the count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from chassis.metric_catalogue import ORCHESTRATOR
from chassis.telemetry import counter, gauge, histogram
from orchestrator.entries import TERMINAL_STATES, State

OPEN = tuple(state for state in State if state not in TERMINAL_STATES)

# Read from the database every five seconds, by every replica.
_JOURNAL = "The same at all replicas: take the maximum, not the sum."

STARTED = counter(
    "saga_started_total",
    "Sagas that were accepted.",
    "kind",
    of=ORCHESTRATOR,
    look="none for a while under load: look at the gateway's 503s",
)
FINISHED = counter(
    "saga_finished_total",
    "Sagas that ended, COMPLETED or COMPENSATED.",
    "kind", "outcome",
    of=ORCHESTRATOR,
    look="a growing share of COMPENSATED: `sagacity sagas list --state compensated` says what for",
)  # fmt: skip
STEP_SECONDS = histogram(
    "saga_step_seconds",
    "Time of one call of a step.",
    "kind", "step", "operation", "outcome",
    of=ORCHESTRATOR,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    look='the slow step names the participant; `outcome="unknown"` is a time-out or an outage',
)  # fmt: skip
STEP_ATTEMPTS = histogram(
    "saga_step_attempts",
    "Calls that a step took until its outcome was known.",
    "kind", "step", "operation",
    of=ORCHESTRATOR,
    buckets=(1, 2, 3, 5, 8, 13, 21, 50, 100),
    look="above 1 for long: that participant answers late or not at all",
)  # fmt: skip
OPEN_SAGAS = gauge(
    "saga_open",
    f"Sagas that have not ended, by state. {_JOURNAL}",
    "state",
    of=ORCHESTRATOR,
    look="alarm at any PARKED. COMPENSATING that only grows: an undo does not get through. "
    "PAUSED: somebody forgot one",
)
OLDEST_OPEN_SECONDS = gauge(
    "saga_oldest_open_seconds",
    f"Age of the oldest saga that has not ended. {_JOURNAL}",
    of=ORCHESTRATOR,
    look="above the five minutes of a deadline: `sagacity sagas list --open --older-than 10m`",
)
PARKED_AGE_SECONDS = gauge(
    "saga_parked_age_seconds",
    f"How long the saga that is parked longest has waited for a person. {_JOURNAL}",
    of=ORCHESTRATOR,
    look="alarm, sharper with age: [what to do](operations.md#sagas-that-need-a-person)",
)
OVERDUE = gauge(
    "saga_overdue",
    f"Sagas past their deadline that have not ended. {_JOURNAL}",
    of=ORCHESTRATOR,
    look="they unwind or are past the pivot, and go on; the `saga_overdue` lines of the log say what holds "
    "them up",
)
IN_MEMORY = gauge(
    "saga_in_memory",
    "Sagas that this replica drives.",
    of=ORCHESTRATOR,
    look="near 1,000: new orders get 503. Add a replica, or see which participant is slow",
)
LEASE_LOSSES = counter(
    "saga_lease_losses_total",
    "Times that this replica renewed its lease too late.",
    of=ORCHESTRATOR,
    look="it, its host or the database stands still at times; nothing is lost. Often: raise "
    "`SAGACITY_ORCHESTRATOR_LEASE_SECONDS`",
)
CLAIMED = counter(
    "saga_claimed_total",
    "Sagas that this replica took because nobody drove them.",
    of=ORCHESTRATOR,
    look="normal after a back-off, an outage or the death of a replica",
)
FENCE_REFUSALS = counter(
    "saga_fence_refusals_total",
    "Writes refused because the saga is another's by now.",
    of=ORCHESTRATOR,
    look="the fence does its work: normal after a lease loss or a verb. All the time: replicas take sagas "
    "from each other, see lease losses",
)
ARCHIVED = counter(
    "saga_archived_total",
    "Finished sagas that were moved to the archive.",
    of=ORCHESTRATOR,
    look="none for a day: look for `lease_action_failed` with `prune` in the log",
)
BREAKER_OPEN = gauge(
    "saga_breaker_open",
    "1 while calls to a participant are held back.",
    "participant",
    of=ORCHESTRATOR,
    look="[mend the participant](operations.md#when-a-participant-is-away)",
)
HELD = counter(
    "saga_calls_held_total",
    "Calls held back by a breaker or the retry budget.",
    "participant",
    of=ORCHESTRATOR,
    look="growing with the breaker closed: the budget is used up, many retries",
)
GROUP_COMMIT_SIZE = histogram(
    "saga_group_commit_size",
    "Entries written by one commit of the journal.",
    "operation",
    of=ORCHESTRATOR,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    look="grows with load, as it should; at 256 for long the database is the limit",
)


def group_commit(operation: str) -> Callable[[int], None]:
    """What observes the sizes of one kind of batch."""
    return GROUP_COMMIT_SIZE.labels(operation).observe


@cache
def step_seconds(kind: str, step: str, operation: str, outcome: str) -> Callable[[float], None]:
    """What observes the time of one kind of call."""
    return STEP_SECONDS.labels(kind, step, operation, outcome).observe


@cache
def step_attempts(kind: str, step: str, operation: str) -> Callable[[float], None]:
    """What observes how many calls one kind of call took."""
    return STEP_ATTEMPTS.labels(kind, step, operation).observe


def show_from_the_beginning(participant: str) -> None:
    """Shows a participant's numbers before they count: for Prometheus one that appears later never rose."""
    BREAKER_OPEN.labels(participant)
    HELD.labels(participant)


@cache
def started(kind: str) -> Callable[[], None]:
    """What counts accepted sagas of a kind."""
    return STARTED.labels(kind).inc


@cache
def finished(kind: str, outcome: str) -> Callable[[], None]:
    """What counts ended sagas of a kind."""
    return FINISHED.labels(kind, outcome).inc


def show_census(rows: Iterable[Mapping[str, Any]]) -> None:
    """Set the gauges to what the journal says; rows are those of the statement `census`."""
    by_state = {row["state"]: row for row in rows}
    for state in OPEN:
        row = by_state.get(str(state))
        OPEN_SAGAS.labels(state).set(row["sagas"] if row else 0)
    OLDEST_OPEN_SECONDS.set(max((row["oldest_seconds"] for row in by_state.values()), default=0))
    parked = by_state.get(str(State.PARKED))
    PARKED_AGE_SECONDS.set(parked["stillest_seconds"] if parked else 0)
    OVERDUE.set(sum(row["overdue"] for row in by_state.values()))
