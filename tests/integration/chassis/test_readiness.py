"""What the health services say while a real PostgreSQL goes and comes back, and when a process stops."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from chassis import readiness
from chassis.grpc_server import Server, build_server
from chassis.identity import Verifier, new_key_pair
from chassis.lifecycle import Lifecycle
from chassis.postgres import unavailable
from chassis.process import start_readiness
from chassis.readiness import FAILURES_UNTIL_NOT_READY, READINESS_SERVICE, Readiness
from deploy.local.postgres import LocalPostgres
from services.inventory.config import InventorySettings

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def _pings_follow_each_other_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PERIOD_SECONDS", POLL_SECONDS)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[LocalPostgres]:
    """Yield a server of this test's own, which it may stop."""
    server = LocalPostgres(tmp_path / "pg", fsync=False)
    server.start()
    yield server
    server.kill()


class Health:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def of(self, service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self._stub.Check(request, timeout=WAIT_SECONDS)
        return int(answer.status)

    async def until(self, status: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.of(READINESS_SERVICE) != status:  # noqa: ASYNC110 - an answer sets no Event
                await asyncio.sleep(POLL_SECONDS)


def new_server() -> Server:
    return build_server(
        domain="sagacity.test", policies={}, verifier=Verifier({"keys": [new_key_pair("gateway")[1]]})
    )


def family(postgres: LocalPostgres) -> list[int]:
    """Return the ids of the server's processes: those of its connections are its children."""
    assert postgres.pid is not None
    server = psutil.Process(postgres.pid)
    return [server.pid, *(child.pid for child in server.children(recursive=True))]


@asynccontextmanager
async def process(dsn: str) -> AsyncIterator[tuple[Lifecycle, Health]]:
    """Run what a process has of this: a lifecycle, a server, and its readiness."""
    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        server = new_server()
        await start_readiness(life, InventorySettings(database_dsn=SecretStr(dsn)), server)
        port = await server.start("127.0.0.1:0")
        life.on_stop(server.stop)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield life, Health(channel)
        life.stopping.set()
        await life.drain()


@pytest.mark.integration
async def test_readiness_follows_the_database_and_the_sign_of_life_does_not(postgres: LocalPostgres) -> None:
    async with process(postgres.admin_dsn) as (_, health):
        await health.until(SERVING)
        postgres.stop()
        await health.until(NOT_SERVING)
        assert await health.of("") == SERVING
        postgres.start()
        await health.until(SERVING)


@pytest.mark.integration
async def test_a_database_that_hangs_is_one_that_does_not_answer(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PING_SECONDS", 0.2)
    async with process(postgres.admin_dsn) as (_, health):
        await health.until(SERVING)
        pids = family(postgres)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await health.until(NOT_SERVING)
            assert await health.of("") == SERVING
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await health.until(SERVING)


@pytest.mark.integration
async def test_a_process_that_stops_takes_no_more_work_before_anything_else_is_done(
    new_database: object,
) -> None:
    assert callable(new_database)
    async with process(new_database()) as (life, health):
        await health.until(SERVING)
        may_go_on = asyncio.Event()

        async def first() -> None:
            await may_go_on.wait()

        life.on_stop(first)
        life.stopping.set()
        stop = asyncio.create_task(life.drain())
        await health.until(NOT_SERVING)
        assert await health.of("") == SERVING
        may_go_on.set()
        await stop


@pytest.mark.integration
async def test_a_process_that_has_not_asked_its_database_yet_is_not_ready() -> None:
    nobody = "postgresql://nobody@127.0.0.1:1/nothing"
    async with process(nobody) as (_, health):
        await health.until(NOT_SERVING)
        assert await health.of("") == SERVING


def pings(answers: Iterable[bool], *, then: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """Return a ping that fails where `answers` say so, and calls `then` after the last."""
    left = list(answers)

    async def ping() -> None:
        if not left:
            then()
            return
        if not left.pop(0):
            raise unavailable()

    return ping


async def told(answers: Iterable[bool]) -> list[bool]:
    """Return what is told while the database answers so; without the first and the last word."""
    stopping = asyncio.Event()
    said: list[bool] = []

    async def tell(ready: bool) -> None:
        said.append(ready)

    async with asyncio.timeout(WAIT_SECONDS):
        await Readiness(pings(answers, then=stopping.set), tell).run(stopping)
    return said


async def test_a_lost_answer_is_no_outage_and_enough_of_them_in_a_row_are() -> None:
    almost = [False] * (FAILURES_UNTIL_NOT_READY - 1)
    assert await told([True, *almost, True, *almost, True]) == [False, True, False]
    assert await told([True, *almost, False, True]) == [False, True, False, True, False]


async def test_the_first_and_the_last_word_is_that_there_is_no_work_to_be_sent() -> None:
    assert await told([True]) == [False, True, False]
