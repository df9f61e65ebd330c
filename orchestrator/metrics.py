"""What the engine counts. Children are looked up once: a look-up each time costs more than the count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from chassis.telemetry import counter, gauge, histogram
from orchestrator.entries import TERMINAL_STATES, State

OPEN = tuple(state for state in State if state not in TERMINAL_STATES)

STARTED = counter("saga_started_total", "Sagas that were accepted.", "kind")
FINISHED = counter("saga_finished_total", "Sagas that ended, by how.", "kind", "outcome")
STEP_SECONDS = histogram(
    "saga_step_seconds",
    "Time of one call of a step.",
    "kind", "step", "operation", "outcome",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)  # fmt: skip
STEP_ATTEMPTS = histogram(
    "saga_step_attempts",
    "Calls that a step took until its outcome was known.",
    "kind", "step", "operation",
    buckets=(1, 2, 3, 5, 8, 13, 21, 50, 100),
)  # fmt: skip
OPEN_SAGAS = gauge("saga_open", "Sagas that have not ended, by state.", "state")
OLDEST_OPEN_SECONDS = gauge("saga_oldest_open_seconds", "Age of the oldest saga that has not ended.")
PARKED_AGE_SECONDS = gauge("saga_parked_age_seconds", "How long the saga that is parked longest has been so.")
OVERDUE = gauge("saga_overdue", "Sagas past their deadline that have not ended.")
IN_MEMORY = gauge("saga_in_memory", "Sagas that this replica drives.")
LEASE_LOSSES = counter(
    "saga_lease_losses_total", "Times that this replica could not renew its lease in time."
)
CLAIMED = counter("saga_claimed_total", "Sagas that this replica took from nobody or from a dead replica.")
FENCE_REFUSALS = counter("saga_fence_refusals_total", "Writes refused because another replica has the saga.")
ARCHIVED = counter("saga_archived_total", "Finished sagas that were moved to the archive.")
BREAKER_OPEN = gauge("saga_breaker_open", "1 while calls to a participant are held back.", "participant")
HELD = counter("saga_calls_held_total", "Calls held back by a breaker or the retry budget.", "participant")
GROUP_COMMIT_SIZE = histogram(
    "saga_group_commit_size",
    "Entries written by one commit of the journal.",
    "operation",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
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
