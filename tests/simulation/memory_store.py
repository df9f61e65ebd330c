"""What the tables of the saga log hold, in memory: one store, many replicas; each method is one transaction.

It does what `orchestrator.statements` does; the contract suite in tests/contract holds both to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator
from uuid import UUID

from chassis.ids import moment_of
from orchestrator.beginning import KEY_LIFETIME
from orchestrator.entries import (
    OPEN_STATES,
    REQUESTED,
    TERMINAL_STATES,
    VERB_STATES,
    Command,
    Entry,
    Event,
    State,
    Verb,
)
from orchestrator.journal import (
    PRUNE_BATCH,
    RAMP_PER_SECOND,
    START_BATCH,
    STRANGE_SECONDS,
    SWEEP_GRACE_SECONDS,
    WAKE_BATCH,
)
from orchestrator.saga_log import (
    MAX_WAITING,
    Acceptance,
    Accepted,
    Holder,
    SagaRow,
    Standing,
    order_busy,
    too_many_waiting,
)
from tests.simulation.memory_rows import HOLDING, Change, LockBrokenError, Name, NameOfSaga, Row

PRUNE_LEASES = 10


class MemoryStore:
    """The tables. `now` is their clock, in seconds since 1970; `watch` is told of each change of a saga."""

    def __init__(self, now: Callable[[], float], watch: Callable[[Change], None] = lambda _: None) -> None:
        self.now = now
        self.watch = watch
        self.sagas: dict[UUID, Row] = {}
        self.archive: dict[UUID, Row] = {}
        self.names: dict[NameOfSaga, Name] = {}
        self.replicas: dict[str, float] = {}
        self.started_by: set[str] = set()

    # --- beginning ---

    def accept(self, acceptance: Acceptance) -> Accepted:
        found = self.find(acceptance)
        if found is not None:
            return found
        self._begin(acceptance, State.RUNNING, acceptance.owner, acceptance.events)
        return Accepted(acceptance.saga_id, acceptance.request_hash, None, fresh=True)

    def accept_behind(self, acceptance: Acceptance) -> Accepted:
        found = self.find(acceptance)
        if found is not None:
            return found
        holder = self.holder(acceptance.key)
        if holder is not None and holder.state is State.PARKED:
            raise order_busy(holder.saga_id)
        waiting = sum(row.key == acceptance.key and row.state is State.WAITING for row in self.sagas.values())
        if waiting >= MAX_WAITING:
            raise too_many_waiting()
        waits = holder is not None or waiting > 0
        state, owner = (State.WAITING, None) if waits else (State.RUNNING, acceptance.owner)
        self._begin(acceptance, state, owner, ())
        return Accepted(acceptance.saga_id, acceptance.request_hash, None, fresh=True, waiting=waits)

    def _begin(
        self, acceptance: Acceptance, state: State, owner: str | None, events: tuple[Event, ...]
    ) -> None:
        now = self.now()
        if state in HOLDING and self.holder(acceptance.key) is not None:
            raise LockBrokenError(acceptance.key)
        self.names[_name(acceptance)] = Name(
            acceptance.saga_id, acceptance.request_hash, now + KEY_LIFETIME.total_seconds()
        )
        row = self.sagas[acceptance.saga_id] = Row(
            id=acceptance.saga_id,
            kind=acceptance.kind,
            version=acceptance.version,
            definition_hash=acceptance.definition_hash,
            key=acceptance.key,
            state=state,
            sequence=len(events),
            epoch=1,
            owner=owner,
            context=json.loads(json.dumps(acceptance.context)),
            deadline=now + acceptance.deadline.total_seconds(),
            next_run=now,
            create_time=now,
            update_time=now,
            step=acceptance.step if events else "",
            traceparent=acceptance.traceparent,
            request_id=acceptance.request_id,
            pivot_intended=bool(events) and acceptance.pivot_intended,
            events=dict(enumerate(events, start=1)),
        )
        self.watch(Change("accepted", acceptance.owner, row, events))

    def find(self, acceptance: Acceptance) -> Accepted | None:
        name = self.names.get(_name(acceptance))
        if name is None:
            return None
        fresh = name.saga_id == acceptance.saga_id
        return Accepted(name.saga_id, name.request_hash, name.answer, fresh=fresh)

    def holder(self, key: UUID) -> Holder | None:
        for row in self.sagas.values():
            if row.key == key and row.state in HOLDING:
                return Holder(row.id, row.kind, row.state, row.pivot_intended, row.context)
        return None

    # --- driving ---

    def write(self, entry: Entry, by: str) -> bool:
        """Whether (epoch, sequence) matched, so that the entry is written."""
        row = self.sagas.get(entry.saga_id)
        if row is None or not self.matches(row, entry):
            return False
        self.apply(row, entry, by)
        return True

    def matches(self, row: Row, entry: Entry) -> bool:
        return row.epoch == entry.epoch and row.sequence == entry.sequence

    def apply(self, row: Row, entry: Entry, by: str) -> None:
        now = self.now()
        self.add_events(row, entry)
        row.state = entry.state
        row.sequence += len(entry.events)
        row.attempts = entry.attempts
        row.pivot_intended = entry.pivot_intended
        row.refusal = json.loads(json.dumps(entry.refusal)) if entry.refusal else row.refusal
        row.update_time = now
        row.step, row.waiting_for = entry.step, entry.waiting_for
        row.error_fingerprint, row.last_error = entry.fingerprint, entry.last_error
        if entry.deadline_seconds is not None:
            row.deadline = now + entry.deadline_seconds
        if entry.delay_seconds is not None:
            row.next_run = now + entry.delay_seconds
        if entry.release:
            row.owner = None
        if entry.answer is not None:
            for name in self.names.values():
                if name.saga_id == row.id:
                    name.answer = entry.answer
        self.watch(Change("written", by, row, entry.events))
        if row.state in TERMINAL_STATES and self.holder(row.key) is None:
            self._start(self._first_waiting(row.key), by)

    def add_events(self, row: Row, entry: Entry) -> None:
        row.events.update(enumerate(entry.events, start=entry.sequence + 1))

    def landed(self, entry: Entry) -> bool:
        """Whether an entry that matched nothing is there already."""
        row = self.sagas.get(entry.saga_id)
        if row is None or not entry.events:
            return False
        last = row.events.get(row.sequence)
        after = (entry.epoch, entry.sequence + len(entry.events))
        if last is None or (row.epoch, row.sequence) != after or last[:4] != entry.events[-1][:4]:
            return False
        self.watch(Change("landed", row.owner or "", row))
        return True

    def _first_waiting(self, key: UUID) -> Row | None:
        waiting = (row for row in self.sagas.values() if row.key == key and row.state is State.WAITING)
        return min(waiting, key=_age, default=None)

    def _start(self, row: Row | None, by: str) -> None:
        if row is None:
            return
        row.state = State.RUNNING
        row.next_run = row.update_time = self.now()
        self.started_by.add(by)
        self.watch(Change("started", by, row))

    def command(self, command: Command, owner: str) -> int | None:
        row = self.sagas.get(command.saga_id)
        if row is None or not self._fits(row, command):
            return None
        if command.verb is Verb.PAUSE:
            row.state = State.PAUSED
        elif row.state is not State.WAITING:
            row.state = State.RUNNING if row.refusal is None else State.COMPENSATING
        row.epoch += 1
        row.sequence += 1
        row.attempts, row.waiting_for = 0, ""
        row.owner = None if command.verb is Verb.PAUSE else owner
        row.next_run = row.update_time = self.now()
        event = command.event._replace(operation=command.verb, attempt=0, outcome=REQUESTED)
        row.events[row.sequence] = event
        self.watch(Change("commanded", owner, row, (event,)))
        return row.epoch

    @staticmethod
    def _fits(row: Row, command: Command) -> bool:
        if row.state not in VERB_STATES[command.verb]:
            return False
        if command.before_pivot and (row.pivot_intended or row.refusal is not None):
            return False
        return command.sequence is None or row.sequence == command.sequence

    def postpone(self, saga_id: UUID, epoch: int, seconds: float, by: str) -> None:
        row = self.sagas.get(saga_id)
        if row is None or (row.epoch, row.owner) != (epoch, by) or row.state not in OPEN_STATES:
            return
        row.owner = None
        row.epoch += 1
        row.attempts += 1
        row.next_run = self.now() + seconds
        self.watch(Change("postponed", by, row))

    # --- reading ---

    def load_row(self, saga_id: UUID) -> SagaRow:
        row, now = self.sagas[saga_id], self.now()
        return SagaRow(
            id=row.id,
            kind=row.kind,
            version=row.version,
            definition_hash=row.definition_hash,
            key=row.key,
            state=row.state,
            sequence=row.sequence,
            epoch=row.epoch,
            owner=row.owner,
            context=row.context,
            deadline_seconds=row.deadline - now,
            attempts=row.attempts,
            pivot_intended=row.pivot_intended,
            refusal=row.refusal,
            error_fingerprint=row.error_fingerprint,
            last_error=row.last_error,
            waiting_for=row.waiting_for,
            step=row.step,
            age_seconds=now - row.create_time,
            traceparent=row.traceparent,
            request_id=row.request_id,
        )

    def load_events(self, saga_id: UUID) -> list[Event]:
        row = self.sagas.get(saga_id)
        return [row.events[number] for number in sorted(row.events)] if row else []

    def standing(self, saga_id: UUID) -> Standing:
        row = self.sagas[saga_id]
        answer = next((name.answer for name in self.names.values() if name.saga_id == saga_id), None)
        return Standing(row.state, answer, row.refusal, row.key)

    # --- leases ---

    def renew(self, replica: str, lease_seconds: float) -> None:
        self.replicas[replica] = self.now() + lease_seconds

    def claim(
        self,
        replica: str,
        in_memory: Collection[UUID],
        *,
        limit: int,
        newest_first: bool,
        drives: Collection[str] | None = None,
    ) -> list[UUID]:
        self.start_waiting()
        known = (row for row in self.sagas.values() if drives is None or self._is_for(row, drives))
        due = [row for row in known if self.claimable(row, replica, in_memory)]
        due.sort(key=lambda row: row.next_run, reverse=newest_first)
        for row in due[:limit]:
            row.owner = replica
            row.epoch += 1
            self.watch(Change("claimed", replica, row))
        return [row.id for row in due[:limit]]

    def _is_for(self, row: Row, drives: Collection[str]) -> bool:
        if f"{row.kind} {row.version} {row.definition_hash}" in drives:
            return True
        return max(row.next_run, row.update_time) < self.now() - STRANGE_SECONDS

    def start_waiting(self) -> None:
        keys = {row.key: None for row in self.sagas.values() if row.state is State.WAITING}
        for key in list(keys)[:START_BATCH]:
            if self.holder(key) is None:
                self._start(self._first_waiting(key), "")

    def claimable(self, row: Row, replica: str, in_memory: Collection[UUID]) -> bool:
        now = self.now()
        if row.state not in OPEN_STATES or row.next_run > now:
            return False
        if row.owner is None:
            return True
        if row.owner == replica:
            return row.id not in in_memory and row.update_time < now - SWEEP_GRACE_SECONDS
        return self.replicas.get(row.owner, 0.0) <= now

    def wake(self, participant: str) -> None:
        held = [row for row in self._released() if participant and row.waiting_for == participant]
        for number, row in enumerate(sorted(held, key=_age)[:WAKE_BATCH]):
            ramp = math.log2(1 + number * math.log(2) / RAMP_PER_SECOND)
            row.next_run = min(row.next_run, self.now() + ramp)

    def _released(self) -> Iterator[Row]:
        return (row for row in self.sagas.values() if row.state in OPEN_STATES and row.owner is None)

    def hand_over(self, replica: str) -> None:
        self.replicas.pop(replica, None)
        for row in self.sagas.values():
            if row.owner == replica and row.state in OPEN_STATES:
                row.owner = None
                row.epoch += 1
                self.watch(Change("handed over", replica, row))

    def prune(self, lease_seconds: float, archive_after_seconds: float) -> bool:
        now = self.now()
        old_names = [name for name, value in self.names.items() if value.expires_at < now and value.answer]
        for name in old_names[:PRUNE_BATCH]:
            del self.names[name]
        owners = {row.owner for row in self.sagas.values() if row.state in OPEN_STATES}
        for replica, expires_at in list(self.replicas.items()):
            if expires_at < now - lease_seconds * PRUNE_LEASES and replica not in owners:
                del self.replicas[replica]
        limit = now - archive_after_seconds
        old = [
            row
            for row in self.sagas.values()
            if row.state in TERMINAL_STATES
            and row.update_time < limit
            and moment_of(row.id).timestamp() < limit
        ]
        for row in old[:PRUNE_BATCH]:
            self.archive[row.id] = self.sagas.pop(row.id)
        return PRUNE_BATCH in {len(old_names[:PRUNE_BATCH]), len(old[:PRUNE_BATCH])}


def _name(acceptance: Acceptance) -> NameOfSaga:
    return (acceptance.caller, acceptance.rpc, acceptance.idempotency_key)


def _age(row: Row) -> tuple[float, UUID]:
    return row.create_time, row.id
