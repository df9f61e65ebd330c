"""What the figures depend on: the machine, its PostgreSQL server, and whose processor time was spent."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from chassis.migrations import upgrade
from deploy.local.postgres import Access, LocalPostgres

SYNCED_BLOCK_BYTES = 8_192
SYNCED_BLOCKS = 200


class Server:
    """A PostgreSQL server of our own with fsync on, and databases on it."""

    def __init__(self, folder: Path) -> None:
        self._server = LocalPostgres(folder, fsync=True)

    def start(self) -> None:
        """Make and start it; LocalDeployError where that fails."""
        self._server.start()

    def stop(self) -> None:
        """Stop it."""
        self._server.stop()

    @property
    def admin_dsn(self) -> str:
        """The superuser's."""
        return self._server.admin_dsn

    def journal(self, name: str) -> Access:
        """An empty journal, migrated."""
        access = self._server.create_database(name)
        upgrade("orchestrator", access.owner_dsn)
        return access

    def database(self, name: str) -> Access:
        """An empty database."""
        return self._server.create_database(name)

    def settle(self) -> None:
        """Write out what earlier measurements left in memory, so that nobody pays for another one's."""
        with psycopg.connect(self.admin_dsn, autocommit=True) as admin:
            admin.execute("CHECKPOINT")

    def cpu_seconds(self) -> float:
        """User and system time of the server so far, those of its ended backends with them."""
        assert self._server.pid is not None
        root = psutil.Process(self._server.pid)
        total = 0.0
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total


def as_url(dsn: str) -> str:
    """A libpq connection string as a URI."""
    part = conninfo_to_dict(dsn)
    return f"postgresql://{part['user']}:{part['password']}@{part['host']}:{part['port']}/{part['dbname']}"


def described(folder: Path) -> dict[str, Any]:
    """The machine, for the one who reads the figures."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "fdatasync_8kb_us": round(_sync_seconds(folder) * 1e6),
        "load_at_the_start": round(os.getloadavg()[0], 2),
    }


def _sync_seconds(folder: Path) -> float:
    """The median time to write a block and have it on the disk that PostgreSQL writes to."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCED_BLOCKS):
            begun = time.perf_counter()
            file.seek(0)
            file.write(os.urandom(SYNCED_BLOCK_BYTES))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)
