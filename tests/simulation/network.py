"""What lies between: calls and transactions that get lost, twice there, late or answered with nonsense."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.postgres import unavailable
from orchestrator.calling import Participants
from orchestrator.saga import Action
from tests.simulation.domain import LONG, RPCS, identity_of
from tests.simulation.memory_journal import Link
from tests.simulation.participants import World

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

Answer = TypeVar("Answer")

PARTICIPANTS = ("users", "inventory", "payments", "orders")
# How late a lost and found request comes: after the undo, after the end, after another replica took over.
LATE_SECONDS = (0.5, 25.0)
_UNKNOWN_KINDS = (
    FaultKind.UNAVAILABLE,
    FaultKind.INTERNAL,
    FaultKind.ABORTED,
    FaultKind.CANCELLED,
    FaultKind.RESOURCE_EXHAUSTED,
    FaultKind.UNKNOWN,
)


@dataclass
class Faults:
    """How likely each fault is, for one call or one transaction."""

    request_lost: float = 0.0
    reply_lost: float = 0.0
    duplicated: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    unknown: float = 0.0
    refused: float = 0.0
    refused_late: float = 0.0
    gate: float = 0.0
    store_before: float = 0.0
    store_after: float = 0.0
    store_detached: float = 0.0
    store_slow: float = 0.0

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """Some kinds of faults, each more or less: a run with all of them shows less than many with a few."""
        likely = {
            "request_lost": 0.15, "reply_lost": 0.20, "duplicated": 0.20, "late": 0.12, "slow": 0.15,
            "unknown": 0.15, "refused": 0.06, "refused_late": 0.25, "gate": 0.08,
            "store_before": 0.06, "store_after": 0.08, "store_detached": 0.05, "store_slow": 0.06,
        }  # fmt: skip
        return cls(**{
            name: most * (0.3 + 0.7 * rng.random()) if rng.random() < 0.5 else 0.0
            for name, most in likely.items()
        })  # fmt: skip


class StoreLink(Link):
    """A replica's connection to the journal."""

    def __init__(self, simulation: Simulation, replica: str) -> None:
        self._simulation = simulation
        self._replica = replica

    @override
    async def ask(self, transaction: Callable[[], Answer]) -> Answer:
        simulation, rng = self._simulation, self._simulation.chance
        future: asyncio.Future[Answer] = simulation.loop.create_future()
        faults = simulation.faults
        if faults is None:
            simulation.later(0.0005, self._run, transaction, future)
        elif not simulation.journal_answers(self._replica) or rng.random() < faults.store_before:
            simulation.count("journal: fault before")
            simulation.later(0.001, _fail, future)
        elif rng.random() < faults.store_detached:
            # The connection is cut, and the server only notices when it has committed.
            simulation.count("journal: committed after the fault")
            simulation.later(0.001, _fail, future)
            simulation.later(rng.uniform(0.001, 1.5), self._run, transaction, simulation.loop.create_future())
        else:
            slow = rng.random() < faults.store_slow
            delay = rng.uniform(0.05, 2.0) if slow else rng.choice((0.0, 0.0005, 0.001, 0.003))
            lost = rng.random() < faults.store_after
            simulation.later(delay, self._run, transaction, future, lost)
        return await future

    def _run(
        self, transaction: Callable[[], Answer], future: asyncio.Future[Answer], lost: bool = False
    ) -> None:
        if not self._simulation.journal_answers(self._replica):
            _fail(future)
            return
        try:
            answer = transaction()
        except Exception as error:  # noqa: BLE001 - it is the asker's
            if not future.done():
                future.set_exception(error)
                future.exception()  # a dead asker never looks at it
            return
        if lost:
            self._simulation.count("journal: fault after")
            _fail(future)
        elif not future.done():
            future.set_result(answer)


