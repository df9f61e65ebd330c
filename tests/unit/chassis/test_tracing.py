import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler

from chassis import tracing
from chassis.config import SettingsError
from chassis.errors import Fault, FaultKind
from chassis.trace_recording import CountingExporter, Recording

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
PATH = "/sagacity.orders.v1.Orders/GetOrder"
SECRET = "canary@example.com"


class Memory:
    """What was recorded, without a collector."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracing.record_with(Recording(provider, CountingExporter(self.exporter)))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def one(self) -> ReadableSpan:
        (span,) = self.spans
        return span


@pytest.fixture(autouse=True)
def _off_afterwards() -> Iterator[None]:
    yield
    tracing.record_with(None)


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def parent_id(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


@pytest.mark.parametrize("given", [GIVEN, UNSAMPLED, f"00-{TRACE}-{SPAN}-03"])
def test_a_traceparent_is_handed_on_as_it_came(given: str) -> None:
    trace = tracing.parse(given)
    assert trace is not None
    assert trace.traceparent == given


def test_flags_that_nobody_knows_are_dropped_and_a_later_version_is_read_as_ours() -> None:
    trace = tracing.parse(f"01-{TRACE}-{SPAN}-ff-what-comes-later")
    assert trace is not None
    assert trace.traceparent == f"00-{TRACE}-{SPAN}-03"


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        7,
        GIVEN.encode(),
        GIVEN.upper(),
        GIVEN + "\n",
        " " + GIVEN,
        GIVEN + "-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE.replace('0', '٠')}-{SPAN}-01",  # noqa: RUF001 - digits of another script
        f"01-{TRACE}-{SPAN}-01more",
        f"01-{TRACE}-{SPAN}-01-a\nb",
        "01-" + TRACE + "-" + SPAN + "-01-" + "a" * tracing.MAX_TRACEPARENT_CHARACTERS,
    ],
)
def test_what_is_no_traceparent_by_the_grammar_is_none(given: object) -> None:
    assert tracing.parse(given) is None


@given(st.text())
def test_any_text_is_a_traceparent_or_none_and_never_an_error(text: str) -> None:
    trace = tracing.parse(text)
    assert trace is None or tracing.parse(trace.traceparent) == trace


def test_a_trace_is_handed_on_while_nothing_is_recorded() -> None:
    with tracing.rpc_server(PATH, GIVEN):
        assert tracing.current() == GIVEN
        with tracing.statement("get_order") as span:
            assert span is tracing.NOTHING
            assert tracing.current() == GIVEN
    assert tracing.current() is None


def test_without_a_trace_and_a_recorder_there_are_no_objects_at_all() -> None:
    made = [
        tracing.http_request("GET", "nonsense"),
        tracing.rpc_server(PATH, None),
        tracing.rpc_client(object()),
        tracing.statement("get_order"),
        tracing.saga_step("payment", "do", attempt=1, participant="payments"),
        tracing.event_sent("orders", event_id="e", event_type="t", traceparent=GIVEN),
    ]
    assert all(span is tracing.NOTHING for span in made)


def test_what_comes_without_a_trace_does_not_get_that_of_before() -> None:
    with (
        tracing.rpc_server(PATH, GIVEN),
        tracing.event_processed("orders", "users", event_id="e", event_type="t", traceparent="junk"),
    ):
        assert tracing.current() is None


async def test_a_task_has_the_trace_of_who_began_it_and_keeps_its_own_to_itself() -> None:
    async def deeper() -> str | None:
        with tracing.rpc_server(PATH, UNSAMPLED):
            await asyncio.sleep(0)
            return tracing.current()

    with tracing.rpc_server(PATH, GIVEN):
        task = asyncio.create_task(deeper())
        assert await task == UNSAMPLED
        assert tracing.current() == GIVEN


def test_an_entry_goes_on_with_the_trace_and_its_parts_are_its_children() -> None:
    memory = Memory()
    with tracing.rpc_server(PATH, GIVEN):
        with tracing.statement("get_order"):
            pass
        handed = tracing.current()
    statement, server = memory.spans
    assert (parent_id(statement), parent_id(server)) == (span_id(server), int(SPAN, 16))
    assert handed == f"00-{TRACE}-{span_id(server):016x}-01"
    assert server.name == "sagacity.orders.v1.Orders/GetOrder"
    assert server.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "sagacity.orders.v1.Orders",
        "rpc.method": "GetOrder",
    }
    assert statement.attributes == {"db.system.name": "postgresql", "db.query.summary": "get_order"}


def test_a_statement_of_a_poll_makes_no_trace() -> None:
    memory = Memory()
    with tracing.statement("advance_outbox"), tracing.rpc_client(object()):
        assert tracing.current() is None
    assert memory.spans == []


def test_a_trace_that_is_not_sampled_is_handed_on_and_not_recorded() -> None:
    memory = Memory()
    with tracing.rpc_server(PATH, UNSAMPLED):
        handed = tracing.current()
        with tracing.statement("get_order"):
            assert tracing.current() == handed
    assert memory.spans == []
    assert handed is not None
    assert handed.startswith(f"00-{TRACE}-")
    assert handed.endswith("-00")


def test_the_sampler_decides_where_a_trace_begins_and_the_parent_where_there_is_one() -> None:
    memory = Memory(ParentBased(ALWAYS_OFF))
    with tracing.http_request("GET", None):
        pass
    assert memory.spans == []
    with tracing.http_request("GET", GIVEN):
        pass
    assert memory.one().name == "GET"


def test_a_request_is_named_by_its_route_and_never_by_its_path() -> None:
    memory = Memory()
    with tracing.http_request("POST", None) as span:
        tracing.http_answered(span, "POST", "/api/v1/orders/{order_id}", 503)
    recorded = memory.one()
    assert recorded.name == "POST /api/v1/orders/{order_id}"
    assert recorded.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/v1/orders/{order_id}",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert not recorded.status.is_ok


def test_a_method_that_somebody_made_up_is_not_recorded() -> None:
    memory = Memory()
    with tracing.http_request(SECRET, None) as span:
        tracing.http_answered(span, SECRET, "/api/v1/orders", 405)
    assert SECRET not in memory.one().to_json()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Fault(FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", SECRET), "UNAVAILABLE"),
        (ValueError(SECRET), "ValueError"),
        (asyncio.CancelledError(SECRET), "CancelledError"),
    ],
)
def test_an_error_is_told_by_its_kind_and_never_by_its_text(error: BaseException, expected: str) -> None:
    memory = Memory()
    with pytest.raises(type(error)), tracing.rpc_server(PATH, None):
        raise error
    recorded = memory.one()
    assert recorded.attributes is not None
    assert recorded.attributes["error.type"] == expected
    assert not recorded.status.is_ok
    assert recorded.events == ()
    assert SECRET not in recorded.to_json()


def test_a_refusal_is_no_error_of_the_server_that_refuses() -> None:
    memory = Memory()
    with tracing.rpc_server(PATH, None) as span:
        span.refused(Fault(FaultKind.FAILED_PRECONDITION, "CARD_DECLINED", SECRET))
    recorded = memory.one()
    assert recorded.attributes is not None
    assert recorded.attributes["sagacity.reason"] == "CARD_DECLINED"
    assert recorded.attributes["rpc.grpc.status_code"] == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert recorded.status.is_unset
    assert SECRET not in recorded.to_json()


def test_a_sent_event_hands_its_own_span_on() -> None:
    memory = Memory()
    span = tracing.event_sent("orders", event_id="e-1", event_type="t", traceparent=GIVEN)
    span.end()
    recorded = memory.one()
    assert span.traceparent == f"00-{TRACE}-{span_id(recorded):016x}-01"
    assert parent_id(recorded) == int(SPAN, 16)


def test_lines_of_the_log_name_the_trace_only_where_there_is_one() -> None:
    def line() -> dict[str, Any]:
        return tracing.name_trace(None, "info", {"event": "order_placed"})

    assert copy_context().run(line) == {"event": "order_placed"}
    with tracing.rpc_server(PATH, GIVEN):
        assert line() == {"event": "order_placed", "trace_id": TRACE, "span_id": SPAN}


@pytest.mark.parametrize("environment", [{}, {tracing.ENDPOINT: " "}])
def test_nothing_is_recorded_where_no_collector_is_named(environment: dict[str, str]) -> None:
    assert Recording.start("orders", environment) is None


def test_opentelemetrys_own_switch_turns_it_off() -> None:
    environment = {tracing.ENDPOINT: "http://127.0.0.1:4317", "OTEL_SDK_DISABLED": "true"}
    assert Recording.start("orders", environment) is None


@pytest.mark.parametrize(
    "endpoint", ["canary:4317", "ftp://canary", "http://", "canary", "http://[canary", "http://canary:port"]
)
def test_an_address_that_is_none_is_a_setting_that_is_wrong_and_is_not_shown(endpoint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Recording.start("orders", {tracing.ENDPOINT: endpoint})
    assert tracing.ENDPOINT in str(caught.value)
    assert "canary" not in str(caught.value)


class Failing(SpanExporter):
    """An exporter whose collector is there by turns."""

    def __init__(self, answers: list[SpanExportResult]) -> None:
        self.answers = answers

    def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002 - the interface has it
        return self.answers.pop(0)


def test_an_outage_of_the_collector_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    exporter = CountingExporter(Failing([good, bad, bad, good, good]))
    for _ in range(5):
        exporter.export([])
    said = capsys.readouterr().out
    assert (said.count("traces_lost"), said.count("traces_sent_again")) == (1, 1)
