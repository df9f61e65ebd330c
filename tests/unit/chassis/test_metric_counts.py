"""What is counted of RPCs and of the event loop, and that label values have a bound."""

from __future__ import annotations

import asyncio
import time

import pytest

from chassis import process_metrics
from chassis.process_metrics import watch_event_loop
from chassis.rpc_metrics import observe_call, observe_rpc, observe_unknown_rpc
from chassis.telemetry import REGISTRY

WITHIN_SECONDS = 10.0


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_rpc_that_was_answered_is_counted_with_its_time() -> None:
    method = {"grpc_service": "kitchen.v1.Kitchen", "grpc_method": "Toast"}
    observe_rpc("kitchen.v1.Kitchen", "Toast", "OK", 0.2)
    observe_rpc("kitchen.v1.Kitchen", "Toast", "OK", 0.3)
    observe_rpc("kitchen.v1.Kitchen", "Toast", "INTERNAL", 0.5)
    assert value("grpc_server_handled_total", grpc_code="OK", **method) == 2
    assert value("grpc_server_handled_total", grpc_code="INTERNAL", **method) == 1
    assert value("grpc_server_handling_seconds_sum", **method) == pytest.approx(1.0)
    assert value("grpc_server_handling_seconds_bucket", le="0.25", **method) == 1


def test_an_rpc_that_was_called_is_counted_under_the_name_of_its_method() -> None:
    class Rpc:
        _method = b"/kitchen.v1.Kitchen/Fry"

    method = {"grpc_service": "kitchen.v1.Kitchen", "grpc_method": "Fry"}
    observe_call(Rpc(), "UNAVAILABLE", 0.1)
    assert value("grpc_client_handled_total", grpc_code="UNAVAILABLE", **method) == 1
    assert value("grpc_client_handling_seconds_count", **method) == 1


def test_what_has_no_name_is_unknown() -> None:
    unknown = {"grpc_service": "unknown", "grpc_method": "unknown"}
    called = value("grpc_client_handled_total", grpc_code="OK", **unknown)
    observe_call(object(), "OK", 0.1)
    assert value("grpc_client_handled_total", grpc_code="OK", **unknown) == called + 1
    answered = value("grpc_server_handled_total", grpc_code="UNIMPLEMENTED", **unknown)
    observe_unknown_rpc()
    assert value("grpc_server_handled_total", grpc_code="UNIMPLEMENTED", **unknown) == answered + 1


async def test_an_event_loop_that_stands_still_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_metrics, "LAG_PERIOD_SECONDS", 0.01)
    name = "sagacity_event_loop_lag_seconds"
    watching = asyncio.create_task(watch_event_loop())

    async def looks(more: float) -> None:
        wanted = value(f"{name}_count") + more
        async with asyncio.timeout(WITHIN_SECONDS):
            while value(f"{name}_count") < wanted:  # noqa: ASYNC110 - a metric sets no Event
                await asyncio.sleep(0)

    try:
        await looks(1)
        late = value(f"{name}_count") - value(f"{name}_bucket", le="0.1")
        blocked_until = time.perf_counter() + 0.2
        while time.perf_counter() < blocked_until:
            pass  # what no task may do: the loop wakes nobody meanwhile
        await looks(1)
        assert value(f"{name}_count") - value(f"{name}_bucket", le="0.1") >= late + 1
    finally:
        watching.cancel()
        await asyncio.wait({watching})
