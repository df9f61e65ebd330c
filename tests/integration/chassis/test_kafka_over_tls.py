"""A Kafka that wants TLS, passwords, certificates: what passes, what is refused, and that nothing is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from structlog.testing import capture_logs

from chassis.consumer import Consumer
from chassis.consumer_lag import read_lags
from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL
from chassis.relay import Relay
from chassis.telemetry import REGISTRY
from cli.failures import CommandError
from cli.kafka import reading
from deploy.local.kafka import PARTITIONS
from deploy.local.suite import Suite
from deploy.recovery import topic_log
from deploy.recovery.topic_log import Span
from gateway import live as live_module
from gateway.live import LiveUpdates
from tests.certificates import Authority
from tests.e2e.books import select
from tests.e2e.eventually import eventually
from tests.integration.chassis.consuming import (
    DDL,
    PATIENCE_SECONDS,
    PLACED,
    effects,
    record_effect,
    until,
    until_applied,
)
from tests.integration.chassis.secure_kafka import PLAIN_PASSWORD, USER, SecureKafka
from tests.integration.chassis.test_readiness_processes import SERVING, health

# The first one starts the broker.
pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.timeout(300)]

DRAIN_SECONDS = 60.0
ATTEMPTS = 3
WRONG_PASSWORD = "wrong-and-not-to-be-told"
HALTS = ["consumer_halted", "live updates go without kafka", "relay_halted"]
PUBLISHERS = ("users", "inventory", "payments", "orders")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[SecureKafka]:
    """The broker of all these tests."""
    broker = SecureKafka(tmp_path_factory.mktemp("secure-kafka"), jars=kafka_jars)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def consumer_of(database: Any, cluster: KafkaCluster, topic: str, group: str) -> Consumer:
    return Consumer(database, kafka=cluster, topics=[topic], group=group, handlers={PLACED: record_effect})


@asynccontextmanager
async def followed(cluster: KafkaCluster) -> AsyncIterator[LiveUpdates]:
    live = LiveUpdates(max_streams=1, max_streams_per_user=1)
    task = asyncio.create_task(live.follow(cluster))
    try:
        yield live
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def by_scram_512(kafka: SecureKafka) -> KafkaCluster:
    return kafka.with_password()


def by_scram_256(kafka: SecureKafka) -> KafkaCluster:
    return dataclasses.replace(kafka.with_password(), sasl_mechanism="SCRAM-SHA-256")


def by_plain(kafka: SecureKafka) -> KafkaCluster:
    return dataclasses.replace(kafka.with_password(password=PLAIN_PASSWORD), sasl_mechanism="PLAIN")


def by_certificate(kafka: SecureKafka) -> KafkaCluster:
    return kafka.with_certificate(kafka.authority.issue("client"))


Way = Callable[[SecureKafka], KafkaCluster]


@pytest.mark.parametrize("way", [by_scram_512, by_scram_256, by_plain, by_certificate])
async def test_what_a_relay_publishes_a_consumer_applies_and_its_lag_is_read(
    *, way: Way, kafka: SecureKafka, open_database: Any, publish: Any, running: Any, topic: str, group: str
) -> None:
    cluster = way(kafka)
    database = await open_database(OUTBOX_DDL + DDL)
    await publish(database, "order-1", 1)
    relay = Relay(database, kafka=cluster, topic=topic, owner="orders")
    async with running(relay), running(consumer_of(database, cluster, topic, group)):
        await publish(database, "order-1", 2)
        assert await relay.drain(DRAIN_SECONDS)
        await until_applied(database, {"order-1": [1, 2]})

        async def committed() -> bool:
            lags = (await read_lags(cluster, {group: [topic]}))[group]
            assert len(lags) == PARTITIONS
            assert sum(each.end for each in lags) == 2
            return sum(each.lag for each in lags) == 0

        await until(committed)


@pytest.mark.parametrize("way", [by_scram_512, by_certificate])
async def test_live_updates_hear_of_an_order(
    way: Way, kafka: SecureKafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "TOPIC", topic)
    cluster = way(kafka)
    async with AIOKafkaProducer(**cluster.client_options()) as producer:
        await producer.send_and_wait(topic, b"", key=b"the first, which makes the topic")
        async with followed(cluster) as live:

            async def follows() -> bool:
                return live.poll_seconds == live_module.POLL_SECONDS

            await until(follows)
            with live.watch("order-1") as watcher:
                watcher.news.clear()
                await producer.send_and_wait(topic, b"", key=b"order-1")
                assert await asyncio.wait_for(watcher.news.wait(), PATIENCE_SECONDS)


def halts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which outages were told of, each as often as it was."""
    return sorted(line["event"] for line in lines if line["event"] in HALTS)


