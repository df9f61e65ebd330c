"""From start to stop: settings that are wrong end in one sentence, signals in a drain, in order."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NoReturn

import structlog
import uvloop
from pydantic import ValidationError

from chassis.cancellation import is_cancelled
from chassis.config import SettingsError
from chassis.errors import Fault

DRAIN_SECONDS = 10.0
# Of all actions together; whoever stops a process has to wait longer than this before killing it.
DRAIN_ALL_SECONDS = 40.0
GARBAGE_THRESHOLD = 20_000

log = structlog.get_logger(__name__)


class BackgroundTaskDiedError(Exception):
    """A task that must run as long as the process does has ended."""


class Lifecycle:
    """What runs beside the server, and what is to be done when the process stops."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.stopping = asyncio.Event()
        self.death: BackgroundTaskDiedError | None = None
        self._group = group
        self._on_stop: list[Callable[[], Awaitable[None]]] = []

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run a coroutine as long as the process; where it ends before that, the process stops with an error.

        It is cancelled in its turn at the stop: after what was registered later, before what was earlier.
        """
        task = self._group.create_task(self._guard(coroutine, name), name=name)
        self._on_stop.append(partial(_end, task))

    def on_stop(self, action: Callable[[], Awaitable[None]]) -> None:
        """Register what to do at the stop; the last registered is done first, each within DRAIN_SECONDS."""
        self._on_stop.append(action)

    async def drain(self) -> None:
        """Do what was registered, in reverse; what fails or takes too long keeps nothing from its turn.

        After DRAIN_ALL_SECONDS each action is begun still, and not waited for.
        """
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + DRAIN_ALL_SECONDS
        while self._on_stop:
            action = self._on_stop.pop()
            try:
                async with asyncio.timeout_at(min(clock() + DRAIN_SECONDS, give_up_at)):
                    await action()
            except Exception:
                log.exception("drain_action_failed", action=_name(action))

    async def _guard(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        how = "ended before the process did"
        try:
            await coroutine
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            how = "was cancelled by nobody"
            log.exception("background_task_died", task=name)
        except Exception as error:
            how = f"died: {_sentence(error)}"
            log.exception("background_task_died", task=name)
        if not self.stopping.is_set():
            self.death = BackgroundTaskDiedError(f"the background task {name} {how}")
            self.stopping.set()


Program = Callable[[Lifecycle], Coroutine[Any, Any, None]]


def main(program: Program) -> NoReturn:
    """Run a program until SIGTERM or SIGINT, drain it, and exit: 0, or 1 with one sentence on standard error.

    `program` does all set-up with the Lifecycle and returns once it serves.
    """
    try:
        uvloop.run(_run(program))
    except (SettingsError, ValidationError, OSError, Fault, BackgroundTaskDiedError) as error:
        sys.exit(_sentence(error))
    except KeyboardInterrupt:  # before the handlers were there
        sys.exit(130)
    sys.exit(0)


async def _run(program: Program) -> None:
    loop = asyncio.get_running_loop()
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, life.stopping.set)
        try:
            await _until_stopped(program, life)
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the group, which would wrap it
            failure = error
        finally:
            life.stopping.set()
            await life.drain()
    if failure or life.death:
        raise failure or life.death or AssertionError


async def _until_stopped(program: Program, life: Lifecycle) -> None:
    """Run the set-up, then wait; a signal ends a set-up that hangs, too."""
    starting = asyncio.create_task(program(life), name="set-up")
    stopped = asyncio.create_task(life.stopping.wait(), name="stop signal")
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            _settle_garbage_collector()
            await stopped
    finally:
        await _end(starting)
        await _end(stopped)


def _settle_garbage_collector() -> None:
    # What is there once a process serves stays; looking through it again and again cost 5 % of its time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=DRAIN_SECONDS)


def _name(action: Callable[[], Awaitable[None]]) -> str:
    return getattr(action, "__qualname__", None) or str(action)


def _sentence(error: Exception) -> str:
    """What is wrong, in one line; of settings never a value."""
    if isinstance(error, ValidationError):
        wrong = error.errors(include_input=False, include_context=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in wrong)
    else:
        text = error.message if isinstance(error, Fault) else str(error) or type(error).__name__
    return " ".join(text.split())
