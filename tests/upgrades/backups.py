"""A PostgreSQL whose log is received elsewhere, backed up, lost and restored, by PostgreSQL's own commands.

The commands and settings are those of docs/how-to/backup-and-restore.md, taken from there as they stand.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from deploy.local.children import dies_with_parent
from deploy.local.postgres import LocalPostgres, find_binaries
from tests.conftest import ENVIRONMENT
from tests.e2e.eventually import POLL_SECONDS, WITHIN_SECONDS
from tests.upgrades.backup_page import block

COMMAND_SECONDS = 120
RECEIVER = "archive"
LOG = "Base backups and the log"
KEEP = "Keep and prune"
FULL = "When the archive is full"
RESTORE = "Restore to the last commit"
RECEIVED = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
AS_FAR_AS_IT_GOES = "recovery_target_time = ''"


class Backups:
    """The backups of one server, below `folder`; the server and its data folder may go away."""

    def __init__(self, server: LocalPostgres, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.log_folder = folder / "wal"
        self._receiver: subprocess.Popen[bytes] | None = None
        self.log_folder.mkdir(parents=True)
        # Who runs the server reads here what it restores.
        for made in (folder, self.log_folder):
            made.chmod(0o755)

    async def start_receiving(self) -> None:
        """Receive the server's log, and have every commit wait until it is here; before the base backup."""
        await asyncio.to_thread(self._run, self._receiving()[0])
        self.receive()
        await asyncio.to_thread(self.set, "synchronous_standby_names", RECEIVER)
        await asyncio.to_thread(self.wait_until, RECEIVED)

    def receive(self, *, largest_file_kib: int | None = None) -> None:
        """Start the receiver; it tries again by itself for as long as it runs.

        Args:
            largest_file_kib: what is written beyond that is refused, as by a disk that is full.
        """
        # In blocks of 512 bytes; ignored, what is too much is an error of the write and kills nobody.
        limited = f"trap '' XFSZ; ulimit -f {2 * largest_file_kib}; " if largest_file_kib else ""
        with (self.folder / "receiver.log").open("ab") as log:
            # Not on a thread of the pool: it dies with the thread that started it.
            self._receiver = subprocess.Popen(
                ["sh", "-c", f"{limited}exec {self._receiving()[1]}"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it makes one system call
            )

    def _receiving(self) -> list[str]:
        return block(LOG, "sh", "pg_receivewal", folder=self.folder).splitlines()

    def take_base(self) -> None:
        """Copy the data folder while the server runs; the log that belongs to it comes with the rest."""
        self.run(LOG, "pg_basebackup")

    @property
    def data_folder(self) -> Path:
        """The server's data folder."""
        return self.server.data_dir / "pgdata"

    @property
    def put_aside(self) -> list[Path]:
        """The data folders of before, which a restore has put aside."""
        return sorted(self.server.data_dir.glob("pgdata.*"))

    @property
    def bases(self) -> list[Path]:
        """The base backups, the oldest first."""
        return sorted(self.folder.glob("base-*"))

    def run(self, heading: str, holds: str, *, instead: tuple[str, str] = ("", "")) -> None:
        """Run the one block of commands below a heading that holds some text, with one text changed."""
        self._run(block(heading, "sh", holds, folder=self.folder).replace(*instead))

    def execute(self, heading: str, holds: str, *, instead: tuple[str, str] = ("", "")) -> None:
        """Send the one block of SQL below a heading that holds some text, with one text changed."""
        statements = block(heading, "sql", holds, folder=self.folder).replace(*instead)
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as admin:
            for statement in filter(str.strip, statements.split(";\n")):
                admin.execute(statement.encode())

    def end_the_server(self) -> None:
        """Stop the server, then the receiver; the data folder is there, with all that was committed."""
        self.server.stop()
        self.stop_receiving()

    def lose_everything(self) -> None:
        """The server dies at once, and its data folder is gone."""
        self.server.kill()
        self.stop_receiving()
        shutil.rmtree(self.data_folder)

    def stop_receiving(self) -> None:
        """End the receiver: commits would wait for ever where the server still ran."""
        if self._receiver is not None:
            self._receiver.terminate()
            self._receiver.wait(COMMAND_SECONDS)
            self._receiver = None

    async def restore(self, *, until: str | None = None) -> None:
        """Put the newest base backup where the data folder was, and have the server recover from the log.

        Args:
            until: a moment, as PostgreSQL writes it; None: as far as the log goes.
        """
        await asyncio.to_thread(self.put_back, until)
        await self.recover()
        await asyncio.to_thread(self.execute, RESTORE, "ALTER SYSTEM RESET")

    async def recover(self) -> None:
        """Start the server, and wait until it has recovered; LocalDeployError where it ends instead."""
        self.server.launch()
        await asyncio.to_thread(self.server.wait_ready)
        await asyncio.to_thread(self.wait_until, "SELECT 1 WHERE NOT pg_is_in_recovery()")

    def put_back(self, until: str | None) -> None:
        """Put the newest base backup where the data folder was, with the settings that recover it."""
        self.run(RESTORE, "recovery.signal")
        settings = block(RESTORE, "ini", "restore_command", folder=self.folder)
        assert AS_FAR_AS_IT_GOES in settings
        if until:
            settings = settings.replace(AS_FAR_AS_IT_GOES, f"recovery_target_time = '{until}'")
        with (self.data_folder / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write(settings)

    def timeline(self) -> int:
        """The server's timeline: one more after each restore."""
        return int(self.value("SELECT timeline_id FROM pg_control_checkpoint()"))

    def now(self) -> str:
        """The moment, by the server's clock."""
        return self.value("SELECT clock_timestamp()")

    def dump(self, dsn: str, file: Path) -> None:
        """Dump one database."""
        self._run(f'pg_dump --format=custom --file "{file}" --dbname "$WHICH"', WHICH=dsn)

    def load(self, dsn: str, file: Path) -> None:
        """Restore one database from its dump, in place."""
        options = "--clean --if-exists --single-transaction"
        self._run(f'pg_restore {options} --dbname "$WHICH" "{file}"', WHICH=dsn)

    def set(self, name: str, value: str) -> None:
        """Set one of the server's settings."""
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            admin.execute("SELECT pg_reload_conf()")

    def value(self, query: str) -> str:
        """The first value that a query finds; empty where it finds none."""
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as admin:
            row = admin.execute(query.encode()).fetchone()
        return str(row[0]) if row else ""

    def wait_until(self, query: str) -> None:
        """Wait until a query finds something."""
        deadline = time.monotonic() + WITHIN_SECONDS
        while not self.value(query):
            assert time.monotonic() < deadline, f"not within {WITHIN_SECONDS} s: {query}"
            time.sleep(POLL_SECONDS)

    @property
    def _environment(self) -> dict[str, str]:
        run_as = self.server._run_as()
        return {
            **ENVIRONMENT,
            "PATH": os.pathsep.join((str(find_binaries()), ENVIRONMENT["PATH"])),
            "DSN": self.server.admin_dsn,
            "PGDATA": str(self.data_folder),
            "SERVER_USER": str(os.geteuid() if run_as is None else run_as),
        }

    def _run(self, commands: str, **variables: str) -> None:
        done = subprocess.run(
            ["sh", "-euc", commands],
            env={**self._environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{commands}: {done.stderr}"
