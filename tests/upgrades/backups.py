"""A PostgreSQL whose log is received elsewhere, backed up, lost and restored, with PostgreSQL's own commands.

What docs/how-to/backup-and-restore.md says, on the server of a suite.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from deploy.local.children import dies_with_parent
from deploy.local.postgres import NOBODY, LocalPostgres, find_binaries
from tests.e2e.eventually import POLL_SECONDS, WITHIN_SECONDS

COMMAND_SECONDS = 120
RECEIVER = "archive"


class Backups:
    """The backups of one server, below `folder`; the server and its data folder may go away."""

    def __init__(self, server: LocalPostgres, folder: Path) -> None:
        self.server = server
        self.log_folder = folder / "wal"
        self._base = folder / "base"
        self._receiver: subprocess.Popen[bytes] | None = None
        self.log_folder.mkdir(parents=True)
        # Who runs the server reads here what it restores.
        for made in (folder, self.log_folder):
            made.chmod(0o755)

    async def start_receiving(self) -> None:
        """Receive the server's log, and have every commit wait until it is here; before the base backup."""
        await asyncio.to_thread(self._receive, "--create-slot", "--if-not-exists")
        self._receiver = self._receiving_process()
        await asyncio.to_thread(self._set, "synchronous_standby_names", RECEIVER)
        await asyncio.to_thread(
            self._wait_until, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        )

    def _receiving_process(self) -> subprocess.Popen[bytes]:
        # Not on a thread of the pool: it dies with the thread that started it.
        return subprocess.Popen(
            self._command("pg_receivewal", *self._receiving, "--synchronous", "--no-loop"),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it makes one system call
        )

    def take_base(self) -> None:
        """Copy the data folder while the server runs; the log that belongs to it comes with the rest."""
        shutil.rmtree(self._base, ignore_errors=True)
        options = ["--pgdata", str(self._base), "--checkpoint=fast", "--wal-method=none", "--no-sync"]
        self._run("pg_basebackup", *options, "--dbname", self.server.admin_dsn)

    def lose_everything(self) -> None:
        """The server dies at once, and its data folder is gone."""
        self.server.kill()
        self.stop_receiving()
        shutil.rmtree(self.server.data_dir / "pgdata")

    def stop_receiving(self) -> None:
        """End the receiver: commits would wait for ever where the server still ran."""
        if self._receiver is not None:
            self._receiver.terminate()
            self._receiver.wait(COMMAND_SECONDS)
            self._receiver = None

    async def restore(self, *, until: str | None = None) -> None:
        """Put the base backup where the data folder was, and have the server recover from the log.

        Args:
            until: a moment, as PostgreSQL writes it; None: as far as the log goes.
        """
        await asyncio.to_thread(self._put_back, until)
        self.server.launch()
        await asyncio.to_thread(self.server.wait_ready)
        await asyncio.to_thread(self._wait_until, "SELECT 1 WHERE NOT pg_is_in_recovery()")

    def _put_back(self, until: str | None) -> None:
        data = self.server.data_dir / "pgdata"
        shutil.copytree(self._base, data)
        (data / "recovery.signal").touch()
        wal = self.log_folder
        settings = {
            # The newest segment is not complete, and has another name.
            "restore_command": f'cp "{wal}/%f" "%p" 2>/dev/null || cp "{wal}/%f.partial" "%p" 2>/dev/null',
            "recovery_target_action": "promote",
            # Nobody is let in before it is done: who could only read would not be told to try again.
            "hot_standby": "off",
            # Until the log is received again: nobody would acknowledge a commit.
            "synchronous_standby_names": "",
            **({"recovery_target_time": until} if until else {}),
        }
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        for folder in (data, self.log_folder):
            self._give_to_the_server(folder)

    def timeline(self) -> int:
        """The server's timeline: one more after each restore."""
        return int(self._value("SELECT timeline_id FROM pg_control_checkpoint()"))

    def now(self) -> str:
        """The moment, by the server's clock."""
        return self._value("SELECT clock_timestamp()")

    def dump(self, dsn: str, file: Path) -> None:
        """Dump one database."""
        self._run("pg_dump", "--format=custom", "--file", str(file), "--dbname", dsn)

    def load(self, dsn: str, file: Path) -> None:
        """Restore one database from its dump, in place."""
        self._run("pg_restore", "--clean", "--if-exists", "--single-transaction", "--dbname", dsn, str(file))

    @property
    def _receiving(self) -> list[str]:
        dsn = psycopg.conninfo.make_conninfo(self.server.admin_dsn, application_name=RECEIVER)
        return ["--directory", str(self.log_folder), "--slot", RECEIVER, "--dbname", dsn]

    def _receive(self, *options: str) -> None:
        self._run("pg_receivewal", *self._receiving, *options)

    def _set(self, name: str, value: str) -> None:
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            admin.execute("SELECT pg_reload_conf()")

    def _value(self, query: str) -> str:
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as admin:
            row = admin.execute(query.encode()).fetchone()
        return str(row[0]) if row else ""

    def _wait_until(self, query: str) -> None:
        deadline = time.monotonic() + WITHIN_SECONDS
        while not self._value(query):
            assert time.monotonic() < deadline, f"not within {WITHIN_SECONDS} s: {query}"
            time.sleep(POLL_SECONDS)

    def _give_to_the_server(self, whole: Path) -> None:
        if self.server._run_as() is not None:
            for folder, _, files in os.walk(whole):
                for path in (folder, *(os.path.join(folder, file) for file in files)):  # noqa: PTH118
                    os.chown(path, NOBODY, NOBODY)

    def _command(self, program: str, *arguments: str) -> Sequence[str]:
        return [str(find_binaries() / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(program, *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
