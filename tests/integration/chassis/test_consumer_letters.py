"""What a consumer shows of its dead letters: those that are there, for as long as they are, and no others."""

from typing import Any

import pytest

from chassis import consumer_letters, dead_letters
from chassis.dead_letters import Stock
from chassis.event_audit import Asked
from chassis.telemetry import REGISTRY
from tests.e2e.eventually import eventually
from tests.integration.chassis.consuming import DDL, POISON, letters, until

pytestmark = pytest.mark.integration

NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_letters, "REFRESH_SECONDS", 0.05)


async def assert_shown(letters_and_keys: tuple[float, float], group: str) -> None:
    async def both() -> tuple[float | None, float | None]:
        names = ("sagacity_dead_letters", "sagacity_halted_keys")
        first, second = (REGISTRY.get_sample_value(name, {"group": group}) for name in names)
        return first, second

    await eventually(both, until=lambda found: found == letters_and_keys)


@pytest.mark.kafka
async def test_letters_are_shown_until_somebody_has_handled_them(
    *, open_database: Any, new_consumer: Any, send: Any, running: Any, group: str
) -> None:
    database = await open_database(DDL)
    consumer = new_consumer(database)

    async def parked() -> bool:
        return len(await letters(database)) == 3

    async with running(consumer):
        await assert_shown((0, 0), group)
        await send(("a", 1, POISON), ("a", 2), ("b", 1, POISON))
        await until(parked)
        await assert_shown((3, 2), group)
        await dead_letters.discard_first(
            database, consumer.inbox, f"{consumer.topics[0]}/order/b", 1, Asked("ops", "because")
        )
        await assert_shown((2, 1), group)
    # The process that comes next has counted none of them.
    async with running(new_consumer(database)):
        await assert_shown((2, 1), group)


async def test_letters_of_before_are_shown_though_kafka_is_away(
    open_database: Any, new_consumer: Any, running: Any, rows: Any, group: str
) -> None:
    database = await open_database(DDL)
    await rows(
        database,
        """
        INSERT INTO dead_letter (consumer, generation, aggregate, sequence, event_id, type, aggregate_type,
            aggregate_id, payload, topic, partition, kafka_offset, error, create_time)
        VALUES (%(group)s, 1, 'a', 1, '', '', '', '', '', '', 0, 0, '', now() - interval '30 days')
        """,
        group=group,
    )
    async with running(new_consumer(database, servers=NOBODY)):
        await assert_shown((1, 1), group)


async def test_counting_stops_at_its_bound_and_is_of_one_consumer(
    open_database: Any, new_consumer: Any, rows: Any, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_COUNTED", 5)
    database = await open_database(DDL)
    await rows(
        database,
        """
        INSERT INTO dead_letter (consumer, generation, aggregate, sequence, event_id, type, aggregate_type,
            aggregate_id, payload, topic, partition, kafka_offset, error)
        SELECT consumer, generation, aggregate::text, sequence, '', '', '', '', '', '', 0, 0, ''
        FROM (VALUES (%(group)s::text, 1), (%(group)s, 2), ('another', 1)) AS one (consumer, generation),
            generate_series(1, 9) AS aggregate, generate_series(1, 2) AS sequence
        """,
        group=group,
    )
    consumer = new_consumer(database)
    assert await dead_letters.stock(database, consumer.inbox) == Stock(letters=5, keys=3)
    monkeypatch.setattr(dead_letters, "MAX_COUNTED", 100)
    assert await dead_letters.stock(database, consumer.inbox) == Stock(letters=18, keys=9)
