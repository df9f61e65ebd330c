"""What is said of a Kafka that takes nobody: who is not there, who says nothing, who goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka.errors import KafkaConnectionError

from chassis import kafka_refusals
from chassis.kafka import KafkaCluster
from chassis.kafka_refusals import reason
from deploy.local.children import LOOPBACK, free_port

AWAY = KafkaConnectionError("Unable to bootstrap")
MAX_BYTES = 65_536


class Server:
    """Takes one connection, and either ends it or says nothing."""

    def __init__(self, *, ends: bool) -> None:
        self.taken = asyncio.Event()
        self._may_end = asyncio.Event()
        self._ended = asyncio.Event()
        if ends:
            self._may_end.set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken.set()
        # All of the request: a socket that is closed with something unread resets the connection.
        await reader.read(MAX_BYTES)
        await self._may_end.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._ended.set()

    async def end(self) -> None:
        self._may_end.set()
        await self._ended.wait()


@asynccontextmanager
async def listening(*, ends: bool) -> AsyncIterator[tuple[KafkaCluster, Server]]:
    taking = Server(ends=ends)
    server = await asyncio.start_server(taking.take, LOOPBACK, 0)
    try:
        yield KafkaCluster(f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"), taking
    finally:
        server.close()
        await taking.end()
        await server.wait_closed()


async def test_where_nobody_listens_that_is_said() -> None:
    assert "ConnectionRefusedError" in await reason(KafkaCluster(f"{LOOPBACK}:{free_port()}"), AWAY)


async def test_who_ends_the_connection_is_named() -> None:
    async with listening(ends=True) as (kafka, _):
        assert kafka.bootstrap_servers.rpartition(":")[2] in await reason(kafka, AWAY)


async def test_who_says_nothing_is_not_waited_for_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_refusals, "ASK_SECONDS", 0.05)
    async with listening(ends=False) as (kafka, _):
        assert await reason(kafka, AWAY) == "TimeoutError()"


async def test_nobody_is_asked_about_other_errors() -> None:
    assert await reason(KafkaCluster("nowhere"), ValueError("bad")) == "ValueError('bad')"


async def test_servers_that_are_no_addresses_are_an_answer_too() -> None:
    assert "ValueError" in await reason(KafkaCluster("host:port"), AWAY)


async def test_who_is_cancelled_while_asking_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_refusals, "ASK_SECONDS", 60.0)
    async with listening(ends=False) as (kafka, server):
        asking = asyncio.create_task(reason(kafka, AWAY))
        await server.taken.wait()
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        assert asking.cancelled()
