"""Relays and consumers as processes that a proof starts, kills, stops and continues, by process id."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from chassis.crash_points import VARIABLE
from deploy.local.children import dies_with_parent
from tests.conftest import ENVIRONMENT
from tests.events.child import Part, Role
from tests.events.world import World

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
FAULT_SECONDS = 90.0
STOP_SECONDS = 30.0


class Child:
    """A process that runs."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def crashed(self) -> None:
        """Wait until it has killed itself at its crash point.

        Raises:
            AssertionError: it ended in another way.
            TimeoutError: it never came by.
        """
        async with asyncio.timeout(FAULT_SECONDS):
            code = await self._process.wait()
        assert code == -signal.SIGKILL, f"it ended with {code}"

    def freeze(self) -> None:
        """Stop it where it stands."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End it in an orderly way."""
        if self._process.returncode is None:
            self._process.terminate()
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()

    async def end(self) -> None:
        """End it, whatever it is doing."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Children:
    """The processes of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._started: list[Child] = []

    async def start(self, role: Role, *, crash_at: str = "") -> Child:
        """Start one, and wait until it runs; with `crash_at` ("name:n") it will kill itself there."""
        world = self._world
        dsn = world.source_dsn if role in {"relay", "cursor relay"} else world.sink_dsn
        part = Part(role, dsn, world.servers, world.topic, world.group)
        search = f"{ROOT}:{ROOT / 'protos' / 'gen'}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.events.child",
            part.as_argument(),
            stdin=DEVNULL,
            stdout=PIPE,
            cwd=ROOT,
            env={**ENVIRONMENT, "PYTHONPATH": search, VARIABLE: crash_at},
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
        child = Child(process)
        self._started.append(child)
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            assert await process.stdout.readline() == b"ready\n"
        return child

    async def end(self) -> None:
        """End all that are left."""
        for child in self._started:
            await child.end()


@asynccontextmanager
async def children_of(world: World) -> AsyncIterator[Children]:
    """Start processes in the block; none is left after it."""
    children = Children(world)
    try:
        yield children
    finally:
        await children.end()
