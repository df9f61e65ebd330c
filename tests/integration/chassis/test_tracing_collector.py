"""A collector that is there, away, in trouble or silent: spans arrive or are lost, and nobody waits."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE

from chassis import tracing
from chassis.config import SettingsError
from chassis.trace_metrics import SPANS
from chassis.trace_recording import CUT_OFF_SECONDS, LAST_EXPORT_SECONDS, MAX_WAITING, Recording
from deploy.local.children import free_port
from tests.integration.chassis.consuming import until
from tests.trace_collector import TraceCollector, collecting

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 30.0
# What a stop may take, and a machine that is busy with other work.
STOP_SECONDS = LAST_EXPORT_SECONDS + CUT_OFF_SECONDS + 5.0
# Four times what the queue holds.
MANY = 4 * MAX_WAITING


@pytest.fixture(autouse=True)
def _off_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield
    tracing.record_with(None)


def recording(endpoint: str, **settings: str) -> Recording:
    started = Recording.start("orders", {tracing.ENDPOINT: endpoint, **settings})
    assert started is not None
    return started


def work(times: int = 1) -> None:
    for _ in range(times):
        with tracing.rpc_server("/test.Test/Test", None):
            pass


def counted(outcome: str) -> float:
    return float(SPANS.labels(outcome)._value.get())


async def until_asked(collector: TraceCollector) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await collector.asked.wait()


async def until_lost(before: float) -> None:
    async def more_were_lost() -> bool:
        return counted("lost") > before

    await until(more_were_lost)


async def until_counted(outcome: str, expected: float) -> None:
    async def is_so() -> bool:
        return counted(outcome) == expected

    await until(is_so)


async def test_what_a_process_did_arrives_with_its_name_and_the_last_of_it_at_its_stop() -> None:
    async with collecting() as collector:
        started = recording(collector.endpoint)
        work(3)
        await started.stop()
    assert [span.name for span in collector.spans] == ["test.Test/Test"] * 3
    assert {span.process for span in collector.spans} == {"sagacity-orders"}
    assert len({span.instance for span in collector.spans}) == 1


@pytest.mark.parametrize("trouble", ["away", "refuses", "unavailable", "hangs"])
async def test_a_collector_in_trouble_holds_no_stop_up(trouble: str) -> None:
    lost = counted("lost")
    async with collecting() as collector:
        collector.hangs = trouble == "hangs"
        refusals = {"refuses": grpc.StatusCode.INVALID_ARGUMENT, "unavailable": grpc.StatusCode.UNAVAILABLE}
        collector.refuses = refusals.get(trouble)
        away = trouble == "away"
        started = recording(f"http://127.0.0.1:{free_port()}" if away else collector.endpoint)
        work(10)
        if not away:
            await until_asked(collector)
        async with asyncio.timeout(STOP_SECONDS):
            await started.stop()
        await until_lost(lost)
    assert collector.spans == []


async def test_what_a_silent_collector_leaves_no_room_for_is_counted_and_told_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost, sent = counted("lost"), counted("sent")
    async with collecting() as collector:
        collector.hangs = True
        started = recording(collector.endpoint)
        work()
        await until_asked(collector)
        await asyncio.to_thread(work, MANY)
        # The one that is being sent is not known to be lost yet, and as many wait as may.
        assert counted("lost") == lost + MANY - MAX_WAITING
        assert capsys.readouterr().out.count("traces_lost") == 1
        async with asyncio.timeout(STOP_SECONDS):
            await started.stop()
        await until_counted("lost", lost + 1 + MANY)
    assert counted("sent") == sent
    assert "traces_" not in capsys.readouterr().out


async def test_every_span_is_sent_or_lost_where_the_queue_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, sent = counted("lost"), counted("sent")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    async with collecting() as collector:
        collector.hangs = True
        started = recording(collector.endpoint, **{OTEL_BSP_MAX_QUEUE_SIZE: "16"})
        work()
        await until_asked(collector)
        await asyncio.to_thread(work, 100)
        assert counted("lost") == lost + 100 - 16
        async with asyncio.timeout(STOP_SECONDS):
            await started.stop()
        await until_counted("lost", lost + 101)
    assert counted("sent") == sent


@pytest.mark.parametrize("size", ["none", "0", "-1"])
def test_a_queue_that_cannot_be_is_refused(size: str) -> None:
    with pytest.raises(SettingsError):
        recording("http://127.0.0.1:1", **{OTEL_BSP_MAX_QUEUE_SIZE: size})


async def test_spans_are_sent_again_once_the_collector_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    async with collecting() as collector:
        collector.refuses = grpc.StatusCode.INVALID_ARGUMENT
        started = recording(collector.endpoint)
        lost = counted("lost")
        work()
        await until_asked(collector)
        await until_lost(lost)
        collector.refuses = None
        work()

        async def is_there() -> bool:
            return bool(collector.spans)

        await until(is_there)
        await started.stop()
    assert len(collector.spans) == 1
    said = capsys.readouterr().out
    assert (said.count("traces_lost"), said.count("traces_sent_again")) == (1, 1)