def a_wrong_password(kafka: SecureKafka, _: Path) -> KafkaCluster:
    return kafka.with_password(password=WRONG_PASSWORD)


def an_unknown_authority(kafka: SecureKafka, folder: Path) -> KafkaCluster:
    return kafka.with_password(ca_file=Authority(folder, "another").file)


def the_systems_authorities(kafka: SecureKafka, _: Path) -> KafkaCluster:
    return dataclasses.replace(kafka.with_password(), ca_file=None)


def another_name(kafka: SecureKafka, _: Path) -> KafkaCluster:
    return kafka.with_password(host="localhost")


def no_certificate(kafka: SecureKafka, _: Path) -> KafkaCluster:
    return kafka.with_certificate(None)


def a_certificate_of_another_authority(kafka: SecureKafka, folder: Path) -> KafkaCluster:
    return kafka.with_certificate(Authority(folder, "another").issue("client"))


def in_the_clear(kafka: SecureKafka, _: Path) -> KafkaCluster:
    return KafkaCluster(kafka.with_password().bootstrap_servers)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (a_wrong_password, "invalid credentials with SASL mechanism SCRAM-SHA-512"),
        (an_unknown_authority, "certificate verify failed"),
        (the_systems_authorities, "certificate verify failed"),
        (another_name, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (no_certificate, ""),
        (a_certificate_of_another_authority, ""),
        (in_the_clear, ""),
    ],
)
async def test_who_is_refused_says_so_once_tries_again_and_loses_nothing(
    *,
    wrong: Callable[[SecureKafka, Path], KafkaCluster],
    why: str,
    kafka: SecureKafka,
    open_database: Any,
    publish: Any,
    rows: Any,
    running: Any,
    topic: str,
    group: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    refused = wrong(kafka, tmp_path)
    database = await open_database(OUTBOX_DDL + DDL)
    await publish(database, "order-1", 1)
    relay = Relay(database, kafka=refused, topic=topic, owner="orders")
    consumer = consumer_of(database, refused, topic, group)

    with capture_logs() as lines:

        async def tried_again() -> bool:
            return min(relay._failures, consumer._failures) >= ATTEMPTS and halts(lines) == HALTS

        async with running(relay), running(consumer), followed(refused) as live:
            await until(tried_again)
            assert live.poll_seconds == live_module.POLL_WITHOUT_KAFKA_SECONDS
            assert REGISTRY.get_sample_value("sagacity_consumer_outage", {"group": group}) == 1
    assert halts(lines) == HALTS, "one line for each, not for each attempt"
    assert all(why in line["error"] for line in lines if line["event"] in HALTS), lines
    assert "Unable to bootstrap" not in str(lines), "which would say as much of any outage"
    assert WRONG_PASSWORD not in f"{lines} {caplog.text}"
    assert [record for record in caplog.records if record.name.startswith("aiokafka")] == []
    assert await rows(database, "SELECT sequence FROM outbox") == [{"sequence": 1}]
    assert await effects(database) == {}
    right = Relay(database, kafka=kafka.with_password(), topic=topic, owner="orders")
    async with running(right), running(consumer_of(database, kafka.with_password(), topic, group)):
        assert await right.drain(DRAIN_SECONDS)
        await until_applied(database, {"order-1": [1]})


async def test_a_new_client_has_the_certificates_that_are_in_the_files_now(
    *, kafka: SecureKafka, open_database: Any, publish: Any, running: Any, topic: str, tmp_path: Path
) -> None:
    cluster = kafka.with_certificate(Authority(tmp_path, "another").issue("client"))
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 1)
    relay = Relay(database, kafka=cluster, topic=topic, owner="orders")

    async def failed() -> bool:
        return relay._failures >= ATTEMPTS

    async with running(relay):
        await until(failed)
        assert cluster.certificate_file is not None
        assert cluster.key_file is not None
        # As where somebody renews them: one after the other, and for a moment they do not fit.
        good = kafka.authority.issue("renewed")
        cluster.certificate_file.write_bytes(good.certificate.read_bytes())
        cluster.key_file.write_bytes(good.key.read_bytes())
        assert await relay.drain(DRAIN_SECONDS)


