"""What a service shows of the replication slot where Debezium publishes its outbox."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chassis import outbox_slot
from chassis.config import ProcessSettings
from chassis.lifecycle import Lifecycle
from chassis.outbox import OUTBOX_DDL
from chassis.process import start_relay
from chassis.telemetry import REGISTRY
from tests.e2e.eventually import eventually

ROOT = Path(__file__).resolve().parents[3]
NAME = "sagacity_slottest_outbox"
TOPIC = "sagacity.slottest.v1"


def shown(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"sagacity_outbox_{name}", {"topic": TOPIC})


@pytest.fixture
def slot(postgres_admin_dsn: str) -> Iterator[psycopg.Connection]:
    """A slot that nobody reads; a physical one, for a logical one needs a server that is set up for it."""
    with psycopg.connect(postgres_admin_dsn, autocommit=True) as admin:
        admin.execute("SELECT pg_create_physical_replication_slot(%s, true)", [NAME])
        try:
            yield admin
        finally:
            admin.execute("SELECT pg_drop_replication_slot(%s)", [NAME])


@pytest.mark.integration
async def test_a_service_that_leaves_its_outbox_to_debezium_shows_its_slot_and_its_horizon(
    slot: psycopg.Connection, open_database: Any, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_slot, "REFRESH_SECONDS", 0.05)
    database = await open_database(OUTBOX_DDL)

    async def behind() -> float:
        return shown("slot_behind_bytes") or 0.0

    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        start_relay(life, ProcessSettings(relay_enabled=False), database, topic=TOPIC)()
        before = await eventually(behind, until=lambda number: number > 0)
        await publish(database, "order-1", 1, os.urandom(20_000))
        await eventually(behind, until=lambda number: number > before + 10_000)
        life.stopping.set()
        await life.drain()
    assert shown("slot_active") == 0
    assert shown("oldest_transaction_seconds") is not None
    # What was published stays for a day, so it would tell of an outage where there is none.
    assert shown("oldest_age_seconds") is None


@pytest.mark.integration
async def test_a_slot_that_is_not_there_is_one_that_nobody_reads(open_database: Any) -> None:
    slot = await outbox_slot.read(await open_database(), "sagacity_nowhere_outbox")
    assert slot == outbox_slot.Slot(active=False, behind_bytes=None)


@pytest.mark.integration
async def test_a_slot_that_stands_still_behind_an_event_is_seen_until_it_moves(
    slot: psycopg.Connection, open_database: Any, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_slot, "REFRESH_SECONDS", 0.05)
    database = await open_database(OUTBOX_DDL)

    async def stalled() -> float | None:
        return shown("slot_stalled_seconds")

    # Its first look is waited for: what was there before, nobody can tell from what is published.
    outbox_slot.STALLED_SECONDS.remove(TOPIC)
    watching = asyncio.create_task(outbox_slot.watch(database, TOPIC))
    try:
        await eventually(stalled, until=lambda seconds: seconds == 0)
        # The log of the server goes on, and of this outbox there is nothing in it.
        slot.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 100000))")
        await publish(database, "order-1", 1)
        await eventually(stalled, until=lambda seconds: (seconds or 0) > 0.2)
        slot.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [NAME])
        assert await eventually(stalled, until=lambda seconds: seconds == 0) == 0
    finally:
        watching.cancel()
        await asyncio.wait({watching})


def test_a_slot_stands_still_from_the_first_event_behind_its_last_move() -> None:
    stall = outbox_slot.Stall()
    looks: list[tuple[float | None, int, float]] = [
        (100.0, 7, 0.0),  # who comes later does not know what happened before
        (100.0, 7, 0.0),  # nothing came: it need not move
        (100.0, 8, 0.0),  # seen first at 20
        (100.0, 9, 10.0),
        (150.0, 9, 0.0),  # it moved
        (150.0, 9, 0.0),
        (200.0, 10, 0.0),  # came and was confirmed between two looks
        (200.0, 10, 0.0),
        (200.0, 0, 0.0),  # what was published is deleted
        (200.0, 11, 0.0),
        (None, 11, 0.0),  # the slot is gone,
        (None, 12, 0.0),  # and so is whoever confirms
        (None, 12, 10.0),
    ]
    for number, (confirmed, newest, seconds) in enumerate(looks):
        assert stall.seconds(confirmed, newest, number * 10.0) == seconds, number


def test_the_slot_that_is_watched_is_the_one_that_the_connector_makes() -> None:
    template = (ROOT / "deploy" / "debezium" / "outbox-connector.json").read_text("utf-8")
    made = json.loads(template.replace("@CONTEXT@", "orders"))["config"]
    assert made["slot.name"] == outbox_slot.name_of(made["transforms.outbox.route.topic.replacement"])
