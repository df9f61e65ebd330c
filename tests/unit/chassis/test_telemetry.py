import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from chassis.rpc_metrics import observe_rpc
from chassis.telemetry import configure_logging, serve_metrics


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_names_process_and_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("orders", "json")
    structlog.contextvars.bind_contextvars(request_id="r-1")
    structlog.get_logger().info("order_placed", order="o-1")
    (line,) = lines(capsys)
    assert line["service"] == "orders"
    assert line["request_id"] == "r-1"
    assert line["event"] == "order_placed"


def test_a_record_of_the_standard_library_is_a_line_like_any_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("orders", "json")
    logging.getLogger("library").warning("something %s", "odd")
    (line,) = lines(capsys)
    assert (line["service"], line["event"], line["level"]) == ("orders", "something odd", "warning")


def sign_in(password: str) -> None:
    variable = f"shown: {password}"
    raise ValueError(len(variable))


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], log_format: Any) -> None:
    configure_logging("orders", log_format)
    try:
        sign_in("hunter2")
    except ValueError:
        structlog.get_logger().exception("failed")
    text = capsys.readouterr().out
    assert "ValueError" in text
    assert "shown: hunter2" not in text


@pytest.mark.parametrize("name", ["password", "access_token", "database_dsn", "Authorization"])
def test_a_value_with_the_name_of_a_secret_is_hidden(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logging("orders", "json")
    structlog.get_logger().info("event", **{name: "hunter2"})
    assert lines(capsys)[0][name] == "***"


def test_a_secret_that_is_bound_to_the_context_is_hidden_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("orders", "json")
    structlog.contextvars.bind_contextvars(access_token="hunter2")
    structlog.get_logger().info("event")
    logging.getLogger("library").warning("odd")
    assert [line["access_token"] for line in lines(capsys)] == ["***", "***"]


async def ask(server: asyncio.Server, request: bytes) -> bytes:
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_are_served_for_prometheus() -> None:
    observe_rpc("kitchen.v1.Kitchen", "Brew", "OK", 0.003)
    server = await serve_metrics("127.0.0.1:0")
    assert server is not None
    async with server:
        answer = await ask(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        other = await ask(server, b"GET /secrets HTTP/1.1\r\nHost: x\r\n\r\n")
        too_long = await ask(server, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    labels = b'grpc_code="OK",grpc_method="Brew",grpc_service="kitchen.v1.Kitchen"'
    assert b"grpc_server_handled_total{%b} 1.0" % labels in answer
    assert b"grpc_server_handling_seconds_bucket" in answer
    assert other.startswith(b"HTTP/1.1 404")
    assert too_long == b""


async def test_without_an_address_no_metrics_are_served() -> None:
    assert await serve_metrics("") is None
