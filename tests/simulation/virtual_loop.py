"""An event loop without time and without I/O: the clock jumps to the next timer, chance picks who runs next.

What runs in the context of a `Host` can be stopped and killed like a process: while it is stopped nothing of
it runs, whatever becomes due meanwhile runs when it goes on, and a dead one never runs again.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from typing_extensions import override

Value = TypeVar("Value")

# How often somebody else than the one who is ready longest runs next.
SHUFFLED = 0.6
# How often one who is ready has to wait for others, and how long at most.
HELD_UP = 0.01
HELD_UP_SECONDS = 0.02
_HOST: contextvars.ContextVar[Host] = contextvars.ContextVar("host")


class StuckError(Exception):
    """Nothing is ready, and no timer will ever make anything so."""


class Host:
    """A process, as the loop sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.context = contextvars.Context()
        self.context.run(_HOST.set, self)
        self.running = True
        self.kept: list[asyncio.Handle] = []


class NumberedTask(asyncio.Task[Any]):
    """A task that sets iterate over in the same order in every run: by number, not by address."""

    number = 0

    @override
    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop of one simulation; everything that it decides comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._random = rng
        self._now = 0.0
        self._tasks = 0
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._timer_number = 0
        self._ready: list[asyncio.Handle] = []
        self.steps = 0
        self.bound = 0
        self.set_task_factory(self._numbered)  # type: ignore[arg-type]
        # A task that was killed with its host is not worth a word.
        self.set_exception_handler(lambda _loop, _context: None)

    def _numbered(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Value],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Value]:
        self._tasks += 1
        task: NumberedTask = NumberedTask.__new__(NumberedTask)
        task.number = self._tasks
        task.__init__(coroutine, loop=loop, context=context)  # type: ignore[misc]
        return task

    # --- hosts ---

    def stop_host(self, host: Host) -> None:
        """Let nothing of a host run until it goes on; for one that is dead, for ever."""
        host.running = False

    def continue_host(self, host: Host) -> None:
        """Let a host go on, with everything that became due meanwhile."""
        host.running = True
        self._ready.extend(host.kept)
        host.kept.clear()

    # --- time and order ---

    @override
    def time(self) -> float:
        return self._now

    @override
    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    @override
    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, handle))
        return handle

    @override
    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap, and is passed over when it is due."""

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise StuckError
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                ready.append(handle)
        self._run_some(ready)

    def _run_some(self, ready: list[asyncio.Handle]) -> None:
        chance, position = self._random.random, 0
        end = len(ready)
        # One round of those who are ready, in an order that the seed chooses.
        while position < end:
            if end - position > 1 and chance() < SHUFFLED:
                other = position + int(chance() * (end - position))
                ready[position], ready[other] = ready[other], ready[position]
            handle = ready[position]
            position += 1
            if handle._cancelled:
                continue
            host = handle._context.get(_HOST)  # type: ignore[attr-defined]
            if host is not None and not host.running:
                host.kept.append(handle)
                continue
            if host is not None and chance() < HELD_UP:
                self._hold_up(handle)
                continue
            handle._run()
        self.steps += end
        del ready[:end]

    def _hold_up(self, handle: asyncio.Handle) -> None:
        self._timer_number += 1
        when = self._now + HELD_UP_SECONDS * self._random.random()
        heapq.heappush(self._timers, (when, self._timer_number, handle))

    def _process_events(self, event_list: list[Any]) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is nobody to wake."""
