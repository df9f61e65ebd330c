"""Sagas: what runs, what is stuck, and which participant or replica it is stuck at."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Board, Row, graph, number, stacked
from deploy.grafana.promql import average, quantile, rate

_RED: Final = Row(
    "Steps: rate, errors, time",
    (
        number(
            "Parked",
            "short",
            "Sagas that wait for a person: `sagacity sagas list --state parked`.",
            'max(saga_open{state="PARKED"})',
            alert="SagacitySagaParked",
            red_from=1,
        ),
        number(
            "Overdue",
            "short",
            "Open sagas past their deadline; `saga_overdue` in the log says what holds them up.",
            "max(saga_overdue)",
            alert="SagacitySagasOverdue",
            red_from=1,
        ),
        number(
            "Oldest open",
            "s",
            "`sagacity sagas list --open --older-than 10m` names it.",
            "max(saga_oldest_open_seconds)",
            alert="SagacityOldestOpenSaga",
            red_from=900,
        ),
        number(
            "Breakers open",
            "short",
            "Participants to which calls are held back: mend them.",
            "sum(max by (participant) (saga_breaker_open))",
            alert="SagacityBreakerOpen",
            red_from=1,
        ),
        graph(
            "Calls by step",
            "reqps",
            "Calls of steps, forward and back.",
            (
                rate("saga_step_seconds_count", "kind, step, operation"),
                "{{kind}} {{operation}} {{step}}",
            ),
        ),
        graph(
            "Calls that were not done",
            "reqps",
            "`refused`: the saga turns back. `unknown`: a time-out or an outage; it is asked again.",
            (
                rate("saga_step_seconds_count", "kind, step, operation, outcome", 'outcome!="done"'),
                "{{kind}} {{operation}} {{step}} {{outcome}}",
            ),
        ),
        graph(
            "Time of a call, p95",
            "s",
            "The slow step names the participant.",
            (
                quantile(0.95, "saga_step_seconds", "kind, step, operation"),
                "{{kind}} {{operation}} {{step}}",
            ),
        ),
    ),
)
_SAGAS: Final = Row(
    "Sagas",
    (
        stacked(
            "Ended",
            "ops",
            "A growing share of COMPENSATED: `sagacity sagas list --state compensated` says what for.",
            (rate("saga_finished_total", "kind, outcome"), "{{kind}} {{outcome}}"),
        ),
        stacked(
            "Open, by state",
            "short",
            "COMPENSATING that only grows: an undo does not get through. PAUSED: somebody forgot one.",
            ("max by (state) (saga_open)", "{{state}}"),
            alert="SagacitySagaParked",
        ),
        graph(
            "Ages",
            "s",
            "Of the oldest open saga, and how long the longest parked one waits for a person.",
            ("max(saga_oldest_open_seconds)", "oldest open"),
            ("max(saga_parked_age_seconds)", "longest parked"),
            alert="SagacityOldestOpenSaga",
        ),
        graph(
            "Attempts until the outcome is known",
            "short",
            "On average; above 1 for long: that participant answers late or not at all.",
            (
                average("saga_step_attempts", "step, operation"),
                "{{operation}} {{step}}",
            ),
        ),
        graph(
            "Calls held back",
            "reqps",
            "By a breaker or the retry budget. Growing with the breaker closed: many retries.",
            (rate("saga_calls_held_total", "participant"), "{{participant}}"),
            alert="SagacityBreakerOpen",
        ),
        graph(
            "Breakers",
            "short",
            "1 while calls to a participant are held back.",
            ("max by (participant) (saga_breaker_open)", "{{participant}}"),
            alert="SagacityBreakerOpen",
        ),
    ),
)
_REPLICAS: Final = Row(
    "Replicas",
    (
        graph(
            "In memory",
            "short",
            "Near 1,000 new orders get 503. Add a replica, or see which participant is slow.",
            ("saga_in_memory", "{{instance}}"),
        ),
        graph(
            "Leases lost, writes refused",
            "ops",
            "A replica, its host or the database stood still. Nothing is lost; often it costs time.",
            (rate("saga_lease_losses_total", "instance"), "{{instance}} lost its lease"),
            (rate("saga_fence_refusals_total", "instance"), "{{instance}} was refused"),
            alert="SagacityLeaseLosses",
        ),
        graph(
            "Sagas taken over, archived",
            "ops",
            "Taken: normal after an outage or the death of a replica. Archived: none for a day is wrong.",
            (rate("saga_claimed_total", "instance"), "{{instance}} took"),
            (rate("saga_archived_total"), "archived"),
        ),
        graph(
            "Entries in a commit of the journal",
            "short",
            "On average; grows with load, as it should. At 256 for long the database is the limit.",
            (
                average("saga_group_commit_size", "operation"),
                "{{operation}}",
            ),
        ),
    ),
)
SAGAS: Final = Board(
    "sagas",
    "Sagacity: sagas",
    "What drives orders, where it is stuck, and which participant is slow.",
    (_RED, _SAGAS, _REPLICAS),
)
