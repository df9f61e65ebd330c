"""What must hold: after every commit and at every call, and when all has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from orchestrator.entries import INTENDED, OPEN_STATES, REQUESTED, TERMINAL_STATES, Event, State, Verb
from orchestrator.progress import UNWIND
from orchestrator.saga import Action, Operation, Outcome
from sagacity.orders.v1 import orders_pb2
from tests.simulation.definitions import CHECKS, PIVOTS, SAGAS
from tests.simulation.memory_rows import HOLDING, Change, Row
from tests.simulation.participants import COURIER_FEE, PRICE, STOCK, WALLET, Identity, World

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

_DRIVES = frozenset({"accepted", "claimed", "commanded", "written"})


class Checker:
    """Watches one simulation; what does not hold goes to `violations`."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.violations: list[str] = []
        self._intents: dict[tuple[UUID, str, bool], bytes] = {}
        self._intended: set[bytes] = set()
        self._unwound: set[UUID] = set()
        self._pivots: set[UUID] = set()
        self._refused_pivots: set[UUID] = set()
        self._epochs: dict[UUID, int] = {}
        self._owners: dict[tuple[UUID, int], str] = {}
        self._ended: set[UUID] = set()
        self._undone_group: dict[UUID, int] = {}
        self.skipped: set[tuple[UUID, str]] = set()
        # What clients were told when they waited.
        self.answers: list[tuple[UUID, bytes]] = []

    def violated(self, what: str, saga_id: UUID | None = None) -> None:
        self._simulation.note("VIOLATED", what, saga_id)
        self.violations.append(what if saga_id is None else f"{what} (saga {saga_id})")

    # --- every commit ---

    def changed(self, change: Change) -> None:
        row = change.row
        self._simulation.changed(change)
        if change.kind == "landed":
            return
        self._fence(change)
        if row.sequence != len(row.events) or (row.sequence and row.sequence not in row.events):
            self.violated("the events have a gap, or are not the saga's", row.id)
        if row.id in self._ended:
            self.violated("a saga that had ended changed", row.id)
        if row.state in TERMINAL_STATES:
            self._ended.add(row.id)
        self._check_lock(row)
        for event in change.events:
            self._event(row, event)
        if row.state is State.PARKED and row.id not in self._simulation.refused_hard:
            self.violated(f"parked without a refusal: {row.last_error}", row.id)

    def _fence(self, change: Change) -> None:
        row = change.row
        if row.epoch < self._epochs.get(row.id, 0):
            self.violated("an epoch went down", row.id)
        self._epochs[row.id] = row.epoch
        if change.kind in _DRIVES and row.state is not State.WAITING:
            owner = self._owners.setdefault((row.id, row.epoch), change.by)
            if owner != change.by:
                self.violated(f"{owner} and {change.by} wrote under one epoch", row.id)

    def _check_lock(self, row: Row) -> None:
        if row.state not in HOLDING:
            return
        for other in self._simulation.store.sagas.values():
            if other.key == row.key and other is not row and other.state in HOLDING:
                self.violated("two sagas of one order are under way", row.id)

    def _event(self, row: Row, event: Event) -> None:
        if event.outcome == REQUESTED:
            if event.operation == Verb.SKIP:
                self.skipped.add((row.id, event.step))
        elif event.operation == UNWIND:
            self._unwind(row)
        elif event.step and event.outcome == INTENDED:
            self._intent(row, event)
        elif (row.kind, event.step) in PIVOTS and event.outcome == Outcome.REFUSED and event.recorded:
            self._refused_pivots.add(row.id)

    def _unwind(self, row: Row) -> None:
        if row.id in self._pivots and row.id not in self._refused_pivots:
            self.violated("unwound after the pivot's intent, without its refusal", row.id)
        if row.id in self._unwound:
            self.violated("unwound twice", row.id)
        self._unwound.add(row.id)

    def _intent(self, row: Row, event: Event) -> None:
        undo = event.operation == Operation.UNDO
        self._intents[row.id, event.step, undo] = event.request or b""
        self._intended.add(event.request or b"")
        groups = [[step.name for step in group] for group in SAGAS[row.kind].groups]
        group = next(number for number, names in enumerate(groups) if event.step in names)
        if undo:
            self._simulation.count(f"undo of {row.kind}.{event.step}")
            if group > self._undone_group.get(row.id, group):
                self.violated("undone out of order", row.id)
            self._undone_group[row.id] = group
            return
        if row.id in self._unwound:
            self.violated("a step forward after the unwind", row.id)
        if SAGAS[row.kind].step(event.step).pivot:
            self._pivots.add(row.id)

    # --- every call ---

    def called(self, replica: str, action: Action, request: bytes, identity: Identity | None) -> None:
        self._simulation.note("call", replica, action.path, identity)
        if identity is not None and self._simulation.driver.get(identity.saga_id) != replica:
            self._simulation.count("call of a replica that lost the saga")
        if request not in self._intended:
            self.violated(f"{action.path} was called without a committed intent, or with other bytes")
        if identity is None:
            return
        if self._intents.get(identity) != request:
            self.violated(f"{identity.step} was not intended so", identity.saga_id)
        if identity.undo and identity.saga_id not in self._unwound:
            self.violated(f"{identity.step} was undone before the unwind was decided", identity.saga_id)

    # --- a graceful stop ---

    def stopped(self, replica: str) -> None:
        """Nothing is left to a replica that is gone; where the journal was in trouble, that takes a lease."""
        simulation = self._simulation
        faults = simulation.faults
        healthy = faults is None or not (faults.store_before + faults.store_after + faults.store_detached)
        if healthy and not simulation.journal_away and replica in simulation.store.replicas:
            self._simulation.count("lease after a graceful stop")
            for row in simulation.store.sagas.values():
                if row.owner == replica and row.state in OPEN_STATES:
                    self.violated("a saga was left to a replica that is gone", row.id)

    # --- at the end ---

    def ended(self) -> None:
        """Look at everything once nothing happens any more."""
        world = self._simulation.world
        self._check_clients()
        for saga in self._simulation.store.sagas.values():
            self._check_ended(world, saga)
        for identity, times in world.effects.items():
            if times > 1:
                self.violated(f"{identity.step} had its effect {times} times", identity.saga_id)
        self._check_sums(world)
        self._check_orders(world)

    def _check_clients(self) -> None:
        store = self._simulation.store
        for name, saga_id in self._simulation.acknowledged:
            found = store.names.get(name)
            if found is None or found.saga_id != saga_id or saga_id not in store.sagas:
                self.violated("an acknowledged saga is lost", saga_id)
            elif found.answer is None:
                self.violated("an acknowledged saga has no answer", saga_id)
        for saga_id, answer in self.answers:
            if store.standing(saga_id).answer != answer:
                self.violated("a terminal answer changed", saga_id)

    def _check_ended(self, world: World, saga: Row) -> None:
        if saga.state not in TERMINAL_STATES:
            self.violated(f"{saga.kind} is still {saga.state}: {saga.last_error}", saga.id)
            return
        definition = SAGAS[saga.kind]
        params = definition.params(**saga.context)
        names = [
            step.name
            for step in definition.all_steps()
            if (saga.kind, step.name) not in CHECKS and (step.when is None or step.when(params))
        ]
        for identity in world.effects:
            if identity.saga_id == saga.id and identity.step not in names:
                self.violated(f"an effect of {identity.step}, which is no step", saga.id)
        for step in names:
            did = world.effects[Identity(saga.id, step, undo=False)]
            undid = world.effects[Identity(saga.id, step, undo=True)]
            skipped = (saga.id, step) in self.skipped
            if saga.state is State.COMPLETED and (did - undid != 1) and not skipped:
                self.violated(f"completed, and {step} has {did - undid} effects", saga.id)
            if saga.state is State.COMPENSATED and did != undid:
                self.violated(f"compensated, and {step} still has its effect", saga.id)

    def _check_sums(self, world: World) -> None:
        if any(value < 0 for value in world.accounts.values()):
            self.violated(f"an account is below zero: {dict(world.accounts)}")
        if world.total("stock", "held", "sold") != STOCK or world.total("boxes", "used") != STOCK:
            self.violated("stock is not conserved")
        if world.total("wallet", "paid", "courier") != WALLET:
            self.violated("money is not conserved")
        if world.total("held"):
            self.violated("stock is still held")

    def _check_orders(self, world: World) -> None:
        sagas = list(self._simulation.store.sagas.values())
        completed = [row for row in sagas if row.state is State.COMPLETED]
        shipped = sum(row.kind == "ship" for row in completed)
        if (world.accounts["used"], world.accounts["courier"]) != (shipped, shipped * COURIER_FEE):
            self.violated(f"{shipped} shipped, {world.accounts['used']} boxes used")
        for row in sagas:
            if row.kind == "place_order" and row.state in TERMINAL_STATES:
                order_id = row.context["order_id"]
                after = [other for other in completed if other.context["order_id"] == order_id]
                self._check_order(world, row, [other for other in after if other is not row])

    def _check_order(self, world: World, row: Row, after: list[Row]) -> None:
        """Compare an order with its saga and with the completed ones after it."""
        order_id, kinds = row.context["order_id"], {other.kind for other in after}
        units, money = 0, 0
        if row.state is State.COMPLETED and not kinds & {"cancel_order", "void"}:
            units = row.context["items"][0][1]
            money = units * PRICE
            for refund in after:
                if refund.kind == "refund_order":
                    amount, restocked = self._refunded(refund)
                    money, units = money - amount, units - restocked
        has = world.accounts[f"sold:{row.context['reservation_id']}"]
        paid = world.accounts[f"paid:{row.context['payment_id']}"]
        if (has, paid) != (units, money):
            self.violated(f"an order has {has} units for {paid}, not {units} for {money}", row.id)
        if world.orders.get(order_id, "") not in _states(row, kinds):
            self.violated(f"an order is {world.orders.get(order_id, '')!r} after {sorted(kinds)}", row.id)

    def _refunded(self, saga: Row) -> tuple[int, int]:
        """How much money and how many units went back with a refund."""
        replies = (event.reply for event in saga.events.values() if event.step == "quote" and event.reply)
        quote = orders_pb2.QuoteRefundResponse.FromString(next(replies))
        # Where it was skipped and came all the same, they are back all the same.
        back = self._simulation.world.effects[Identity(saga.id, "restock", undo=False)]
        return quote.amount.minor_units, sum(line.quantity for line in quote.lines) if back else 0


def _states(order: Row, kinds: set[str]) -> set[str]:
    """The states that fit an order with so many completed sagas after it."""
    if order.state is State.COMPENSATED:
        return {"", "REJECTED"}
    if kinds & {"cancel_order", "void"}:
        return {"CANCELLED"}
    return {"SHIPPED"} if kinds & {"ship", "fulfil_order"} else {"CONFIRMED"}
