"""One call to a participant, and how long to wait before the next: the engine's only layer of retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

import structlog

from chassis import tracing
from chassis.crash_points import crash_point
from chassis.errors import Fault, FaultKind
from orchestrator import metrics
from orchestrator.breaker import Breakers
from orchestrator.entries import Call, Result
from orchestrator.progress import Progress
from orchestrator.saga import Action, Outcome, classify

BACKOFF_BASE_SECONDS = 0.05
BACKOFF_CAP_SECONDS = 30.0
# What is left of a saga's deadline is a call's deadline; less than this is no use to anybody.
MIN_CALL_SECONDS = 0.1
# These do not go away by themselves.
_ALARMING = frozenset({FaultKind.UNIMPLEMENTED, FaultKind.UNAUTHENTICATED, FaultKind.DATA_LOSS})

log = structlog.get_logger(__name__)


class Participants(Protocol):
    """The other side of the calls."""

    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        """Send the request's bytes and return the reply's; raises Fault, also for a time-out."""

    async def probe(self, participant: str) -> bool:
        """Whether a participant gives a sign of life; may raise Fault."""


class Caller:
    """Makes the calls of one replica, past its breakers."""

    def __init__(self, participants: Participants, breakers: Breakers) -> None:
        self._participants = participants
        self._breakers = breakers

    async def call_all(self, progress: Progress, remaining_seconds: float | None) -> list[Result]:
        """Make the pending calls of a saga, in parallel; `remaining_seconds` are left of its deadline."""
        calls = progress.pending()
        kind = progress.definition.kind
        if len(calls) == 1:
            return [await self._call(kind, calls[0], remaining_seconds)]
        return list(await asyncio.gather(*(self._call(kind, call, remaining_seconds) for call in calls)))

    async def _call(self, kind: str, call: Call, remaining_seconds: float | None) -> Result:
        participant = call.action.participant
        if not self._breakers.allows(participant, attempt=call.attempt):
            metrics.HELD.labels(participant).inc()
            fault = Fault(
                FaultKind.UNAVAILABLE, "HELD_BACK", f"{participant} does not answer; calls wait for it"
            )
            return Result(call, Outcome.UNKNOWN, fault=fault, sent=False)
        timeout = call.action.timeout.total_seconds()
        if remaining_seconds is not None:
            timeout = max(MIN_CALL_SECONDS, min(timeout, remaining_seconds))
        crash_point(f"executor.before_call.{call.step}.{call.operation}")
        started = asyncio.get_running_loop().time()
        with tracing.saga_step(
            call.step, call.operation, attempt=call.attempt, participant=participant
        ) as span:
            result = await self._sent(call, timeout)
            span.set("sagacity.outcome", str(result.outcome))
        seconds = asyncio.get_running_loop().time() - started
        metrics.step_seconds(kind, call.step, call.operation, result.outcome)(seconds)
        if result.outcome is Outcome.UNKNOWN and result.fault is not None:
            self._breakers.failed(participant, result.fault)
        else:
            self._breakers.succeeded(participant)
            metrics.step_attempts(kind, call.step, call.operation)(call.attempt)
            crash_point(f"executor.after_call.{call.step}.{call.operation}")
        return result

    async def _sent(self, call: Call, timeout_seconds: float) -> Result:
        try:
            reply = await self._participants.call(call.action, call.request, timeout_seconds=timeout_seconds)
        except Fault as fault:
            if fault.kind in _ALARMING:
                log.error(  # noqa: TRY400 - the fault says it all
                    "call_needs_attention", rpc=call.action.path, kind=fault.kind, reason=fault.reason
                )
            return Result(call, classify(fault), fault=fault)
        return Result(call, Outcome.DONE, reply=reply)


def backoff_seconds(rng: random.Random, attempts: int, unknown: Sequence[Result]) -> float:
    """Seconds of capped exponential backoff with full jitter (Brooker, AWS Architecture Blog, 2015).

    A participant's RetryInfo is honoured, up to the cap.
    """
    ceiling = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(attempts, 30))
    asked = [
        result.fault.retry_after.total_seconds()
        for result in unknown
        if result.fault is not None and result.fault.retry_after is not None
    ]
    return min(BACKOFF_CAP_SECONDS, max([rng.uniform(0, ceiling), *asked]))
