"""The code of the release before this one, as `releases/previous.tar.xz` keeps it, and what runs by it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.processes import ChildProcess
from deploy.release.versions import version_of
from tests.conftest import ENVIRONMENT

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHIVE = REPOSITORY / "releases" / "previous.tar.xz"
PACKAGES = ("services.users", "services.inventory", "services.payments", "services.orders", "orchestrator")
COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Release:
    """A release's code in a folder of its own."""

    folder: Path

    @property
    def version(self) -> str:
        """Its version, such as 0.1.0."""
        return version_of((self.folder / "pyproject.toml").read_text("utf-8"))

    def migrations(self, package: str) -> dict[str, str]:
        """The text of each of a package's migrations, by the file's name."""
        folder = self.folder / package.replace(".", "/") / "migrations" / "versions"
        return {path.name: path.read_text("utf-8") for path in sorted(folder.glob("[0-9]*.py"))}

    def migrate(self, package: str, owner_dsn: str) -> None:
        """Bring a database to the schema of this release, by its own migrator."""
        variable = f"SAGACITY_{package.rpartition('.')[2].upper()}_DATABASE_DSN"
        self.run("-m", "chassis.migrations", package, environment={variable: owner_dsn})

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run this release's code as its processes do, and return what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**ENVIRONMENT, "PYTHONPATH": python_path(self.folder), **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"
        return done.stdout


def python_path(folder: Path) -> str:
    """Where a process of the code in `folder` looks first."""
    return os.pathsep.join(str(folder / part) for part in (".", "protos/gen"))


def unpack(folder: Path) -> Release:
    """Unpack the release before this one into `folder`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Release(folder)


def this_code() -> Release:
    """The code under test."""
    return Release(REPOSITORY)


def check_that_it_runs(process: ChildProcess, release: Release) -> None:
    """Ask the running process whose code it runs; a test imports all of that and looks where it came from."""
    assert process.pid is not None
    running = psutil.Process(process.pid)
    assert Path(running.cwd()) == release.folder
    assert running.environ()["PYTHONPATH"] == python_path(release.folder)
