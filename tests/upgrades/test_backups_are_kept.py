"""Backups of one server: kept, pruned, full, and restored once more after a restore to a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from deploy.local.errors import LocalDeployError
from deploy.local.postgres import LocalPostgres
from tests.e2e.eventually import eventually
from tests.upgrades.backups import FULL, KEEP, RESTORE, Backups

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KEPT = 2
SEGMENT_MIB = 16
SEGMENT = "[0-9A-F]" * 24
LEFT_IN_THE_FILES = """
    SELECT string_agg(name, ' ') FROM pg_file_settings
    WHERE name IN ('recovery_target_time', 'recovery_target_action', 'restore_command', 'hot_standby')"""
WAITS = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
NEXT_SEGMENT = "SELECT pg_switch_wal()"
TOLD = "SELECT string_agg(word, ' ' ORDER BY n) FROM told"
SLOT_IS_LOST = "SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost'"


@pytest.fixture
async def backups(tmp_path: Path) -> AsyncIterator[Backups]:
    """The backups of a server with one table of what somebody was told; its log is received."""
    server = LocalPostgres(tmp_path / "server", fsync=False)
    server.start()
    made = Backups(server, tmp_path / "first")
    try:
        send(server, "CREATE TABLE told (n bigint GENERATED ALWAYS AS IDENTITY, word text)")
        await made.start_receiving()
        yield made
    finally:
        made.stop_receiving()
        server.kill()


def tell(backups: Backups, *words: str) -> None:
    """Commit words, one after the other; each returns when it is acknowledged."""
    for word in words:
        send(backups.server, "INSERT INTO told (word) VALUES (%s)", word)


def send(server: LocalPostgres, statement: str, *values: str) -> None:
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        connection.execute(statement.encode(), values)


async def go_back_to_a_moment(backups: Backups) -> None:
    """What was told before the moment is there again, and what was told later is put aside."""
    await asyncio.to_thread(backups.take_base)
    tell(backups, "before")
    moment = backups.now()
    tell(backups, "later", "latest")
    backups.end_the_server()
    await backups.restore(until=moment)
    assert backups.value(TOLD) == "before"
    (old,) = backups.put_aside
    assert (old / "PG_VERSION").exists()
    assert not (old / "recovery.signal").exists()


async def test_what_follows_a_restore_to_a_moment_is_there_after_the_next_loss(
    backups: Backups, tmp_path: Path
) -> None:
    """The moment is taken out of the settings, which the next base backup copies."""
    await go_back_to_a_moment(backups)
    assert backups.value(LEFT_IN_THE_FILES) == "None"
    again = Backups(backups.server, tmp_path / "second")
    try:
        await again.start_receiving()
        await asyncio.to_thread(again.take_base)
        tell(again, "since", "then")
        again.lose_everything()
        await again.restore()
        assert again.value(TOLD) == "before since then"
    finally:
        again.stop_receiving()


async def test_a_moment_that_was_left_in_a_base_does_not_end_a_restore_to_the_last_commit(
    backups: Backups,
) -> None:
    """As somebody left it there who did not take it out."""
    tell(backups, "before")
    backups.set("recovery_target_time", backups.now())
    await asyncio.to_thread(backups.take_base)
    tell(backups, "since")
    backups.lose_everything()
    await backups.restore()
    assert backups.value(TOLD) == "before since"


async def test_a_moment_after_the_last_commit_is_refused_and_nothing_is_lost_by_it(backups: Backups) -> None:
    await asyncio.to_thread(backups.take_base)
    tell(backups, "before")
    moment = backups.now()
    backups.end_the_server()
    backups.put_back(moment)
    with pytest.raises(LocalDeployError):
        await backups.recover()
    backups.server.stop()
    assert "recovery ended before configured recovery target was reached" in backups.server.log.read_text()
    settings = backups.data_folder / "postgresql.auto.conf"
    settings.write_text(settings.read_text("utf-8").replace(f"'{moment}'", "''"), "utf-8")
    await backups.recover()
    assert backups.value(TOLD) == "before"


async def test_a_data_folder_that_cannot_be_moved_is_emptied_and_filled(backups: Backups) -> None:
    """As a mount point, which is the same folder before and after."""
    await asyncio.to_thread(backups.take_base)
    tell(backups, "before")
    backups.end_the_server()
    mounted = backups.data_folder.stat().st_ino
    backups.run(RESTORE, "-mindepth 1")
    assert (backups.folder / "aside" / "PG_VERSION").exists()
    await backups.restore()
    assert backups.value(TOLD) == "before"
    assert backups.data_folder.stat().st_ino == mounted
    assert backups.put_aside == []


async def test_the_oldest_bases_go_and_the_log_that_no_base_needs(backups: Backups) -> None:
    words = [str(number) for number in range(KEPT + 2)]
    for word in words:
        tell(backups, word)
        backups.value(NEXT_SEGMENT)
        await asyncio.to_thread(backups.take_base)
    # Who is told of a commit in a segment knows that the one before is whole.
    tell(backups, "last")
    oldest = min(backups.log_folder.glob(SEGMENT))
    await asyncio.to_thread(backups.run, KEEP, "pg_archivecleanup", instead=("-n -8", f"-n -{KEPT}"))
    assert len(backups.bases) == KEPT
    assert not oldest.exists()
    # What is left leads from the oldest base to the end.
    for base in backups.bases[1:]:
        base.rename(base.with_name(f"not-{base.name}"))
    backups.lose_everything()
    await backups.restore()
    assert backups.value(TOLD) == " ".join((*words, "last"))


async def test_a_full_archive_stops_commits_until_there_is_room(backups: Backups) -> None:
    tell(backups, "before")
    backups.stop_receiving()
    # It has to make a segment, which does not fit.
    for begun in backups.log_folder.glob("*.partial"):
        begun.unlink()
    backups.receive(largest_file_kib=SEGMENT_MIB * 1024 // 2)
    waiting = asyncio.create_task(asyncio.to_thread(tell, backups, "meanwhile"))
    await asyncio.to_thread(backups.wait_until, WAITS)
    await eventually(partial(said, backups), until=lambda words: "should be 0 or 16777216" in words)
    assert not waiting.done()
    backups.stop_receiving()
    await asyncio.to_thread(backups.run, FULL, "-delete")
    backups.receive()
    await waiting
    assert backups.value(TOLD) == "before meanwhile"


async def said(backups: Backups) -> str:
    """What the receiver has said."""
    return (backups.folder / "receiver.log").read_text("utf-8")


async def test_without_the_archive_all_that_waits_is_done_at_once(backups: Backups) -> None:
    backups.stop_receiving()
    waiting = asyncio.create_task(asyncio.to_thread(tell, backups, "meanwhile"))
    await asyncio.to_thread(backups.wait_until, WAITS)
    await asyncio.to_thread(backups.execute, FULL, "synchronous_standby_names")
    await waiting
    assert backups.value(TOLD) == "meanwhile"


async def test_a_commit_whose_caller_gave_up_is_on_the_server_alone(backups: Backups) -> None:
    """As a process gives up at a deadline: it cancels the task."""
    backups.stop_receiving()
    connection = await psycopg.AsyncConnection.connect(backups.server.admin_dsn, autocommit=True)
    async with connection:
        telling = asyncio.create_task(connection.execute("INSERT INTO told (word) VALUES ('meanwhile')"))
        await asyncio.to_thread(backups.wait_until, WAITS)
        assert backups.value(TOLD) == "None"
        telling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await telling
    assert backups.value(TOLD) == "meanwhile"


async def is_lost(backups: Backups) -> bool:
    """Whether the slot is lost; a checkpoint looks."""
    send(backups.server, "CHECKPOINT")
    return bool(backups.value(SLOT_IS_LOST))


async def test_a_slot_beyond_its_bound_is_lost_and_made_anew(backups: Backups, tmp_path: Path) -> None:
    """Orders go on by another receiver; this one is away for too long."""
    backups.stop_receiving()
    backups.set("synchronous_standby_names", "")
    backups.execute(KEEP, "max_slot_wal_keep_size", instead=("50GB", f"{SEGMENT_MIB}MB"))
    for number in range(4):
        tell(backups, str(number))
        backups.value(NEXT_SEGMENT)
    await eventually(partial(is_lost, backups))
    backups.execute(KEEP, "pg_drop_replication_slot")
    again = Backups(backups.server, tmp_path / "second")
    try:
        await again.start_receiving()
        await asyncio.to_thread(again.take_base)
        tell(again, "since")
        again.lose_everything()
        await again.restore()
        assert again.value(TOLD) == "0 1 2 3 since"
    finally:
        again.stop_receiving()