async def test_the_commands_of_operators_read_and_cut_a_topic(kafka: SecureKafka, topic: str) -> None:
    cluster = kafka.with_password()
    await topic_log.append(cluster, topic, [{"partition": 0, "key": b"a", "value": b"", "headers": []}])
    assert (await topic_log.spans(cluster, topic))[0] == Span(0, 1)
    async with reading(cluster, [topic]) as reader:
        await reader.begin(back=None)
        assert [record.key async for batch in reader.until_now() for record in batch] == [b"a"]
    await topic_log.delete_before(cluster, topic, {0: 1})
    assert (await topic_log.spans(cluster, topic))[0] == Span(1, 1)
    wrong = kafka.with_password(password=WRONG_PASSWORD)
    with pytest.raises(CommandError, match=r"does not answer .*invalid credentials") as caught:
        async with reading(wrong, [topic]):
            pass
    assert WRONG_PASSWORD not in str(caught.value)


def variables(cluster: KafkaCluster, folder: Path) -> dict[str, str]:
    """Return what a process is told of a cluster, the password in a file."""
    (folder / "password").write_text(f"{cluster.password}\n", "utf-8")
    return {
        "SAGACITY_KAFKA_SECURITY_PROTOCOL": cluster.security_protocol,
        "SAGACITY_KAFKA_CA_FILE": str(cluster.ca_file),
        "SAGACITY_KAFKA_USERNAME": USER,
        "SAGACITY_KAFKA_PASSWORD_FILE": str(folder / "password"),
    }


@pytest.mark.e2e
async def test_processes_with_a_wrong_password_are_ready_and_publish_all_once_it_is_right(
    kafka: SecureKafka, tmp_path: Path
) -> None:
    wrong = kafka.with_password(password=WRONG_PASSWORD)
    suite = Suite(
        tmp_path / "suite",
        kafka=wrong.bootstrap_servers,
        overrides={"*": variables(wrong, tmp_path)},
        fsync=False,
    )

    async def waiting() -> int:
        counts = [await select(suite.dsn(name), "SELECT count(*) FROM outbox") for name in PUBLISHERS]
        return sum(int(count) for (count,) in counts)

    async def logs() -> dict[str, str]:
        return {name: (suite.logs / f"{name}.log").read_text("utf-8") for name in (*PUBLISHERS, "gateway")}

    # It waits until every process is ready, the gateway among them, and loads the sample data.
    await suite.start()
    try:
        for service in ("", "readiness"):
            assert set((await health(suite, service)).values()) == {SERVING}
        assert await waiting() > 0
        said = await eventually(
            logs, until=lambda texts: all("invalid credentials" in text for text in texts.values())
        )
        assert [text.count("relay_halted") for text in said.values()] == [1, 1, 1, 1, 0]
        assert said["gateway"].count("live updates go without kafka") == 1
        assert not any(WRONG_PASSWORD in text for text in said.values())
        variables(kafka.with_password(), tmp_path)
        for name in (*PUBLISHERS, "gateway"):
            await suite.restart(name)
        await eventually(waiting, until=lambda count: count == 0)
    finally:
        await suite.abort()
