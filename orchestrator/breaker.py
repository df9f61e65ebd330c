"""A breaker and a retry budget per participant, so that one that is down gets no storm of calls.

The breaker is Nygard's ("Release It!", 2007): closed, open after failures in a row, and closed again when a
probe is answered. The budget is Finagle's: retries are a share of the first calls, and a few a second.
While a breaker is open, sagas that need the participant leave memory; when it closes, they come back in a
ramp.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from chassis.errors import Fault, FaultKind
from orchestrator import metrics

FAILURES_TO_OPEN = 10
PROBE_FIRST_SECONDS = 0.25
PROBE_CAP_SECONDS = 5.0
BUDGET_MAX = 100.0
BUDGET_PER_SECOND = 10.0
BUDGET_PER_FIRST_CALL = 0.2

# What says that the participant, not the call, is in trouble.
_OUTAGES = frozenset({FaultKind.UNAVAILABLE, FaultKind.DEADLINE_EXCEEDED, FaultKind.RESOURCE_EXHAUSTED})

log = structlog.get_logger(__name__)


@dataclass
class _Guard:
    failures: int = 0
    is_open: bool = False
    budget: float = BUDGET_MAX
    filled_at: float = 0.0
    pause: float = PROBE_FIRST_SECONDS


class Breakers:
    """The guards of all participants of one replica.

    Args:
        probe: Asks a participant for a sign of life; raises Fault, or answers False, where it gives none.
        closed: Called when a breaker closes, with the participant's name; it wakes who waits for it.
        rng: Spreads the probes.
    """

    def __init__(
        self,
        probe: Callable[[str], Awaitable[bool]],
        closed: Callable[[str], Awaitable[None]],
        rng: random.Random,
    ) -> None:
        self._probe = probe
        self._closed = closed
        self._random = rng
        self._guards: dict[str, _Guard] = {}
        self._opened: asyncio.Queue[str] = asyncio.Queue()

    def is_open(self, participant: str) -> bool:
        """Whether calls to a participant are held back."""
        guard = self._guards.get(participant)
        return guard is not None and guard.is_open

    def allows(self, participant: str, *, attempt: int) -> bool:
        """Whether a call may be sent now; a retry takes from the budget."""
        guard = self._guards.get(participant)
        if guard is None:
            guard = self._guards[participant] = _Guard(filled_at=asyncio.get_running_loop().time())
            metrics.show_from_the_beginning(participant)
        if guard.is_open:
            return False
        if attempt == 1:
            guard.budget = min(BUDGET_MAX, guard.budget + BUDGET_PER_FIRST_CALL)
            return True
        now = asyncio.get_running_loop().time()
        guard.budget = min(BUDGET_MAX, guard.budget + (now - guard.filled_at) * BUDGET_PER_SECOND)
        guard.filled_at = now
        if guard.budget < 1:
            return False
        guard.budget -= 1
        return True

    def succeeded(self, participant: str) -> None:
        """A participant answered, be it with a refusal."""
        guard = self._guards.get(participant)
        if guard is not None:
            guard.failures = 0
            guard.pause = PROBE_FIRST_SECONDS

    def failed(self, participant: str, fault: Fault) -> None:
        """A call's outcome is unknown; enough of them in a row open the breaker."""
        guard = self._guards.get(participant)
        if guard is None or guard.is_open or fault.kind not in _OUTAGES:
            return
        guard.failures += 1
        if guard.failures >= FAILURES_TO_OPEN:
            guard.is_open = True
            metrics.BREAKER_OPEN.labels(participant).set(1)
            log.warning("breaker_opened", participant=participant, reason=fault.reason)
            self._opened.put_nowait(participant)

    async def run(self) -> None:
        """Probe the participants whose breakers are open, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                participant = await self._opened.get()
                group.create_task(self._until_closed(participant), name=f"breaker-{participant}")

    async def _until_closed(self, participant: str) -> None:
        guard = self._guards[participant]
        while True:
            await asyncio.sleep(self._random.uniform(guard.pause / 2, guard.pause))
            # Only a call that succeeds makes it short again: a participant that answers probes, and nothing
            # else, must not open and close the breaker all the time.
            guard.pause = min(guard.pause * 2, PROBE_CAP_SECONDS)
            if await self._answers(participant):
                break
        guard.is_open, guard.failures = False, 0
        metrics.BREAKER_OPEN.labels(participant).set(0)
        log.info("breaker_closed", participant=participant)
        try:
            await self._closed(participant)
        except Fault as fault:
            log.warning("wake_failed", participant=participant, reason=fault.reason)
        except Exception:
            # They come back by themselves, later; the breakers must go on.
            log.exception("wake_failed", participant=participant)

    async def _answers(self, participant: str) -> bool:
        try:
            return await self._probe(participant)
        except Fault:
            return False
        except Exception:
            log.exception("probe_failed", participant=participant)
            return False
