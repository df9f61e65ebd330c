"""The cut of a topic to what is true: what it deletes, what it keeps, and how it goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from deploy.recovery import topic_log
from deploy.recovery.replacement import replace
from deploy.recovery.spool import SpoolError, spool
from deploy.recovery.topics import sort

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.timeout(120)]

PARTITIONS = 2
# More than one batch for each partition.
MANY = 400
# A batch of small records is less than the limit, a big record more.
BIG_BYTES = 200_000
LIMIT_BYTES = 100_000
USUAL_BYTES = 1_048_588


def event(aggregate: str, sequence: int, partition: int = 0, value: bytes = b"") -> dict[str, Any]:
    headers = {
        "ce_id": f"{aggregate}/{sequence}",
        "ce_type": "sagacity.test.v1.Happened",
        "ce_source": "test",
        "ce_specversion": "1.0",
        "ce_time": "2026-11-21T16:00:00Z",
        "ce_subject": f"thing/{aggregate}",
        "ce_sequence": str(sequence),
    }
    return {
        "partition": partition,
        "key": aggregate.encode(),
        "value": value,
        "headers": [(name, text.encode()) for name, text in headers.items()],
    }


async def new_topic(kafka: KafkaCluster, messages: Sequence[Mapping[str, Any]]) -> str:
    topic = f"recovery-{new_id()}"
    admin = AIOKafkaAdminClient(**kafka.client_options())
    try:
        await admin.start()
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    finally:
        await admin.close()
    await topic_log.append(kafka, topic, messages)
    return topic


async def take_batches_of(kafka: KafkaCluster, topic: str, size: int) -> None:
    admin = AIOKafkaAdminClient(**kafka.client_options())
    try:
        await admin.start()
        configs = {"max.message.bytes": str(size)}
        for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)]):
            assert [resource[0] for resource in answer.resources] == [0]
    finally:
        await admin.close()


async def ids(kafka: KafkaCluster, topic: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {each: [] for each in range(PARTITIONS)}
    async for record in topic_log.records(kafka, topic, await topic_log.spans(kafka, topic)):
        found[record.partition].append(dict(record.headers)["ce_id"].decode())
    return found


async def test_what_is_true_stays_in_its_order_and_the_rest_is_kept_in_a_file(
    kafka_bootstrap_servers: str, tmp_path: Path
) -> None:
    kafka = KafkaCluster(kafka_bootstrap_servers)
    nothing: dict[str, Any] = {"partition": 1, "key": None, "value": b"?", "headers": [("odd", None)]}
    events = [event("a", 1), event("b", 1, 1), nothing, event("a", 2), event("b", 2, 1), event("a", 3)]
    topic = await new_topic(kafka, events)
    files = tmp_path / "kept", tmp_path / "discarded"
    counted = await spool(kafka, topic, {"a": 2, "b": 2}, files)
    assert counted == {"kept": 4, "unknown": 1, "unreadable": 1}
    assert await replace(kafka, topic, files[0]) == 4
    assert await ids(kafka, topic) == {0: ["a/1", "a/2"], 1: ["b/1", "b/2"]}
    discarded = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert sorted((each["why"], each["partition"], each["offset"]) for each in discarded) == [
        ("unknown", 0, 2),
        ("unreadable", 1, 1),
    ]


@pytest.mark.parametrize("refused", [0, MANY - 100], ids=["after the deletion", "in mid-append"])
async def test_a_cut_that_ended_goes_on_and_nothing_is_lost_or_twice(
    kafka_bootstrap_servers: str, tmp_path: Path, refused: int
) -> None:
    """Kafka refuses a record that it took before, until it takes it again."""
    kafka = KafkaCluster(kafka_bootstrap_servers)
    events = [
        event(
            "a",
            number + 1,
            number % PARTITIONS,
            b"x" * (BIG_BYTES if number in (refused, refused + 1) else 1),
        )
        for number in range(MANY)
    ]
    topic, file = await new_topic(kafka, [*events, event("lost", 1)]), tmp_path / "kept"
    await spool(kafka, topic, {"a": MANY}, (file, tmp_path / "discarded"))
    before = await topic_log.spans(kafka, topic)
    await take_batches_of(kafka, topic, LIMIT_BYTES)
    with pytest.raises(KafkaError):
        await replace(kafka, topic, file)
    now = await topic_log.spans(kafka, topic)
    assert {each: span.begin for each, span in now.items()} == {
        each: span.end for each, span in before.items()
    }
    there = sum(span.end - span.begin for span in now.values())
    assert (there == 0) == (refused == 0)
    assert there < MANY
    await take_batches_of(kafka, topic, USUAL_BYTES)
    assert await replace(kafka, topic, file) == MANY - there
    assert await replace(kafka, topic, file) == 0
    wanted = [f"a/{number + 1}" for number in range(MANY)]
    assert await ids(kafka, topic) == {each: wanted[each::PARTITIONS] for each in range(PARTITIONS)}


async def test_records_that_came_after_the_spool_are_not_deleted(
    kafka_bootstrap_servers: str, tmp_path: Path
) -> None:
    kafka, file = KafkaCluster(kafka_bootstrap_servers), tmp_path / "kept"
    topic = await new_topic(kafka, [event("a", 1), event("b", 1, 1)])
    await spool(kafka, topic, {"a": 1}, (file, tmp_path / "discarded"))
    await topic_log.append(kafka, topic, [event("a", 2)])
    with pytest.raises(SpoolError, match="partition 0, ended at 1 when it was read, and ends at 2"):
        await replace(kafka, topic, file)
    assert await ids(kafka, topic) == {0: ["a/1", "a/2"], 1: ["b/1"]}


async def test_a_deletion_takes_what_was_read_and_no_more(kafka_bootstrap_servers: str) -> None:
    """Also where a record comes between the last look and the deletion."""
    kafka = KafkaCluster(kafka_bootstrap_servers)
    topic = await new_topic(kafka, [event("a", 1), event("a", 2)])
    await topic_log.delete_before(kafka, topic, {0: 1})
    assert await ids(kafka, topic) == {0: ["a/2"], 1: []}


async def test_a_spool_of_an_earlier_recovery_changes_nothing(
    kafka_bootstrap_servers: str, tmp_path: Path
) -> None:
    kafka, file = KafkaCluster(kafka_bootstrap_servers), tmp_path / "kept"
    topic = await new_topic(kafka, [event("a", 1)])
    await spool(kafka, topic, {"a": 1}, (file, tmp_path / "discarded"))
    await replace(kafka, topic, file)
    await topic_log.append(kafka, topic, [event("a", 2)])
    with pytest.raises(SpoolError, match="holds others than the 1 of"):
        await replace(kafka, topic, file)
    assert await ids(kafka, topic) == {0: ["a/1", "a/2"], 1: []}


async def test_a_spool_of_another_topic_or_cluster_is_refused(
    kafka_bootstrap_servers: str, tmp_path: Path
) -> None:
    kafka, file = KafkaCluster(kafka_bootstrap_servers), tmp_path / "kept"
    topic, other = [await new_topic(kafka, [event("a", 1)]) for _ in range(2)]
    await spool(kafka, topic, {"a": 1}, (file, tmp_path / "discarded"))
    with pytest.raises(SpoolError, match=f"is of {topic} in the cluster"):
        await replace(kafka, other, file)
    header, rest = file.read_text().split("\n", 1)
    file.write_text(json.dumps({**json.loads(header), "cluster_id": "another"}) + "\n" + rest)
    with pytest.raises(SpoolError, match="in the cluster another"):
        await replace(kafka, topic, file)
    assert await ids(kafka, other) == await ids(kafka, topic) == {0: ["a/1"], 1: []}


async def test_a_database_that_knows_nothing_of_a_topic_is_asked_about(
    kafka_bootstrap_servers: str, tmp_path: Path
) -> None:
    """It is rather the wrong one; who means it says so."""
    kafka, files = KafkaCluster(kafka_bootstrap_servers), (tmp_path / "kept", tmp_path / "discarded")
    topic = await new_topic(kafka, [event("a", 1)])
    with pytest.raises(SpoolError, match="the database knows none of 1 events; is it the right one"):
        await sort(kafka, topic, {}, files, force=False)
    assert await ids(kafka, topic) == {0: ["a/1"], 1: []}
    await sort(kafka, topic, {}, files, force=True)
    assert await replace(kafka, topic, files[0]) == 0
    assert await ids(kafka, topic) == {0: [], 1: []}
