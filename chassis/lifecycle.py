"""From start to stop: settings that are wrong end in one sentence, signals in a drain, in order."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

import structlog
import uvloop

from chassis.config import SettingsError
from chassis.errors import Fault

DRAIN_SECONDS = 10.0

log = structlog.get_logger(__name__)
Program = Callable[["Lifecycle"], Awaitable[None]]


class BackgroundTaskDiedError(Exception):
    """A task that must run as long as the process does has ended."""


class Lifecycle:
    """What runs beside the server, and what is to be done when the process stops."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.stopping = asyncio.Event()
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []
        self._on_stop: list[Callable[[], Awaitable[None]]] = []

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run a coroutine as long as the process; where it ends before, the process ends with an error."""
        self._tasks.append(self._group.create_task(self._guard(coroutine, name), name=name))

    def on_stop(self, action: Callable[[], Awaitable[None]]) -> None:
        """Register what to do at the stop; the last registered is done first, each within DRAIN_SECONDS."""
        self._on_stop.append(action)

    async def drain(self) -> None:
        """Do what was registered, then end the background tasks."""
        for action in reversed(self._on_stop):
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await action()
            except TimeoutError:
                log.warning("drain_took_too_long", action=getattr(action, "__qualname__", str(action)))
            except Fault as fault:
                log.warning("drain_failed", reason=fault.reason)
        for task in self._tasks:
            task.cancel()

    async def _guard(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await coroutine
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("background_task_died", task=name)
            raise BackgroundTaskDiedError(f"{name} died: {type(error).__name__}") from error
        if not self.stopping.is_set():
            raise BackgroundTaskDiedError(f"{name} ended before the process did")


def main(program: Program) -> NoReturn:
    """Run a program until SIGTERM or SIGINT, drain it, and exit: 0, or 1 with one sentence on standard error.

    `program` does all set-up with the Lifecycle and returns once it serves.
    """
    try:
        uvloop.run(_run(program))
    except* (SettingsError, OSError, Fault, BackgroundTaskDiedError) as group:
        sys.exit(_sentence(group))
    except* KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


async def _run(program: Program) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, life.stopping.set)
        try:
            await program(life)
            await life.stopping.wait()
        finally:
            life.stopping.set()
            await life.drain()


def _sentence(group: BaseExceptionGroup[Any]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first.message if isinstance(first, Fault) else first)
