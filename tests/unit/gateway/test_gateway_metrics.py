"""What the gateway's edge counts: also what it refuses early, and nothing without a bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.telemetry import REGISTRY
from gateway import edge
from gateway.edge import Edge
from tests.unit.deploy.promql_names import asked
from tests.unit.deploy.test_alerts import RULES

ROOT = Path(__file__).resolve().parents[3]
CANARY = "canary-4711"


def counted(**labels: str) -> float:
    return REGISTRY.get_sample_value("http_server_requests_total", labels) or 0.0


async def ask(application: Any, *, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": method,
        "path": f"/{CANARY}",
        "query_string": b"",
        "headers": [(name.encode(), text.encode()) for name, text in (headers or {}).items()],
    }
    await Edge(application, clock=SystemClock(), new_id=new_id)(scope, receive, send)
    return statuses[0]


async def no_content(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def failing(_scope: Any, _receive: Any, _send: Any) -> None:
    raise RuntimeError


def test_what_rules_ask_of_the_gateway_is_there_before_the_first_request() -> None:
    # In a process of its own: in this one others may have made requests.
    program = (
        "from chassis.clock import SystemClock; from chassis.ids import new_id; "
        "from chassis.telemetry import REGISTRY, generate_latest; "
        "from gateway.app import create_app; "
        "create_app(None, clock=SystemClock(), new_id=new_id, with_docs=True); "
        "print(generate_latest(REGISTRY).decode())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    samples = [sample for family in text_string_to_metric_families(told.stdout) for sample in family.samples]
    selectors = [selector for rule in RULES for selector in asked(rule["expr"]).selectors]
    of_gateway = [selector for selector in selectors if selector.metric.startswith("http_server_")]
    assert len(of_gateway) > 20
    for selector in of_gateway:
        assert any(each.name == selector.metric and selector.matches(each.labels) for each in samples), (
            selector
        )
    shown = {
        (each.labels["http_method"], each.labels["http_route"], each.labels["http_status"])
        for each in samples
        if each.name == "http_server_requests_total"
    }
    failures = ("500", "502", "503", "504")
    placing, nowhere = ("POST", "/api/v1/orders"), ("GET", "none")
    assert {(*where, status) for where in (placing, nowhere) for status in failures} <= shown
    assert all(each.value == 0 for each in samples if each.name.startswith("http_server_"))


async def test_a_failure_is_logged_by_its_route_and_with_nothing_that_a_client_typed() -> None:
    async def failing_route(scope: Any, _receive: Any, _send: Any) -> None:
        scope["route"] = SimpleNamespace(path="/api/v1/orders/{order_id}")
        raise RuntimeError("a bug")

    with capture_logs() as logs:
        assert await ask(failing_route, method="GET") == 500
        assert await ask(failing, method=CANARY.upper()) == 500
    told = [(entry["event"], entry["method"], entry["route"]) for entry in logs]
    assert told == [
        ("a request failed", "GET", "/api/v1/orders/{order_id}"),
        ("a request failed", "OTHER", "none"),
    ]
    assert CANARY not in repr(logs).lower()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_of_no_route_is_counted_as_none(method: str) -> None:
    labels = {"http_method": method, "http_route": "none", "http_status": "204"}
    before = counted(**labels)
    assert await ask(no_content, method=method) == 204
    assert counted(**labels) == before + 1


async def test_a_made_up_method_is_counted_as_other() -> None:
    labels = {"http_method": "OTHER", "http_route": "none", "http_status": "204"}
    before = counted(**labels)
    await ask(no_content, method=CANARY.upper())
    assert counted(**labels) == before + 1


async def test_what_is_refused_before_a_route_is_looked_for_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    too_large = {"http_method": "GET", "http_route": "none", "http_status": "413"}
    before = counted(**too_large)
    assert await ask(no_content, headers={"content-length": "x"}) == 413
    assert counted(**too_large) == before + 1
    overloaded = {"http_method": "GET", "http_route": "none", "http_status": "503"}
    before = counted(**overloaded)
    monkeypatch.setattr(edge, "MAX_REQUESTS_IN_FLIGHT", 0)
    assert await ask(no_content) == 503
    assert counted(**overloaded) == before + 1


async def test_a_failure_is_counted_as_the_500_that_it_becomes() -> None:
    labels = {"http_method": "GET", "http_route": "none", "http_status": "500"}
    before = counted(**labels)
    assert await ask(failing) == 500
    assert counted(**labels) == before + 1


async def test_no_label_has_what_a_client_sent() -> None:
    await ask(no_content, method=CANARY.upper())
    labels = {
        value
        for family in REGISTRY.collect()
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert not {value for value in labels if CANARY in value.lower()}
