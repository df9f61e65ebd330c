"""The processes that are measured, as the benchmark's own process sees them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.config import environment
from deploy.local.children import dies_with_parent
from tests.bench.engine.machine import Server, as_url
from tests.bench.engine.participant import Serving
from tests.bench.engine.under_test import Wiring
from tests.bench.engine.worker import Load

ROOT = Path(__file__).resolve().parents[3]
MAX_LINE_BYTES = 64 * 2**20
START_SECONDS = 60.0
ANSWER_SECONDS = 1_800.0
STOP_SECONDS = 30.0
LOG_LINES = 20


class WorkerError(Exception):
    """A process that is measured ended or kept silent; the message has the end of its log."""


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        sagas: How many began, and ended.
        seconds: From the first begin to the last end.
        states: How many ended in which state.
        latencies: From before the acceptance to the end, in seconds.
        cpu_seconds: Of the measured process, user and system.
        postgres_cpu_seconds: Of the server in the same time.
        rss_mib: Of the measured process, at the end.
    """

    sagas: int
    seconds: float
    states: dict[str, int]
    latencies: list[float]
    cpu_seconds: float
    postgres_cpu_seconds: float
    rss_mib: float

    def rate(self, state: str) -> float:
        """How many a second ended in a state."""
        return self.states.get(state, 0) / self.seconds

    @property
    def p50_ms(self) -> float:
        """The median of the latencies, in milliseconds."""
        return statistics.median(self.latencies) * 1000


class Worker:
    """A process that is asked over its standard input; `hello` is what it said when it was ready."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, server: Server) -> None:
        self._process = process
        self._log = log
        self._server = server
        self.hello: dict[str, Any] = {}

    async def ready(self) -> None:
        """Wait until it can be asked; WorkerError where it cannot."""
        self.hello = await self._answer(START_SECONDS)

    async def measure(self, **question: Any) -> Measured:
        """Ask for a load and wait for its end; see `worker.Load` for the arguments."""
        before = self._server.cpu_seconds()
        answer = await self.ask(question)
        return Measured(**answer, postgres_cpu_seconds=self._server.cpu_seconds() - before)

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask, and wait for the answer; WorkerError where there is none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return await self._answer(ANSWER_SECONDS)

    async def stop(self) -> None:
        """End its input and wait for it; after STOP_SECONDS kill it."""
        if self._process.returncode is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        await self._process.wait()

    async def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            said = "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])
            raise WorkerError(f"{self._log.stem} gave no answer; the end of its log:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Workers:
    """Starts the processes that are measured; their logs go to `folder`."""

    server: Server
    folder: Path

    @asynccontextmanager
    async def engine(self, wiring: Wiring) -> AsyncIterator[Worker]:
        """A process with an engine."""
        async with self._ours("worker", dataclasses.asdict(wiring), wiring.name) as worker:
            yield worker

    @asynccontextmanager
    async def participant(self, serving: Serving, name: str) -> AsyncIterator[Worker]:
        """A process with a participant; its `hello` has the port."""
        async with self._ours("participant", dataclasses.asdict(serving), name) as worker:
            yield worker

    @asynccontextmanager
    async def dbos(self, python: Path, dsn: str, pool_size: int) -> AsyncIterator[Worker]:
        """A process with DBOS, run by an interpreter that has it."""
        script = Path(__file__).with_name("dbos_worker.py")
        # -P: our folder is none of its business.
        command = [str(python), "-P", str(script), as_url(dsn), str(pool_size)]
        async with self._started(command, f"dbos-{pool_size}", {}) as worker:
            yield worker

    @asynccontextmanager
    async def _ours(self, module: str, told: dict[str, Any], name: str) -> AsyncIterator[Worker]:
        command = [sys.executable, "-m", f"tests.bench.engine.{module}", json.dumps(told)]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])
        async with self._started(command, name, {"PYTHONPATH": paths}) as worker:
            yield worker

    @asynccontextmanager
    async def _started(
        self, command: list[str], name: str, variables: dict[str, str]
    ) -> AsyncIterator[Worker]:
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env={**environment(), **variables},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                limit=MAX_LINE_BYTES,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGKILL),
            )
        worker = Worker(process, log, self.server)
        try:
            await worker.ready()
            yield worker
        finally:
            await worker.stop()


def load(**fields: Any) -> dict[str, Any]:
    """A load as an engine's process is asked for it."""
    return dataclasses.asdict(Load(**fields))
