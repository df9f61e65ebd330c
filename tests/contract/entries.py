"""What the contract suite writes."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from orchestrator.entries import Command, Entry, Event, State, Verb
from orchestrator.saga_log import Acceptance, SagaLog

INTENT = Event("order", "do", 0, "intended", request=b"bytes")
DONE = Event("order", "do", 1, "done", reply=b"reply")
REFUSAL = {"step": "order", "kind": "FAILED_PRECONDITION", "reason": "NO", "message": "no"}
LEASE_SECONDS = 30.0


def acceptance(name: str = "", **changes: Any) -> Acceptance:
    """A saga on an order of its own, under a key of its own unless it is named."""
    saga_id = new_id()
    made = Acceptance(
        saga_id=saga_id,
        kind="place_order",
        version=1,
        definition_hash="h",
        key=new_id(),
        context={"items": [["MUG", 1]], "note": None},
        deadline=timedelta(minutes=5),
        events=(INTENT,),
        owner="one",
        caller="user",
        rpc="PlaceOrder",
        idempotency_key=name or str(saga_id),
        request_hash=b"hash",
        step="order",
    )
    return dataclasses.replace(made, **changes)


def entry(saga_id: UUID, *, epoch: int = 1, sequence: int = 1, **changes: Any) -> Entry:
    """What is written of a saga that has been accepted, and no more."""
    made = Entry(
        saga_id, epoch, sequence, State.RUNNING, 0, pivot_intended=False, refusal=None, events=(DONE,)
    )
    return made._replace(**changes)


def command(saga_id: UUID, verb: Verb, **changes: Any) -> Command:
    """A verb of an operator."""
    event = Event("", verb, 0, "requested", actor="operator", reason="because")
    return Command(saga_id=saga_id, verb=verb, event=event, **changes)


async def begun(log: SagaLog, **changes: Any) -> UUID:
    """Accept a saga."""
    return (await log.accept(acceptance(owner=log.replica, **changes))).saga_id


async def begun_behind(log: SagaLog, key: UUID, **changes: Any) -> UUID:
    """Accept a saga on an order that others may have."""
    made = acceptance(owner=log.replica, key=key, events=(), step="", **changes)
    return (await log.accept_behind(made)).saga_id


async def state_of(log: SagaLog, saga_id: UUID) -> State:
    """Where a saga stands."""
    return (await log.load(saga_id))[0].state
