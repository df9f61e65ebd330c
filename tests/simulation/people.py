"""Who acts on a simulation: clients that order, operators, and the one who breaks things and mends them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from uuid import UUID

from chassis.errors import Fault
from orchestrator.entries import TERMINAL_STATES, State, Verb
from orchestrator.operations import Request
from orchestrator.saga import Saga
from orchestrator.saga_log import Acceptance, Accepted
from orchestrator.sagas.cancel_order import CancelOrder
from orchestrator.sagas.fulfil_order import FulfilOrder
from orchestrator.sagas.place_order import PlaceOrder
from orchestrator.sagas.refund_order import RefundOrder
from tests.simulation.definitions import CANCEL, FULFIL, PLACE, REFUND, SHIP, SKIPPABLE, VOID, Ship
from tests.simulation.domain import SKU
from tests.simulation.network import PARTICIPANTS
from tests.simulation.simulation import LEASE_SECONDS, Replica, Simulation

Answer = TypeVar("Answer")

CLIENT_PATIENCE_SECONDS = 2.5
CLIENT_PAUSE_SECONDS = 0.3
CLIENT_ATTEMPTS = 200
OPERATOR_PAUSE_SECONDS = 1.0
# P8: everything has ended so soon after the last fault.
CONVERGENCE_SECONDS = 60.0
REFUSED_BY_THE_ORDER = "ORDER_BUSY"


class NoAnswerError(Exception):
    """Nobody answered in time."""


class People:
    """The tasks that act on one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._chance: random.Random = simulation.chance
        self.begun: list[UUID] = []

    async def ask(self, replica: Replica, asked: Coroutine[Any, Any, Answer]) -> Answer:
        """Have a replica do something, as an RPC does.

        Raises:
            Fault: what it says.
            NoAnswerError: it did not say anything, and may have done it or not.
        """
        task = self._simulation.spawn(asked, replica.host.context)
        done, _ = await asyncio.wait([task], timeout=CLIENT_PATIENCE_SECONDS)
        if not done or task.cancelled():
            raise NoAnswerError
        answer: Answer = task.result()
        return answer

    async def _until_answered(self, make: Callable[[Replica], Coroutine[Any, Any, Answer]]) -> Answer | None:
        """Ask one replica after the other; None where the order is busy."""
        for _ in range(CLIENT_ATTEMPTS):
            replicas = self._simulation.alive()
            if replicas:
                replica = self._chance.choice(replicas)
                try:
                    return await self.ask(replica, make(replica))
                except NoAnswerError:
                    self._simulation.count("client got no answer")
                except Fault as fault:
                    self._simulation.count(f"client was told {fault.reason}")
                    if fault.reason == REFUSED_BY_THE_ORDER:
                        return None
            await asyncio.sleep(CLIENT_PAUSE_SECONDS)
        self._simulation.checker.violated("a client was never answered")
        return None

    # --- clients ---

    async def place(self, number: int, start: float) -> None:
        """Place an order, and perhaps do something with it afterwards."""
        await asyncio.sleep(start)
        simulation, rng = self._simulation, self._chance
        quantity = rng.randint(1, 4)
        order = PlaceOrder(
            user_id="user",
            order_id="",
            reservation_id="",
            payment_id="",
            items=[(SKU, quantity)],
            currency_code="EUR",
            address_id="address",
            payment_method_id="card",
        )

        def make(replica: Replica) -> Coroutine[Any, Any, Accepted]:
            ids = [str(simulation.new_id()) for _ in range(3)]
            params = dataclasses.replace(order, order_id=ids[0], reservation_id=ids[1], payment_id=ids[2])
            acceptance = self._acceptance(PLACE, params, f"place-{number}", UUID(ids[0]), replica)
            return replica.executor.accept(PLACE, params, acceptance)

        accepted = await self._until_answered(make)
        if accepted is None:
            return
        self._acknowledge("place_order", f"place-{number}", accepted)
        order_id = simulation.store.sagas[accepted.saga_id].context["order_id"]
        await self._ask_again(make, accepted.saga_id)
        for follower in range(rng.choice((0, 0, 1, 1, 2, 3))):
            await self._follow(f"{number}-{follower}", order_id)

    async def _follow(self, name: str, order_id: str) -> None:
        """Ship or cancel an order; the saga waits for those before it."""
        await asyncio.sleep(self._chance.choice((0.0, 0.1, 1.0, 3.0)))
        definition, params = self._request(order_id)

        def make(replica: Replica) -> Coroutine[Any, Any, Accepted]:
            acceptance = self._acceptance(definition, params, name, UUID(order_id), replica)
            return replica.executor.accept_behind(acceptance)

        accepted = await self._until_answered(make)
        if accepted is not None:
            self._acknowledge(definition.kind, name, accepted)
            await self._ask_again(make, accepted.saga_id)

    def _request(self, order_id: str) -> tuple[Saga[Any], Any]:
        """What somebody asks of an order that is there."""
        definition = self._chance.choice((SHIP, SHIP, VOID, CANCEL, REFUND, FULFIL))
        if definition is SHIP:
            return definition, Ship(order_id)
        if definition is REFUND:
            return definition, RefundOrder(
                order_id=order_id,
                refund_id=str(self._simulation.new_id()),
                reason="broken",
                lines=self._chance.choice(([], [(SKU, 1)])),
                amount_minor=None,
                currency_code="EUR",
                restock=self._chance.random() < 0.7,
            )
        if definition is FULFIL:
            return definition, FulfilOrder(order_id, carrier="Post", tracking_number="1")
        return definition, CancelOrder(order_id, user_id="", reason="changed my mind")

    def _acceptance(self, definition: Any, params: Any, name: str, key: UUID, replica: Replica) -> Acceptance:
        return Acceptance(
            saga_id=self._simulation.new_id(),
            kind=definition.kind,
            version=definition.version,
            definition_hash=definition.hash,
            key=key,
            context=dataclasses.asdict(params),
            deadline=definition.deadline,
            events=(),
            owner=replica.name,
            caller="user",
            rpc=definition.kind,
            idempotency_key=name,
            request_hash=name.encode(),
        )

    async def _ask_again(
        self, make: Callable[[Replica], Coroutine[Any, Any, Accepted]], saga_id: UUID
    ) -> None:
        """A client that asks twice gets one saga; one that waits for its answer gets the one that stays."""
        if self._chance.random() < 0.3:
            again = await self._until_answered(make)
            if again is not None and again.saga_id != saga_id:
                self._simulation.checker.violated("a key names two sagas", saga_id)
        if self._chance.random() < 0.5:
            seconds = self._chance.choice((0.1, 2.0))
            standing = await self._until_answered(lambda replica: replica.executor.wait(saga_id, seconds))
            if standing is not None and standing.answer is not None:
                self._simulation.count("client waited for its answer")
                self._simulation.checker.answers.append((saga_id, standing.answer))

    def _acknowledge(self, kind: str, name: str, accepted: Accepted) -> None:
        self._simulation.note("acknowledged", kind, accepted.saga_id)
        self._simulation.acknowledged.append((("user", kind, name), accepted.saga_id))
        self.begun.append(accepted.saga_id)

    # --- operators ---

    async def meddle(self, start: float) -> None:
        """Somebody asks something of some saga, at some moment."""
        await asyncio.sleep(start)
        if not self.begun:
            return
        verb = self._chance.choice(
            (Verb.CANCEL, Verb.CANCEL, Verb.PAUSE, Verb.PAUSE, Verb.RETRY, Verb.SKIP, Verb.COMPENSATE)
        )
        # What is asked of the latest finds it under way more often.
        some = self.begun[-1] if self._chance.random() < 0.5 else self._chance.choice(self.begun)
        await self.perform(some, verb)

    async def perform(self, saga_id: UUID, verb: Verb) -> None:
        simulation, replicas = self._simulation, self._simulation.alive()
        if not replicas:
            return
        replica = self._chance.choice(replicas)
        kind = simulation.store.sagas[saga_id].kind
        step = SKIPPABLE.get(kind, "") if verb is Verb.SKIP else ""
        try:
            asked = Request(saga_id, verb, actor="operator", reason="because", step=step)
            await self.ask(replica, replica.operations.perform(asked))
            simulation.note("operator", verb, saga_id)
        except NoAnswerError:
            simulation.count("operator got no answer")
        except Fault as fault:
            simulation.count(f"operator was told {fault.reason}")

    async def look_after(self) -> None:
        """Retry what is parked and resume what is paused, until everything has ended."""
        loop, store = self._simulation.loop, self._simulation.store
        end = loop.time() + CONVERGENCE_SECONDS
        while loop.time() < end:
            waiting = [row for row in store.sagas.values() if row.state not in TERMINAL_STATES]
            if not waiting:
                return
            for row in waiting:
                if row.state is State.PARKED:
                    skippable = row.step == SKIPPABLE.get(row.kind) and self._chance.random() < 0.7
                    await self.perform(row.id, Verb.SKIP if skippable else Verb.RETRY)
                elif row.state is State.PAUSED:
                    await self.perform(row.id, Verb.RESUME)
            await asyncio.sleep(OPERATOR_PAUSE_SECONDS)

    # --- who breaks things ---

    async def break_something(self, start: float, seconds: float) -> None:
        """Take something away for so many seconds."""
        await asyncio.sleep(start)
        simulation = self._simulation
        how = self._chance.choice(
            (
                self._crash,
                self._crash,
                self._pause,
                self._pause,
                self._stop,
                self._no_journal,
                self._cut_off,
                self._cut_off,
                self._outage,
            )
        )
        simulation.note("breaks", how.__name__, seconds)
        await how(seconds)

    def _some_replica(self) -> Replica | None:
        replicas = [replica for replica in self._simulation.alive() if replica.host.running]
        return self._chance.choice(replicas) if replicas else None

    async def _crash(self, seconds: float) -> None:
        replica = self._some_replica()
        if replica is None:
            return
        self._simulation.count("crash")
        replica.dead = True
        self._simulation.loop.stop_host(replica.host)
        await asyncio.sleep(min(seconds, LEASE_SECONDS))
        self._simulation.begin_replica()

    async def _pause(self, seconds: float) -> None:
        replica = self._some_replica()
        if replica is None:
            return
        self._simulation.count("pause longer than the lease" if seconds > LEASE_SECONDS else "short pause")
        self._simulation.loop.stop_host(replica.host)
        await asyncio.sleep(seconds)
        self._simulation.loop.continue_host(replica.host)

    async def _stop(self, seconds: float) -> None:
        replica = self._some_replica()
        if replica is None:
            return
        self._simulation.count("graceful stop")
        replica.serves = False
        self._simulation.begin_replica()
        self._simulation.note("stops", replica.name, seconds)
        try:
            await self.ask(replica, replica.stop())
        except NoAnswerError:
            self._simulation.count("graceful stop that hung")
        replica.dead = True
        self._simulation.loop.stop_host(replica.host)

    async def _no_journal(self, seconds: float) -> None:
        self._simulation.count("journal outage")
        self._simulation.journal_away = True
        await asyncio.sleep(seconds)
        self._simulation.journal_away = False

    async def _cut_off(self, seconds: float) -> None:
        replica = self._some_replica()
        if replica is None:
            return
        self._simulation.count("replica cut off from the journal")
        self._simulation.cut_off.add(replica.name)
        await asyncio.sleep(seconds)
        self._simulation.cut_off.discard(replica.name)

    async def _outage(self, seconds: float) -> None:
        participant = self._chance.choice(PARTICIPANTS)
        self._simulation.count("participant outage")
        self._simulation.down[participant] = self._chance.random() < 0.6
        await asyncio.sleep(seconds)
        self._simulation.down.pop(participant, None)
