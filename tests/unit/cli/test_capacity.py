"""`sagacity capacity`: what is typed is checked, and what comes out is a plan."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from cli import capacity_tables
from cli.__main__ import run
from cli.capacity_costs import DATABASES, PROCESSES, TOPICS, measured
from cli.capacity_model import plan
from cli.capacity_workload import BOUNDS, Workload
from cli.failures import ExitCode

RATE = "--orders-per-second"
ABSURD = ("nan", "inf", "-inf", "-1", "1e30", "1e999")
WHOLE = ("zones", "retention_days")


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("value", [*ABSURD, "0", "many", ""])
def test_a_rate_that_is_none_is_a_usage_error_that_names_the_option(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["capacity", RATE, value]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert RATE in said.err
    assert said.err.endswith("(USAGE)\n")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in BOUNDS if name != "orders_per_second"])
@pytest.mark.parametrize("value", [*ABSURD, "9" * 400, "some"])
def test_every_other_option_refuses_what_is_absurd(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["capacity", RATE, "10", option(name), value]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert option(name) in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", [name for name in BOUNDS if name != "orders_per_second"])
def test_every_option_takes_both_ends_of_its_bounds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for end in BOUNDS[name]:
        value = str(int(end)) if name in WHOLE else str(end)
        assert run(["capacity", RATE, "0.5", option(name), value, "--json"]) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["workload"][name] == end


def test_a_peak_beyond_what_the_model_covers_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["capacity", RATE, "50000", "--peak-factor", "3"]) == ExitCode.USAGE
    assert "--peak-factor" in capsys.readouterr().err


def test_without_a_rate_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["capacity"]) == ExitCode.USAGE
    assert RATE in capsys.readouterr().err


def test_the_json_has_every_process_database_and_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["capacity", RATE, "100", "--json"]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    made = answer["plan"]
    assert [each["name"] for each in made["processes"]] == list(PROCESSES)
    assert [each["name"] for each in made["databases"]] == list(DATABASES)
    assert [each["name"] for each in made["topics"]] == list(TOPICS)
    assert answer["measured"]["date"] == measured().date
    assert made["fills_first"]["orders_per_second"] >= 100


def test_the_table_says_what_the_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    run(["capacity", RATE, "100", "--json"])
    made = json.loads(capsys.readouterr().out)["plan"]
    assert run(["capacity", RATE, "100"]) == ExitCode.OK
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for each in made["processes"]:
        assert [each["name"], str(each["replicas"]), str(each["needed_at_peak"])] in [
            row[:3] for row in shown
        ]
    for each in made["databases"]:
        assert [each["name"], str(each["cores"]), str(each["connections"])] in [row[:3] for row in shown]
    for each in made["topics"]:
        assert [each["name"], str(each["partitions"])] in [row[:2] for row in shown]


@pytest.mark.parametrize(
    "workload",
    [
        Workload(0.001),
        Workload(100),
        Workload(33_333, zones=3, utilisation=0.3, order_seconds=30, retention_days=3_650),
        Workload(
            50_000,
            peak_factor=2,
            items_per_order=100,
            reads_per_order=10_000,
            logins_per_order=100,
            order_seconds=300,
            utilisation=0.1,
            zones=2,
            retention_days=3_650,
        ),
    ],
    ids=["least", "usual", "large", "most"],
)
def test_a_terminal_of_80_columns_shows_every_number_whole(workload: Workload) -> None:
    costs = measured()
    tables = capacity_tables.of(workload, plan(workload, costs), costs)

    def words(width: int) -> Counter[str]:
        said = io.StringIO()
        Console(file=said, width=width, color_system=None).print(tables)
        assert all(len(line) <= width for line in said.getvalue().splitlines())
        return Counter(word for word in said.getvalue().split() if word.strip("─"))

    assert words(80) == words(500)


def test_the_costs_are_whole_and_none_is_absurd() -> None:
    costs = measured()
    for process in PROCESSES:
        assert 0 < costs.memory_mib[process] < 4_096
        assert any(0 < costs.process_seconds[kind][process] < 1 for kind in costs.process_seconds)
    for database in DATABASES:
        assert 0 < costs.database_seconds["confirmed"][database] < 1
        assert 0 < costs.wal_bytes["confirmed"][database] < 1_000_000
    for topic in TOPICS[:3]:
        assert 1 <= costs.events["confirmed"][topic] < 20
        assert 0 < costs.topic_bytes["confirmed"][topic] < 100_000
    assert costs.lines_of_many > 1
    assert costs.backend_mib > 0
    assert costs.consumer_events_per_second > 0
    assert costs.orders_per_second > 0
    assert 0 <= costs.background_share["confirmed"] < 1
    assert costs.relay_events_per_second > 0
    assert "make bench-events" in costs.relay_source
