"""What wakes the streams: every process hears of every order, and knows when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer

from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from deploy.local.kafka import ApacheKafka
from gateway import live as live_module
from gateway.live import TOPIC, LiveUpdates
from gateway.problems import ProblemError

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

PATIENCE_SECONDS = 60.0
USER = UUID(int=1)


@asynccontextmanager
async def following(servers: str) -> AsyncIterator[LiveUpdates]:
    live = LiveUpdates(max_streams=1, max_streams_per_user=1)
    task = asyncio.create_task(live.follow(KafkaCluster(servers)))
    try:
        yield live
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_it_polls_every(live: LiveUpdates, seconds: float) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while live.poll_seconds != seconds:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)


@asynccontextmanager
async def telling(servers: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def test_every_process_hears_of_an_order_and_wakes_only_those_who_watch_it(
    kafka_bootstrap_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The broker is the session's: others read the real topic to its end, and want no junk in it.
    topic = f"sagacity.test.{new_id()}"
    monkeypatch.setattr(live_module, "TOPIC", topic)
    order_id, other_id = str(new_id()), str(new_id())
    async with (
        telling(kafka_bootstrap_servers) as producer,
        following(kafka_bootstrap_servers) as one,
        following(kafka_bootstrap_servers) as two,
    ):
        await producer.send_and_wait(topic, b"", key=str(new_id()).encode())  # which makes the topic
        await until_it_polls_every(one, live_module.POLL_SECONDS)
        await until_it_polls_every(two, live_module.POLL_SECONDS)
        with one.watch(order_id) as here, two.watch(order_id) as there, one.watch(other_id) as other:
            other.news.clear()
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                group.create_task(here.news.wait())
                group.create_task(there.news.wait())
                await producer.send_and_wait(topic, b"", key=b"")
                await producer.send_and_wait(topic, b"", key=b"\xff")
                await producer.send_and_wait(topic, b"", key=order_id.encode())
            assert not other.news.is_set()


async def test_it_knows_that_kafka_is_away_and_that_it_is_back(kafka_jars: Path, tmp_path: Path) -> None:
    broker = ApacheKafka(tmp_path / "kafka", jars=kafka_jars)
    broker.start()
    try:
        async with following(broker.bootstrap_servers) as live, telling(broker.bootstrap_servers) as producer:
            await producer.send_and_wait(TOPIC, b"", key=b"")
            await until_it_polls_every(live, live_module.POLL_SECONDS)
            broker.kill()
            await until_it_polls_every(live, live_module.POLL_WITHOUT_KAFKA_SECONDS)
            with live.watch(str(new_id())) as watcher:
                broker.launch()
                await asyncio.to_thread(broker.wait_ready)
                await until_it_polls_every(live, live_module.POLL_SECONDS)
                # What was told meanwhile was not heard.
                assert watcher.news.is_set()
    finally:
        broker.kill()


async def test_there_are_no_new_streams_once_a_process_stops() -> None:
    live = LiveUpdates(max_streams=1, max_streams_per_user=1)
    with live.place(USER), pytest.raises(ProblemError) as caught, live.place(USER):
        pass
    assert caught.value.problem.status == 429
    with live.watch("order") as watcher:
        await live.end_streams()
        assert watcher.news.is_set()
    with pytest.raises(ProblemError) as caught, live.place(USER):
        pass
    assert (caught.value.problem.status, caught.value.problem.code) == (503, "STOPPING")
