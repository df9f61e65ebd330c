"""Every alert asks for metrics that there are, says what to do, fires when it should and is only then."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cli.__main__ import app
from deploy.prometheus.catalogue import PROGRAMS
from tests.promtool import promtool_path
from tests.unit.deploy.metric_names import METRICS, wrong_in

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "prometheus"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yaml"))
TEST_FILES = sorted((FOLDER / "tests").glob("*.yaml"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
PROMTOOL_SECONDS = 110
RULES: list[dict[str, Any]] = [
    rule
    for path in RULE_FILES
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SEVERITIES = {"critical", "warning", "info"}
# What the issue wants alerts about, by words of their names.
WANTED = (
    "SagaParked", "OldestOpenSaga", "SagasOverdue", "OutboxOld", "RelayKeyStuck", "OutboxHorizonHeld",
    "ConsumerLagging", "ConsumerHalted", "ConsumerOutage", "DeadLetters", "OutboxSlotBehind",
    "OutboxSlotAway", "AvailabilityBurnsFast", "AvailabilityBurnsSlowly",
    "OrderLatencyBurnsFast", "OrderLatencyBurnsSlowly", "PoolExhausted", "BreakerOpen", "ProviderUnknown",
    "LeaseLosses", "TargetDown", "CancellationWaiting", "SpansLost",
)  # fmt: skip


def expressions_of_runbook() -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", RUNBOOK, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    inline = [
        code
        for code in re.findall(r"`([^`\n]+)`", prose())
        if re.match(r"(?:max|sum|topk)(?: by)? ?\(", code)
    ]
    return lines + inline


def commands_of_runbook() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", RUNBOOK, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    inline = re.findall(r"`(sagacity (?:sagas|events) [^`]+)`", prose())
    # In prose a verb may stand for itself, without whom it is about.
    return lines + [command for command in inline if " --" in command]


def prose() -> str:
    return re.sub(r"```.*?```", "", RUNBOOK, flags=re.DOTALL)


def entries() -> dict[str, str]:
    parts = re.split(r"^## (\w+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_there_is_an_alert_for_everything_that_an_operator_has_to_know() -> None:
    assert set(ALERTS) >= {f"Sagacity{name}" for name in WANTED}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_a_patience_and_words_with_its_value(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in SEVERITIES
    assert re.fullmatch(r"[1-9]\d*m", rule["for"])
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "{{ $value" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"


@pytest.mark.parametrize("name", ALERTS)
def test_what_an_alert_says_of_labels_is_what_its_expression_leaves(name: str) -> None:
    rule = ALERTS[name]
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
    left = {
        label for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in re.split(r",\s*", group)
    }
    if "up{" in rule["expr"] and not left:
        left = {"instance", "service"}
    assert used <= left
    assert left <= used, "a label that nobody reads is left out"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_metrics_labels_values_and_buckets_that_there_are(rule: dict[str, Any]) -> None:
    assert wrong_in(rule["expr"], RECORDED) == []


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum(saga_opened)", "there is no saga_opened"),
        ('saga_open{status="PARKED"}', "saga_open has no label status"),
        ('saga_open{state="STUCK"}', "saga_open never has state=STUCK"),
        (
            'grpc_server_handled_total{grpc_code=~"OK|OKAY"}',
            "grpc_server_handled_total never has grpc_code=OKAY",
        ),
        ("sum by (topic) (saga_open)", "nothing has the label topic"),
        ('http_server_request_seconds_bucket{le="3"}', "http_server_request_seconds_bucket has no bucket 3"),
        ("rate(http_server_request_seconds[5m])", "there is no http_server_request_seconds"),
        ("sagacity:made_up:rate5m > 1", "there is no sagacity:made_up:rate5m"),
    ],
)
def test_what_there_is_not_is_found_in_an_expression(expression: str, wrong: str) -> None:
    assert wrong_in(expression, RECORDED) == [wrong]


def test_the_metrics_that_only_alarm_are_all_asked_for_by_an_alert() -> None:
    asked_for = " ".join(rule["expr"] for rule in ALERTS.values())
    alarming = {name for name, metric in METRICS.items() if metric.look.startswith(("any:", "alarm"))}
    # The gauge tells for how long; the counter tells of the same.
    told_otherwise = {"saga_parked_age_seconds", "sagacity_outbox_horizon_alarms_total"}
    assert len(alarming) > 5
    assert {name for name in alarming - told_otherwise if name not in asked_for} == set()


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert() -> None:
    assert set(entries()) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_entry_says_what_it_means_who_sees_it_what_to_do_and_when_it_is_over(name: str) -> None:
    entry = entries()[name]
    for part in ("**Means**", "**Clients see**", "**First look**", "**Over**"):
        assert entry.count(part) == 1
    assert "**Do**" in entry or "**do**" in entry
    assert "```" in entry, "there is a command or a query to begin with"


@pytest.mark.parametrize("expression", expressions_of_runbook())
def test_the_runbook_asks_for_metrics_that_there_are(expression: str) -> None:
    assert wrong_in(expression, RECORDED) == []


@pytest.mark.parametrize("command", commands_of_runbook())
def test_the_commands_of_the_runbook_are_commands(command: str) -> None:
    # $SAGA and the like stand for what an operator fills in; they are arguments like any other.
    program, *arguments = shlex.split(command)
    assert program == "sagacity"
    command_here: Any = typer.main.get_command(app)
    name = program
    while hasattr(command_here, "commands"):
        name, *arguments = arguments
        command_here = command_here.commands[name]
    # It reads the arguments, and raises where they are not the command's; nothing is called.
    assert command_here.make_context(name, arguments).params


def test_the_runbook_has_commands_and_queries() -> None:
    assert len(commands_of_runbook()) > 15
    assert len(expressions_of_runbook()) > 25


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    fires, silent = set(), set()
    for path in TEST_FILES:
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            for check in test["alert_rule_test"]:
                (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == set(ALERTS)
    assert silent == set(ALERTS)


@pytest.mark.promtool
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.stem))
def test_the_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    done = subprocess.run(
        [promtool_path(), "test", "rules", path],
        capture_output=True,
        text=True,
        timeout=PROMTOOL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.promtool
def test_promtool_takes_the_rules_and_the_example_of_a_configuration() -> None:
    done = subprocess.run(
        [promtool_path(), "check", "config", FOLDER / "prometheus.yaml"],
        capture_output=True, text=True, timeout=PROMTOOL_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.promtool
def test_the_queries_of_the_runbook_and_of_the_dashboards_are_promql(tmp_path: Path) -> None:
    drawn = [
        target["expr"].replace("$__rate_interval", "1m")
        for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text("utf-8"))["panels"]
        for target in panel.get("targets", [])
    ]
    queries = [*expressions_of_runbook(), *drawn]
    assert len(queries) > 100
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), "utf-8")
    done = subprocess.run(
        [promtool_path(), "check", "rules", file],
        capture_output=True,
        text=True,
        timeout=PROMTOOL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_scrapes_every_program() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    (job,) = (job for job in jobs if job["job_name"] == "sagacity")
    services = {target["labels"]["service"] for target in job["static_configs"]}
    assert services == {program.rpartition(".")[2] for program in PROGRAMS}
    assert all(address.endswith(":9464") for target in job["static_configs"] for address in target["targets"])
