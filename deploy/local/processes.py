"""One child process of the suite: started, watched, stopped, killed, paused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from deploy.local.children import dies_with_parent
from deploy.local.errors import LocalDeployError

POLL_SECONDS = 0.05
LAST_WORDS_BYTES = 8192


class ChildProcess:
    """`python -m module` with its output in the file `log`, which grows over restarts.

    `folder` is the repository whose code it runs; another one counts from its next start.
    Started from a thread that lives as long as the suite: the child dies with that thread (see `children`).
    """

    def __init__(self, name: str, module: str, log: Path, folder: Path) -> None:
        self.name = name
        self.log = log
        self._module = module
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs or before its first start."""
        return self._process.poll() if self._process else None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it with the supervisor's environment and `environment` over it.

        Raises:
            LocalDeployError: it runs already.
        """
        if self.pid is not None:
            raise LocalDeployError(f"{self.name} runs already (process {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join(str(self.folder / part) for part in (".", "protos/gen"))
        inherited = dict(os.environ)  # noqa: TID251 - handed on to the child, not read
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", self._module],
                cwd=self.folder,
                env={**inherited, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for the supervisor, which stops its children in order.
                start_new_session=True,
                # SIGKILL: it ends a paused child too, and these processes survive kills by design.
                preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - it makes one system call
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal where it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    async def stop(self, timeout_seconds: float) -> bool:
        """Ask it to drain (SIGTERM), kill it after `timeout_seconds`; return whether it ended by itself."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a paused process drains too
        deadline = time.monotonic() + timeout_seconds
        while self.pid is not None:
            if time.monotonic() > deadline:
                self.kill()
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    def last_words(self) -> str:
        """Return the last line of its log since its last start."""
        if not self.log.exists():
            return "it said nothing"
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - LAST_WORDS_BYTES))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"
