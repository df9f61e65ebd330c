"""`python -m deploy.recovery.topics`: takes out of Kafka what the restored databases do not know.

A database that was restored to a moment publishes again what its aggregates do from there on, under the same
numbers as what it did before and has lost. So the lost facts must not be read again by anybody: neither by a
consumer that was restored with it, nor by a projection that is rebuilt. Records are never changed in Kafka:
those that are true are appended anew, and everything before them is deleted. Groups keep their offsets, and
get true facts again, of which they drop what they had applied.

Run it while no process of the suite runs, nor anybody else who publishes. Of each topic the folder has
`<context>.draft` while nothing is deleted (made anew by each run), `.records` from before the first record is
deleted until the last is appended, `.done` after that, and `.discarded` with what was left out.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from aiokafka.errors import KafkaError

from chassis.config import SettingsError
from chassis.kafka import KafkaCluster
from deploy.recovery.databases import dsns, kafka_cluster
from deploy.recovery.replacement import replace
from deploy.recovery.spool import SpoolError, spool

ROWS = 10_000
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
    """Return the number of the last fact of each aggregate that a context's database knows.

    All at once, about 200 bytes of memory each: 200 MB for a million of orders.
    """
    # A name: the server keeps the rows, and hands them over in parts.
    with psycopg.connect(dsn) as connection, connection.cursor(name="facts") as cursor:
        cursor.itersize = ROWS
        return {str(row[0]): int(row[1]) for row in cursor.execute(FACTS[context])}


async def count() -> None:
    """Say for every topic how many records would be kept and left out; write and change nothing."""
    kafka = kafka_cluster()
    for context, dsn in dsns(FACTS).items():
        await sort(kafka, _topic(context), last_facts(dsn, context), None, force=True)


async def cut(folder: Path, *, force: bool) -> None:
    """Take out of every topic what its context's database does not know; say how many records that were.

    Nothing is deleted before all topics are read.

    Raises:
        SpoolError: a topic, or its database, is not what it should be. The other topics are done.
    """
    kafka, databases = kafka_cluster(), dsns(FACTS)
    for context, dsn in databases.items():
        # Where there is one, an earlier run may have deleted what it holds.
        if not any((folder / f"{context}.{state}").exists() for state in ("records", "done")):
            files = folder / f"{context}.draft", folder / f"{context}.discarded"
            await sort(kafka, _topic(context), last_facts(dsn, context), files, force=force)
    wrong: list[str] = []
    for context in databases:
        try:
            await _replace(kafka, context, folder)
        except SpoolError as error:
            wrong.append(str(error))
    if wrong:
        raise SpoolError("; ".join(wrong))


async def sort(
    kafka: KafkaCluster, topic: str, facts: Mapping[str, int], files: tuple[Path, Path] | None, *, force: bool
) -> None:
    """Spool a topic, as `spool.spool` does, and say how many records are known.

    Raises:
        SpoolError: none is, of many: that database is rather the wrong one. Not with `force`.
    """
    counted = await spool(kafka, topic, facts, files)
    _say(
        f"{topic}: {counted['kept']} known, {counted['unknown']} unknown to the database, "
        f"{counted['unreadable']} no events"
    )
    if counted["unknown"] and not counted["kept"] and not force:
        raise SpoolError(
            f"{topic}: the database knows none of {counted['unknown']} events; is it the right one? "
            "If so: --resume --force; nothing is changed"
        )


async def _replace(kafka: KafkaCluster, context: str, folder: Path) -> None:
    draft, file, done = (folder / f"{context}.{state}" for state in ("draft", "records", "done"))
    if not done.exists():
        if not file.exists():
            _rename(draft, file)
        _say(f"{_topic(context)}: {await replace(kafka, _topic(context), file)} appended")
        _rename(file, done)
    elif await replace(kafka, _topic(context), done) == 0:
        _say(f"{_topic(context)}: done before")


def _rename(source: Path, target: Path) -> None:
    """Rename a file, for good: a name is on disk when its folder is."""
    source.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _topic(context: str) -> str:
    return f"sagacity.{context}.v1"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - what the command says


def _prepare(folder: Path, *, resume: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not resume:
        raise SpoolError(
            f"{folder} is not empty: take another, or --resume where a run of this recovery has ended in it"
        )


def main() -> None:
    """Take out of Kafka what the restored databases do not know, while no process of the suite runs."""
    parser = argparse.ArgumentParser(prog="python -m deploy.recovery.topics", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder for the records that are kept")
    parser.add_argument("--dry-run", action="store_true", help="only say how many there are; write nothing")
    parser.add_argument("--resume", action="store_true", help="go on with what a run has left in the folder")
    parser.add_argument("--force", action="store_true", help="empty even a topic of which nothing is known")
    arguments = parser.parse_args()
    # aiokafka reports every attempt to connect.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        if arguments.dry_run:
            asyncio.run(count())
        else:
            _prepare(arguments.folder, resume=arguments.resume)
            asyncio.run(cut(arguments.folder, force=arguments.force))
    except (KafkaError, SpoolError) as error:
        # Kafka's begin with their name.
        sys.exit(f"recovery: {error}")
    except (psycopg.Error, OSError, TimeoutError, SettingsError) as error:
        sys.exit(f"recovery: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
