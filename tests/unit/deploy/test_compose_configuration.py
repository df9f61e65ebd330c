"""What deploy/compose.yaml tells the containers of others, by variables and by files that it mounts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from chassis.topics import RETENTION_MS

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "compose"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
# What the collector takes where nothing is said.
DEFAULT_BATCH_SIZE = 8192
# A trace of an order has some forty spans; in memory no more than this.
MAX_TRACE_BYTES = 150_000
# haproxy's tune.bufsize, one for each direction; beside them, what a connection costs otherwise.
BUFFER_BYTES = 16_384
CONNECTION_BYTES = 8_192
METRICS_PORT = 8888
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def loaded(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / name).read_text("utf-8")))


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kmg])", text)
    assert match, text
    return int(match.group(1)) * UNITS[match.group(2)]


def test_the_collectors_batch_is_sent_before_it_is_larger_than_allowed() -> None:
    batch = loaded("otel-collector.yaml")["processors"]["batch"]
    assert batch.get("send_batch_size", DEFAULT_BATCH_SIZE) <= batch["send_batch_max_size"]


def test_the_collector_refuses_spans_before_its_container_is_full() -> None:
    # Measured with Jaeger away: 33 MB above the limit of the heap. What came between two looks comes on top.
    limit = loaded("otel-collector.yaml")["processors"]["memory_limiter"]["limit_mib"] * UNITS["m"]
    assert limit <= size(SERVICES["otel-collector"]["mem_limit"]) * 0.65


@pytest.mark.parametrize("name", ["otel-collector.yaml", "jaeger.yaml"])
def test_what_a_pipeline_names_is_configured_and_the_other_way_round(name: str) -> None:
    configured = loaded(name)
    pipeline = configured["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == configured[kind].keys()
    assert set(configured["service"].get("extensions", [])) == configured.get("extensions", {}).keys()


@pytest.mark.parametrize("name", ["otel-collector", "jaeger"])
def test_what_has_no_health_check_is_scraped(name: str) -> None:
    metrics = loaded(f"{name}.yaml")["service"]["telemetry"]["metrics"]
    assert metrics["level"] != "none"
    (reader,) = metrics["readers"]
    assert reader["pull"]["exporter"]["prometheus"] == {"host": "0.0.0.0", "port": METRICS_PORT}  # noqa: S104
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    scraped = {
        target: job["job_name"]
        for job in jobs
        for targets in job["static_configs"]
        for target in targets["targets"]
    }
    # SagacityTargetDown looks at these jobs.
    assert re.match("sagacity", scraped[f"{name}:{METRICS_PORT}"])
    assert "telemetry" in SERVICES[name]["networks"]
    assert "telemetry" in SERVICES["prometheus"]["networks"]


def test_the_traces_that_jaeger_keeps_fit_half_of_its_memory() -> None:
    backends = loaded("jaeger.yaml")["extensions"]["jaeger_storage"]["backends"]
    (kept,) = [backend["memory"]["max_traces"] for backend in backends.values()]
    # Up to 10 % more: an order's trace is between 100 and 150 KB.
    assert 0 < kept * MAX_TRACE_BYTES <= size(SERVICES["jaeger"]["mem_limit"]) * 0.6


def test_which_part_of_the_traces_is_recorded_is_one_variable_for_all_processes() -> None:
    for name, service in SERVICES.items():
        environment = service.get("environment", {})
        if "OTEL_EXPORTER_OTLP_ENDPOINT" in environment:
            assert environment["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio", name
            assert environment["OTEL_TRACES_SAMPLER_ARG"] == "${OTEL_TRACES_SAMPLER_ARG:-1}", name


def test_kafka_logs_to_standard_output_alone() -> None:
    kafka = SERVICES["kafka"]
    # Anything at all keeps the image from logging garbage collections into files; this turns them off.
    assert kafka["environment"]["KAFKA_GC_LOG_OPTS"] == "-Xlog:gc=off"
    told = kafka["environment"]["KAFKA_LOG4J_OPTS"].partition("=")[2]
    assert f"./compose/kafka-log4j2.properties:{told}:ro" in kafka["volumes"]
    lines = (FOLDER / "kafka-log4j2.properties").read_text("utf-8").splitlines()
    kinds = {line.partition(" = ")[2] for line in lines if re.match(r"appender\.\w+\.type ", line)}
    assert kinds == {"Console"}
    assert "rootLogger.appenderRef.console.ref = console" in lines


def test_kafka_keeps_events_for_as_long_as_the_operators_page_says() -> None:
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_RETENTION_MS"] == str(RETENTION_MS)
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert page.count(f"retention.ms={RETENTION_MS}") == 2


def test_what_kafka_writes_into_memory_leaves_room_for_its_heap() -> None:
    kafka = SERVICES["kafka"]
    sizes = [re.search(r"size=(\w+)", mount) for mount in kafka["tmpfs"]]
    assert all(sizes)
    match = re.search(r"-Xmx(\w+)", kafka["environment"]["KAFKA_HEAP_OPTS"])
    assert match
    used = size(match.group(1)) + sum(size(found.group(1)) for found in sizes if found)
    # A quarter of the limit is for what Java needs beside its heap.
    assert used <= size(kafka["mem_limit"]) * 0.75


def test_the_connections_that_the_proxy_takes_fit_its_memory() -> None:
    match = re.search(r"^ *maxconn (\d+)$", (FOLDER / "haproxy.cfg").read_text("utf-8"), re.MULTILINE)
    assert match
    needed = int(match.group(1)) * (2 * BUFFER_BYTES + CONNECTION_BYTES)
    assert needed <= size(SERVICES["proxy"]["mem_limit"]) / 2


def proxy_says(pattern: str) -> str:
    """Return what the last group of the pattern matched, or all of it where it has no group."""
    found = re.search(rf"^ *{pattern}$", (FOLDER / "haproxy.cfg").read_text("utf-8"), re.MULTILINE)
    assert found, pattern
    return str(found[found.re.groups])


def test_the_proxy_has_no_more_threads_than_the_cores_that_it_may_use() -> None:
    # Where nothing is said it takes one for each of the host's, and every one counts as a process.
    assert int(proxy_says(r"nbthread (\d+)")) <= max(1, SERVICES["proxy"]["cpus"])


def test_the_proxy_logs_what_failed_though_not_every_request() -> None:
    assert proxy_says(r"log stdout .* (\w+)") in {"notice", "warning", "err"}
    proxy_says("option httplog")
    proxy_says("option log-separate-errors")


def test_the_proxy_stops_long_before_it_is_killed_whoever_is_connected() -> None:
    last = int(proxy_says(r"hard-stop-after (\d+)s"))
    grace = int(SERVICES["proxy"]["stop_grace_period"].removesuffix("s"))
    assert 0 < last <= grace / 2
    page = " ".join((ROOT / "docs" / "how-to" / "compose.md").read_text("utf-8").split())
    assert f"{last} s at most" in page


@pytest.mark.parametrize("name", sorted(name for name in SERVICES if name.endswith("-database")))
def test_a_database_is_healthy_once_it_has_the_roles_of_its_first_start(name: str) -> None:
    kind, command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert "rolname = '$${POSTGRES_DB}_service'" in command
    # One role tells of all that the script does only where it does all of it or nothing.
    lines = (FOLDER / "create-roles.sql").read_text("utf-8").splitlines()
    statements = [line for line in lines if re.match("[A-Z]", line)]
    assert (statements[0], statements[-1]) == ("BEGIN;", "COMMIT;")
    assert any(line.startswith('CREATE ROLE :"service"') for line in statements)
    assert r"\set service :name '_service'" in lines
