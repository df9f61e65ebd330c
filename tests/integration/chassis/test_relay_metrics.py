"""What a relay shows of its outbox, and its alarm."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from chassis import relay_metrics
from chassis.config import ProcessSettings
from chassis.kafka import KafkaCluster
from chassis.lifecycle import Lifecycle
from chassis.outbox import OUTBOX_DDL
from chassis.outbox_backlog import Backlog
from chassis.process import start_relay
from chassis.relay import Relay
from chassis.relay_metrics import OutboxWatch
from chassis.telemetry import REGISTRY
from tests.e2e.eventually import eventually

ROOT = Path(__file__).resolve().parents[3]
NOBODY = "127.0.0.1:1"


def shown(name: str, topic: str) -> float | None:
    return REGISTRY.get_sample_value(f"sagacity_outbox_{name}", {"topic": topic})


@pytest.mark.integration
async def test_a_relay_shows_what_waits_and_how_old_it_is_though_kafka_is_away(
    *, open_database: Any, publish: Any, rows: Any, running: Any, topic: str
) -> None:
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 1)
    await publish(database, "order-1", 2)
    await rows(database, "UPDATE outbox SET occurred_at = clock_timestamp() - interval '10 minutes'")

    async def waiting() -> float | None:
        return shown("waiting", topic)

    async with running(Relay(database, kafka=KafkaCluster(NOBODY), topic=topic, owner="orders")):
        await eventually(waiting, until=lambda number: number == 2)
    age = shown("oldest_age_seconds", topic)
    assert age is not None
    assert 600 <= age < 1_200
    assert shown("oldest_transaction_seconds", topic) == 0


@pytest.mark.integration
async def test_an_outbox_that_nobody_publishes_for_want_of_an_address_is_watched_and_said_once(
    open_database: Any, publish: Any, rows: Any, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_metrics, "REFRESH_SECONDS", 0.05)
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 1)
    await rows(database, "UPDATE outbox SET occurred_at = clock_timestamp() - interval '10 minutes'")

    async def waiting() -> tuple[float | None, bool]:
        return shown("waiting", topic), (shown("oldest_age_seconds", topic) or 0) >= 600

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            life = Lifecycle(group)
            start_relay(life, ProcessSettings(kafka_bootstrap_servers=""), database, topic=topic)()
            await eventually(waiting, until=lambda found: found == (1, True))
            await publish(database, "order-1", 2)
            await eventually(waiting, until=lambda found: found == (2, True))
            life.stopping.set()
            await life.drain()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("outbox_without_kafka", "warning")]


@pytest.mark.integration
async def test_a_relay_gives_the_alarm_while_a_transaction_holds_the_horizon(
    *,
    open_database: Any,
    rows: Any,
    running: Any,
    topic: str,
    postgres_admin_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_metrics, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(relay_metrics, "MAX_SHARE", 1.0)
    monkeypatch.setattr(relay_metrics, "MAX_TRANSACTION_SECONDS", 0.2)
    database = await open_database(OUTBOX_DDL)
    (where,) = await rows(database, "SELECT current_database() AS name")

    async def alarms() -> float:
        return shown("horizon_alarms_total", topic) or 0.0

    async def free() -> bool:
        return shown("oldest_transaction_seconds", topic) == 0

    async with running(Relay(database, kafka=KafkaCluster(NOBODY), topic=topic, owner="orders")):
        with psycopg.connect(postgres_admin_dsn, dbname=where["name"]) as session:
            session.execute("CREATE TABLE forgotten ()")
            await eventually(alarms, until=lambda number: number == 1)
            assert (shown("oldest_transaction_seconds", topic) or 0) > 0.2
        await eventually(free)


def test_the_alarm_is_given_once_for_each_time_that_the_horizon_is_held(topic: str) -> None:
    watch = OutboxWatch(topic)
    too_long = relay_metrics.MAX_TRANSACTION_SECONDS + 1
    with capture_logs() as logs:
        for held_seconds in (None, 1.0, too_long, too_long + 5, None, too_long):
            watch.show(Backlog(0, None, held_seconds))
    assert [entry["event"] for entry in logs] == [
        "outbox_horizon_held",
        "outbox_horizon_free",
        "outbox_horizon_held",
    ]
    assert shown("horizon_alarms_total", topic) == 2
    assert shown("oldest_transaction_seconds", topic) == too_long
