"""`python -m chassis.probe`, against real servers on the loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from chassis import probe

WITHIN_SECONDS = 60
SHORT_SECONDS = "0.5"


@contextmanager
def grpc_server(**statuses: health_pb2.HealthCheckResponse.ServingStatus) -> Iterator[str]:
    servicer = health.HealthServicer()
    for service, status in statuses.items():
        servicer.set("" if service == "process" else service, status)
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(WITHIN_SECONDS)


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/well": 200, "/nothing": 204, "/moved": 302}.get(self.path, 503))
        self.end_headers()

    def log_message(self, *_: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def http_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(WITHIN_SECONDS)


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Somebody who accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_process_that_serves_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    with grpc_server(process=health_pb2.HealthCheckResponse.SERVING) as address:
        assert probe.main(["grpc", address]) == 0
    assert capsys.readouterr().out == f"{address} is SERVING\n"


def test_a_process_lives_and_is_not_ready_while_its_database_is_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    serving, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    with grpc_server(process=serving, readiness=not_serving) as address:
        assert probe.main(["grpc", address]) == 0
        assert probe.main(["grpc", address, "readiness"]) == 1
    assert capsys.readouterr().out.splitlines()[1] == f"{address} readiness is not well: NOT_SERVING"


def test_a_service_that_is_not_known_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    with grpc_server(process=health_pb2.HealthCheckResponse.SERVING) as address:
        assert probe.main(["grpc", address, "parking"]) == 1
    assert capsys.readouterr().out == f"{address} parking is not well: NOT_FOUND\n"


@pytest.mark.parametrize(("path", "code"), [("/well", 0), ("/nothing", 0), ("/moved", 1), ("/ill", 1)])
def test_a_page_is_well_where_its_status_says_so(http_url: str, path: str, code: int) -> None:
    assert probe.main(["http", http_url + path]) == code


def test_where_nobody_listens_nobody_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    address = free_address()
    assert probe.main(["grpc", address]) == 1
    assert probe.main(["http", f"http://{address}/"]) == 1
    assert capsys.readouterr().out == (
        f"{address} is not well: UNAVAILABLE\nhttp://{address}/ is not well: ConnectionRefusedError\n"
    )


@pytest.mark.timeout(WITHIN_SECONDS)
def test_who_never_answers_is_not_waited_for(silent_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["http", f"http://{silent_address}/", "--timeout-seconds", SHORT_SECONDS]) == 1
    assert probe.main(["grpc", silent_address, "--timeout-seconds", SHORT_SECONDS]) == 1
    assert "did not answer within 0.5 s" in capsys.readouterr().out


def test_an_answer_that_is_no_http_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert probe.main(["http", f"http://127.0.0.1:{listening.getsockname()[1]}/"]) == 1
        thread.join(WITHIN_SECONDS)
    assert "is not well: IndexError" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ftp", "x"],
        ["grpc"],
        ["grpc", "localhost"],
        ["grpc", ":50051"],
        ["grpc", "a:b"],
        ["http", "https://localhost/"],
        ["http", "localhost:8080"],
        ["http", "http://localhost:99999/"],
        ["http", "http://localhost/a b"],
        ["http", "http://localhost/\r\nX: y"],
        ["http", "http://localhost/", "--timeout-seconds", "0"],
        ["http", "http://localhost/", "--timeout-seconds", "nan"],
        ["http", "http://localhost/", "--timeout-seconds", "61"],
        ["http", "http://localhost/", "--timeout-seconds", "soon"],
    ],
)
def test_wrong_usage_is_told_apart_from_not_well(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        probe.main(arguments)
    assert ended.value.code == 2


def test_as_a_command_it_ends_with_its_code_and_helps() -> None:
    command = [sys.executable, "-m", "chassis.probe"]
    unwell = subprocess.run([*command, "grpc", free_address()], check=False, timeout=WITHIN_SECONDS)
    helped = subprocess.run(
        [*command, "--help"], check=True, timeout=WITHIN_SECONDS, capture_output=True, text=True
    )
    assert unwell.returncode == 1
    assert "readiness" in helped.stdout
