"""What can go wrong between the engine and a participant, done to the calls of one half of one step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from orchestrator.calling import Participants
from orchestrator.saga import Action, Operation, Saga

LOST = Fault(FaultKind.DEADLINE_EXCEEDED, "LOST", "nobody knows what became of it")
REFUSED = Fault(FaultKind.FAILED_PRECONDITION, "INJECTED", "refused by the test", domain="sagacity.test")


class Trouble(StrEnum):
    """One thing that goes wrong with a half of a step."""

    REFUSED = "refused without effect"
    REFUSED_LATER = "refused after an attempt that had its effect and whose reply got lost"
    REFUSED_OVERTAKEN = "refused, and an earlier attempt lands after the saga has ended"
    LOST_REQUEST = "the request gets lost"
    LOST_REPLY = "the reply gets lost"
    LOST_TWICE = "the reply gets lost, and the next request too"
    CUT = "the caller leaves while the participant works on it"
    TWICE = "the request arrives twice, one after the other"
    TWICE_AT_ONCE = "the request arrives twice at the same moment"


REFUSALS = frozenset({Trouble.REFUSED, Trouble.REFUSED_LATER, Trouble.REFUSED_OVERTAKEN})
# What becomes of the attempts, in order: those that are not named here go through.
_ATTEMPTS = {
    Trouble.REFUSED: ("refuse",),
    Trouble.REFUSED_LATER: ("lose reply", "refuse"),
    Trouble.REFUSED_OVERTAKEN: ("hold", "refuse"),
    Trouble.LOST_REQUEST: ("lose request",),
    Trouble.LOST_REPLY: ("lose reply",),
    Trouble.LOST_TWICE: ("lose reply", "lose request"),
    Trouble.CUT: ("cut",),
    Trouble.TWICE: ("twice",),
    Trouble.TWICE_AT_ONCE: ("twice at once",),
}


class Half(NamedTuple):
    """A do or an undo of a step."""

    step: str
    operation: Operation


class Sent(NamedTuple):
    """A call that reached its participant, and what the participant said."""

    half: Half
    action: Action
    request: bytes
    said: bytes | Fault


@dataclass
class Troubled(Participants):
    """Passes the calls on to the real participants, in the way that the plan of each half wants.

    Attributes:
        asked: All calls that the engine made, in order.
        sent: Those of them that were answered.
        overtaken: Requests that are still on their way.
    """

    real: Participants
    definition: Saga[Any]
    plan: dict[Half, list[str]] = field(default_factory=dict)
    asked: list[tuple[Half, bytes]] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    overtaken: list[tuple[Action, bytes]] = field(default_factory=list)

    def expect(self, half: Half, trouble: Trouble) -> None:
        """Let something go wrong with a half of a step."""
        self.plan[half] = list(_ATTEMPTS[trouble])

    @property
    def all_happened(self) -> bool:
        """Whether everything that should go wrong did."""
        return not any(self.plan.values())

    @override
    async def probe(self, participant: str) -> bool:
        return await self.real.probe(participant)

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        half = self.half_of(action, request)
        self.asked.append((half, request))
        planned = self.plan.get(half)
        how = planned.pop(0) if planned else ""
        if how == "refuse":
            raise REFUSED
        if how in {"lose request", "hold"}:
            if how == "hold":
                self.overtaken.append((action, request))
            raise LOST
        if how == "cut":
            # Long enough to be sent, too short for an answer, most of the time: either way nobody knows.
            await asyncio.gather(self._send(half, action, request, 0.001), return_exceptions=True)
            raise LOST
        if how == "twice at once":
            both = [self._send(half, action, request, timeout_seconds) for _ in range(2)]
            return _first(await asyncio.gather(*both, return_exceptions=True))
        if how == "lose reply":
            with suppress(Fault):
                await self._send(half, action, request, timeout_seconds)
            raise LOST
        reply = await self._send(half, action, request, timeout_seconds)
        return await self._send(half, action, request, timeout_seconds) if how == "twice" else reply

    async def _send(self, half: Half, action: Action, request: bytes, timeout_seconds: float) -> bytes:
        try:
            reply = await self.real.call(action, request, timeout_seconds=timeout_seconds)
        except Fault as fault:
            self.sent.append(Sent(half, action, request, fault))
            raise
        self.sent.append(Sent(half, action, request, reply))
        return reply

    def half_of(self, action: Action, request: bytes) -> Half:
        """Whose call it is: a request says it, but for a check's, and a check is told by its RPC."""
        message = decoded(action, request)
        if "saga_step" in message.DESCRIPTOR.fields_by_name:
            said: Any = message
            operation = Operation.DO if said.saga_step.operation == 1 else Operation.UNDO
            return Half(said.saga_step.step, operation)
        return next(
            Half(step.name, Operation.DO) for step in self.definition.all_steps() if step.do == action
        )


def decoded(action: Action, request: bytes) -> Message:
    """Return the request of an RPC from its bytes."""
    method: Any = descriptor_pool.Default().FindServiceByName(action.service).methods_by_name[action.method]
    message = message_factory.GetMessageClass(method.input_type)()
    message.ParseFromString(request)
    return message


def _first(outcomes: Iterable[bytes | BaseException]) -> bytes:
    """Return the reply of whichever call got one; where none did, raise what the last one said."""
    error: BaseException = LOST
    for outcome in outcomes:
        if isinstance(outcome, bytes):
            return outcome
        error = outcome
    raise error
