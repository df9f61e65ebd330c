"""`python -m deploy.recovery.topics`: takes out of Kafka what the restored databases do not know.

A database that was restored to a moment publishes again what its aggregates do from there on, under the same
numbers as what it did before and has lost. So the lost facts must not be read again by anybody: neither by a
consumer that was restored with it, nor by a projection that is rebuilt. Records are never changed in Kafka:
those that are true are appended anew, and everything before them is deleted. Groups keep their offsets, and
get true facts again, of which they drop what they had applied.

Run it while no process of the suite runs. It may be run again wherever it died: it works from the file that
it keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from chassis.cloud_events import from_record
from chassis.config import SettingsError
from deploy.recovery.databases import dsns, kafka_bootstrap_servers

POLL_MS = 250
MAX_BATCH = 500
# What is sent and not yet acknowledged.
MAX_SENDING = 1_000
TOPIC_SECONDS = 3600
# The number of the last fact of every aggregate, by the name that its events have in Kafka.
FACTS = {
    "users": "SELECT id::text AS id, version AS last FROM users",
    "inventory": """
        SELECT id::text AS id, sequence AS last FROM reservation
        UNION ALL SELECT sku, event_sequence FROM stock""",
    "payments": "SELECT id::text AS id, sequence AS last FROM payment WHERE sequence > 0",
    "orders": """
        SELECT order_id::text AS id, max(sequence) AS last FROM (
            SELECT order_id, sequence FROM order_history UNION ALL SELECT order_id, sequence FROM order_refund
        ) fact GROUP BY order_id""",
}


def last_facts(dsn: str, context: str) -> dict[str, int]:
    """Return the number of the last fact of each aggregate that a context's database knows."""
    with psycopg.connect(dsn) as connection:
        return {str(row[0]): int(row[1]) for row in connection.execute(FACTS[context])}


async def spool(bootstrap_servers: str, topic: str, facts: dict[str, int], file: Path) -> Counter[str]:
    """Write the records of a topic that are true into `file`; return how many were kept and left out."""
    counted: Counter[str] = Counter()
    draft = file.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as lines:
        async for record in _records(bootstrap_servers, topic):
            verdict = _verdict(record, facts)
            counted[verdict] += 1
            if verdict == "kept":
                lines.write(json.dumps(_packed(record)) + "\n")
        # What it holds is deleted in Kafka next.
        lines.flush()
        os.fsync(lines.fileno())
    draft.rename(file)
    return counted


def _verdict(record: Any, facts: dict[str, int]) -> str:
    try:
        event = from_record(record)
    except ValueError:
        return "unreadable"
    return "kept" if event.sequence <= facts.get(event.aggregate_id, 0) else "unknown"


async def _records(bootstrap_servers: str, topic: str) -> AsyncIterator[Any]:
    kafka = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    try:
        await kafka.start()
        partitions = list(kafka.assignment())
        ends = await kafka.end_offsets(partitions)
        while any([await kafka.position(partition) < ends[partition] for partition in partitions]):
            for records in (await kafka.getmany(timeout_ms=POLL_MS, max_records=MAX_BATCH)).values():
                for record in records:
                    yield record
    finally:
        await kafka.stop()


async def replace(bootstrap_servers: str, topic: str, file: Path) -> None:
    """Delete what a topic holds, and append the records in `file`, each to the partition that it was in."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        described = await admin.describe_topics([topic])
        partitions = [TopicPartition(topic, each["partition"]) for each in described[0]["partitions"]]
        # -1: up to the end. Offsets go on from there, so that groups find what is appended.
        await admin.delete_records({partition: RecordsToDelete(before_offset=-1) for partition in partitions})
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, enable_idempotence=True, acks="all")
    try:
        await producer.start()
        sending: list[asyncio.Future[Any]] = []
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                sending.append(await producer.send(topic, **_unpacked(json.loads(line))))
                if len(sending) >= MAX_SENDING:
                    await asyncio.gather(*sending)
                    sending.clear()
        await asyncio.gather(*sending)
    finally:
        await producer.stop()


def _packed(record: Any) -> dict[str, Any]:
    return {
        "partition": record.partition,
        "timestamp_ms": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [(name, _text(value)) for name, value in record.headers],
    }


def _unpacked(packed: dict[str, Any]) -> dict[str, Any]:
    headers = [(name, _bytes(value)) for name, value in packed["headers"]]
    return {**packed, "key": _bytes(packed["key"]), "value": _bytes(packed["value"]), "headers": headers}


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


async def cut(folder: Path, *, dry_run: bool) -> None:
    """Take out of every topic what its context's database does not know; say how many records that were."""
    servers = kafka_bootstrap_servers()
    for context, dsn in dsns(FACTS).items():
        topic, file = f"sagacity.{context}.v1", folder / f"{context}.{'dry-run' if dry_run else 'records'}"
        done = folder / f"{context}.done"
        if done.exists():
            print(f"{topic}: done before")  # noqa: T201 - what the command says
            continue
        async with asyncio.timeout(TOPIC_SECONDS):
            # Where there is one, another run died after it was written, and Kafka may hold less by now.
            if dry_run or not file.exists():
                counted = await spool(servers, topic, last_facts(dsn, context), file)
                print(  # noqa: T201 - what the command says
                    f"{topic}: {counted['kept']} known, {counted['unknown']} unknown to the database, "
                    f"{counted['unreadable']} no events"
                )
            if not dry_run:
                await replace(servers, topic, file)
                file.rename(done)


def main() -> None:
    """Take out of Kafka what the restored databases do not know, while no process of the suite runs."""
    parser = argparse.ArgumentParser(prog="python -m deploy.recovery.topics", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder for the records that are kept")
    parser.add_argument("--dry-run", action="store_true", help="only say how many there are")
    arguments = parser.parse_args()
    # aiokafka reports every attempt to connect.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(cut(arguments.folder, dry_run=arguments.dry_run))
    except KafkaError as error:
        sys.exit(f"recovery: {error}")  # it begins with its name
    except (psycopg.Error, OSError, TimeoutError, SettingsError) as error:
        sys.exit(f"recovery: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