def _fail(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(unavailable())
        future.exception()


class Calls(Participants):
    """The calls of one replica."""

    def __init__(self, simulation: Simulation, replica: str) -> None:
        self._simulation = simulation
        self._replica = replica

    @override
    async def probe(self, participant: str) -> bool:
        await asyncio.sleep(0.01)
        return participant not in self._simulation.down

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        simulation = self._simulation
        future: asyncio.Future[bytes] = simulation.loop.create_future()
        simulation.network.send(self._replica, action, request, future)
        timer = simulation.later(timeout_seconds, _time_out, future)
        try:
            return await future
        finally:
            timer.cancel()


def _time_out(future: asyncio.Future[bytes]) -> None:
    if not future.done():
        future.set_exception(
            Fault(FaultKind.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "no answer in time", domain="")
        )
        future.exception()


class Arrived:
    """A request on its way to a participant, or there."""

    def __init__(self, action: Action, request: bytes, future: asyncio.Future[bytes]) -> None:
        self.action = action
        self.request = request
        self.future = future
        self.message: Any = RPCS[action.method][0].FromString(request)
        self.identity = identity_of(self.message)


class Network:
    """The way to the participants, and their doors."""

    def __init__(self, simulation: Simulation, world: World) -> None:
        self._simulation = simulation
        self._world = world
        self._under_way = 0
        # Set while no request is on its way to a participant, or being worked on.
        self.idle = asyncio.Event()
        self.idle.set()

    def _more_under_way(self, change: int) -> None:
        self._under_way += change
        if self._under_way:
            self.idle.clear()
        else:
            self.idle.set()

    def send(self, replica: str, action: Action, request: bytes, future: asyncio.Future[bytes]) -> None:
        simulation, rng = self._simulation, self._simulation.chance
        call = Arrived(action, request, future)
        simulation.checker.called(replica, action, request, call.identity)
        faults = simulation.faults
        if faults is None:
            self._deliver(0.001, call)
            return
        if action.participant in simulation.down:
            simulation.count("call to a participant that is down")
            if simulation.down[action.participant]:
                simulation.later(0.002, _answer, future, _away())
            return
        copies = 2 if rng.random() < faults.duplicated else 1
        for number in range(copies):
            if number or rng.random() >= faults.request_lost:
                self._deliver(self._delay(faults), call)
            else:
                simulation.count("request lost")

    def _delay(self, faults: Faults) -> float:
        rng = self._simulation.chance
        if rng.random() < faults.late:
            self._simulation.count("request late")
            return rng.uniform(*LATE_SECONDS)
        if rng.random() < faults.slow:
            return rng.uniform(0.1, 3.0)
        return rng.choice((0.0005, 0.001, 0.002, 0.01))

    def _deliver(self, delay: float, call: Arrived) -> None:
        self._more_under_way(1)
        self._simulation.later(delay, self._arrive, call)

    def _arrive(self, call: Arrived) -> None:
        simulation, rng, faults = self._simulation, self._simulation.chance, self._simulation.faults
        identity = call.identity
        if faults is not None and call.action.method in LONG and rng.random() < 0.4 and identity is not None:
            # It asks its provider in between, and others may come meanwhile.
            simulation.count("call in two transactions")
            if self._world.start(identity, call.request):
                simulation.later(rng.uniform(0.01, 4.0), self._work, call)
                return
        self._work(call)

    def _work(self, call: Arrived) -> None:
        self._more_under_way(-1)
        simulation, rng, faults = self._simulation, self._simulation.chance, self._simulation.faults
        answer: bytes | Fault
        if faults is not None and rng.random() < faults.unknown / 2:
            answer = self._nonsense()
        else:
            answer = self._handle(call)
            if faults is not None and rng.random() < faults.unknown / 2:
                simulation.count("unknown answer after the effect")
                answer = self._nonsense()
        simulation.note("answered", call.action.path, call.identity, answer)
        if faults is not None and rng.random() < faults.reply_lost:
            simulation.count("reply lost")
            return
        simulation.later(0.001, _answer, call.future, answer)

    def _handle(self, call: Arrived) -> bytes | Fault:
        _, domain = RPCS[call.action.method]

        def effect(world: World) -> bytes:
            return domain(world, call.message).SerializeToString(deterministic=True)

        identity = call.identity
        try:
            self._simulation.gate(identity)
            refusal = self._simulation.refusal(identity)
            if identity is None:
                if refusal is not None:
                    raise refusal
                return effect(self._world)
            if identity.undo:
                return self._world.undo(identity, refusal=refusal, effect=effect)
            records = not self._simulation.is_after_pivot(identity)
            return self._world.do(identity, call.request, refusal=refusal, effect=effect, records=records)
        except Fault as fault:
            made = Fault.from_json(fault.to_json(), recorded=fault.recorded)
            made.domain = f"sagacity.{call.action.participant}"
            return made

    def _nonsense(self) -> Fault:
        rng = self._simulation.chance
        self._simulation.count("unknown answer")
        if rng.random() < 0.2:
            return Fault(FaultKind.FAILED_PRECONDITION, "A_PROXY", "of a domain that is not ours")
        retry_after = timedelta(seconds=rng.uniform(0.1, 2.0)) if rng.random() < 0.3 else None
        kind = rng.choice(_UNKNOWN_KINDS)
        return Fault(kind, "NONSENSE", "who knows", retry_after=retry_after, domain="sagacity.simulation")


def _away() -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "AWAY", "the participant is down")


def _answer(future: asyncio.Future[bytes], answer: bytes | Fault) -> None:
    if future.done():
        return
    if isinstance(answer, Fault):
        future.set_exception(answer)
        future.exception()
    else:
        future.set_result(answer)
