"""Whether a process can do its work: its database answers. `grpc.health.v1` says it, as service `readiness`.

The service `""` stays what it was, a sign of life that asks nobody: who restarts what does not live must not
restart every process because a database is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from chassis.errors import Fault

READINESS_SERVICE = "readiness"
PERIOD_SECONDS = 2.0
# Longer than the pool's own patience, so that an outage is told by the pool and only a hang by this.
PING_SECONDS = 3.0
# One lost answer is no outage, and a process without traffic cannot do anything about it either.
FAILURES_UNTIL_NOT_READY = 2

log = structlog.get_logger(__name__)


class Readiness:
    """Asks the database in a loop, and tells what it found.

    Args:
        ping: Raises a Fault where the database does not answer; it may hang.
        tell: Called with True or False, at first with False and then when it changes.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]], tell: Callable[[bool], Awaitable[None]]) -> None:
        self._ping = ping
        self._tell = tell
        self._ready = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Ask until `stopping`, then tell at once that there is no more work for this process."""
        await self._tell(self._ready)
        async with asyncio.TaskGroup() as group:
            stop = group.create_task(stopping.wait(), name="readiness: stop")
            ping: asyncio.Task[bool] | None = None
            failures = 0
            while not stopping.is_set():
                # A ping that hangs is not cancelled, which might hang too; the next round waits for it again.
                ping = ping or group.create_task(self._answers(), name="readiness: ping")
                await asyncio.wait({ping, stop}, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                answered = ping.done() and ping.result()
                failures = 0 if answered else failures + 1
                if answered or failures >= FAILURES_UNTIL_NOT_READY:
                    await self._change(answered)
                if ping.done():
                    ping = None
                    await asyncio.wait({stop}, timeout=PERIOD_SECONDS)
            self._ready = False
            await self._tell(self._ready)
            if ping is not None:
                ping.cancel()

    async def _answers(self) -> bool:
        try:
            await self._ping()
        except Fault:
            return False
        return True

    async def _change(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        await self._tell(ready)
        if ready:
            log.info("ready")
        else:
            log.warning("not_ready", reason="the database does not answer")
