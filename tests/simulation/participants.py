"""The participants: a barrier that remembers as `chassis.barrier` does, and a domain in which things add up.

The domain is a ledger: units move from one account to another and none may go below zero, so stock and money
are conserved unless something is done twice, or half.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from chassis.errors import Fault, FaultKind

PRICE = 7
COURIER_FEE = 3
STOCK = 9
WALLET = 50 * PRICE

Reply = bytes


class Identity(NamedTuple):
    """Which call it is: what the barrier reads of a request."""

    saga_id: UUID
    step: str
    undo: bool


@dataclass(slots=True)
class Remembered:
    """A row of the barrier."""

    outcome: str  # IN_PROGRESS | DONE | REFUSED | TOMBSTONE
    request_hash: bytes = b""
    reply: Reply = b""
    refusal: Fault | None = None
    undo_reply: Reply | None = None


class World:
    """What the participants hold, and how often each step had its effect."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self.accounts: Counter[str] = Counter({"stock": STOCK, "boxes": STOCK, "wallet": WALLET})
        self.orders: dict[str, str] = {}
        self.reservations: dict[str, str] = {}
        self.payments: dict[str, str] = {}
        self.refunded: Counter[str] = Counter()
        self.effects: Counter[Identity] = Counter()
        self.barrier: dict[tuple[UUID, str], Remembered] = {}
        self._count = count

    # --- the ledger ---

    def total(self, *names: str) -> int:
        return sum(value for name, value in self.accounts.items() if name.partition(":")[0] in names)

    def move(self, source: str, target: str, amount: int, reason: str) -> None:
        if self.accounts[source] < amount:
            raise Fault(FaultKind.FAILED_PRECONDITION, reason, f"{source} has less than {amount}")
        self.accounts[source] -= amount
        self.accounts[target] += amount

    def empty(self, source: str, target: str) -> None:
        self.move(source, target, self.accounts[source], "EMPTY")

    def become(self, order_id: str, state: str, *before: str) -> None:
        if self.orders.get(order_id, "") not in before:
            found = self.orders.get(order_id, "nothing")
            raise Fault(FaultKind.FAILED_PRECONDITION, "ORDER_STATE", f"the order is {found}")
        self.orders[order_id] = state

    # --- the barrier ---

    def do(
        self,
        identity: Identity,
        request: bytes,
        *,
        refusal: Fault | None,
        effect: Effect,
        records: bool = True,
    ) -> Reply:
        """Answer a do as the table of `chassis.barrier` says.

        `refusal` is what chance has the domain say; `records` is False for a step after the pivot.
        """
        digest, key = hashlib.sha256(request).digest(), (identity.saga_id, identity.step)
        stored = self.barrier.get(key)
        if stored is not None and (stored.outcome != "IN_PROGRESS" or stored.request_hash != digest):
            return self._replayed(stored, digest)
        try:
            if refusal is not None:
                raise refusal
            reply = effect(self)
        except Fault as fault:
            if not records:
                raise
            recorded = Fault(fault.kind, fault.reason, fault.message, recorded=True)
            self.barrier[key] = Remembered("REFUSED", digest, refusal=recorded)
            raise recorded from fault
        self.effects[identity] += 1
        self.barrier[key] = Remembered("DONE", digest, reply)
        return reply

    def _replayed(self, stored: Remembered, digest: bytes) -> Reply:
        if stored.outcome == "TOMBSTONE":
            self._count("tombstone met")
            raise Fault(FaultKind.FAILED_PRECONDITION, "TOMBSTONED", "undone before", recorded=True)
        if stored.request_hash != digest:
            raise Fault(FaultKind.FAILED_PRECONDITION, "REQUEST_CHANGED", "another request before")
        self._count("duplicate answered")
        if stored.refusal is not None:
            raise stored.refusal
        return stored.reply

    def start(self, identity: Identity, request: bytes) -> bool:
        """Begin what takes long, in a transaction of its own; whether anything is left to do."""
        key = (identity.saga_id, identity.step)
        if key not in self.barrier:
            self.barrier[key] = Remembered("IN_PROGRESS", hashlib.sha256(request).digest())
        return self.barrier[key].outcome == "IN_PROGRESS"

    def undo(self, identity: Identity, *, refusal: Fault | None, effect: Effect) -> Reply:
        key = (identity.saga_id, identity.step)
        stored = self.barrier.get(key)
        if stored is None:
            # Nothing to undo, but what the saga's caller is told: an order that never was is REJECTED.
            reply = effect(self) if identity.step == "order" else b""
            self.barrier[key] = Remembered("TOMBSTONE", undo_reply=reply)
            self._count("tombstone left")
            return reply
        if stored.undo_reply is not None:
            self._count("duplicate undo answered")
            return stored.undo_reply
        if stored.outcome == "REFUSED":
            self._count("undo of a refused step")
            return b""
        if refusal is not None:
            raise refusal
        reply = stored.undo_reply = effect(self)
        if stored.outcome == "IN_PROGRESS":
            self._count("undo of a step in progress")
            stored.outcome = "TOMBSTONE"
        else:
            self.effects[identity] += 1
        return reply


Effect = Callable[[World], Reply]
