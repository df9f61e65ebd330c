"""Sagas that are driven for real on PostgreSQL, against participants that misbehave on demand."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from chassis.postgres import Database, statement
from orchestrator.calling import Participants
from orchestrator.definitions import Definitions
from orchestrator.entries import State
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.leases import Leases
from orchestrator.saga import Action, Ending, Parallel, Saga, Step, View, calls
from orchestrator.saga_log import Acceptance
from sagacity.inventory.v1 import inventory_pb2

pytestmark = pytest.mark.integration

INVENTORY = "sagacity.inventory.v1.Inventory"
AWAY = Fault(FaultKind.UNAVAILABLE, "AWAY", "away", domain="sagacity.test")
NO = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", recorded=True, domain="sagacity.test")
WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Nothing:
    pass


@calls(INVENTORY, "Reserve")
def do(saga: View[Nothing]) -> inventory_pb2.ReleaseReservationRequest:
    return inventory_pb2.ReleaseReservationRequest(saga_step=saga.call)


@calls(INVENTORY, "ReleaseReservation")
def undo(saga: View[Nothing]) -> inventory_pb2.ReleaseReservationRequest:
    return inventory_pb2.ReleaseReservationRequest(saga_step=saga.call)


def answer(ending: Ending) -> inventory_pb2.ReleaseReservationRequest:
    return inventory_pb2.ReleaseReservationRequest(reservation_id=ending.state)


DEFINITION = Saga(
    kind="test",
    version=1,
    params=Nothing,
    deadline=timedelta(minutes=5),
    answer=answer,
    steps=(
        Parallel(Step("a", do, undo=undo), Step("b", do, undo=undo)),
        Step("c", do, undo=undo),
        Step("d", do, pivot=True),
    ),
)


@dataclass
class Script(Participants):
    """Answers by script: first the faults, one for each call; then DONE. Remembers all that it was asked."""

    faults: dict[tuple[str, bool], list[Fault]] = field(default_factory=dict)
    seen: list[tuple[str, bool, bytes]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)

    @override
    async def probe(self, participant: str) -> bool:
        return True

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        step = inventory_pb2.ReleaseReservationRequest.FromString(request).saga_step.step
        key = (step, action.method == "ReleaseReservation")
        self.seen.append((*key, request))
        if self.hold is not None and step == "c":
            self.held.set()
            await self.hold.wait()
        if self.faults.get(key):
            raise self.faults[key].pop(0)
        return b""

    def calls(self, *, undo: bool) -> list[str]:
        return [step for step, is_undo, _ in self.seen if is_undo is undo]


@dataclass
class Replica:
    name: str
    executor: Executor
    leases: Leases
    database: Database


@asynccontextmanager
async def replica(dsn: str, script: Script, name: str = "one") -> AsyncIterator[Replica]:
    database = await Database.open(dsn, application_name=name)
    journal = Journal(database, name)
    executor = Executor(journal, script, Definitions({("test", 1): DEFINITION}))
    leases = Leases(journal, executor, lease_seconds=1.0)
    await leases.renew()
    tasks = [asyncio.create_task(part.run()) for part in (journal, executor, leases)]
    try:
        yield Replica(name, executor, leases, database)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()


def acceptance(owner: str) -> Acceptance:
    return Acceptance(
        saga_id=new_id(),
        kind="test",
        version=1,
        definition_hash=DEFINITION.hash,
        key=new_id(),
        context=dataclasses.asdict(Nothing()),
        deadline=DEFINITION.deadline,
        events=(),
        owner=owner,
        caller="user",
        rpc="Test",
        idempotency_key=str(new_id()),
        request_hash=b"",
    )


async def begin(on: Replica) -> UUID:
    accepted = await on.executor.accept(DEFINITION, Nothing(), acceptance(on.name))
    assert accepted.fresh
    return accepted.saga_id


async def rows(database: Database, query: str, **params: Any) -> list[dict[str, Any]]:
    return await database.fetch(statement("test", query), params)


async def test_a_saga_that_nobody_refuses_completes(new_database: Callable[..., str]) -> None:
    script = Script()
    async with replica(new_database("orchestrator"), script) as one:
        standing = await one.executor.wait(await begin(one), WAIT_SECONDS)
    assert standing.state is State.COMPLETED
    assert script.calls(undo=False) == ["a", "b", "c", "d"]
    assert script.calls(undo=True) == []


async def test_a_refusal_undoes_in_reverse_and_is_answered(new_database: Callable[..., str]) -> None:
    script = Script({("c", False): [NO]})
    async with replica(new_database("orchestrator"), script) as one:
        standing = await one.executor.wait(await begin(one), WAIT_SECONDS)
    assert standing.state is State.COMPENSATED
    assert script.calls(undo=True) == ["a", "b"]


async def test_an_unknown_outcome_is_asked_again_with_the_same_bytes(
    new_database: Callable[..., str],
) -> None:
    script = Script({("c", False): [AWAY, AWAY, AWAY]})
    async with replica(new_database("orchestrator"), script) as one:
        standing = await one.executor.wait(await begin(one), WAIT_SECONDS)
    assert standing.state is State.COMPLETED
    sent = [request for step, _, request in script.seen if step == "c"]
    assert len(sent) == 4
    assert len(set(sent)) == 1


async def test_an_unknown_undo_is_tried_until_it_is_done(new_database: Callable[..., str]) -> None:
    script = Script({("d", False): [NO], ("c", True): [AWAY, AWAY]})
    async with replica(new_database("orchestrator"), script) as one:
        standing = await one.executor.wait(await begin(one), WAIT_SECONDS)
    assert standing.state is State.COMPENSATED
    assert script.calls(undo=True) == ["c", "c", "c", "a", "b"]


async def test_another_replica_takes_over_what_a_dead_one_left(new_database: Callable[..., str]) -> None:
    dsn = new_database("orchestrator")
    stuck = Script(hold=asyncio.Event())
    async with replica(dsn, stuck, "one") as one:
        saga_id = await begin(one)
        await stuck.held.wait()
    # The first replica is gone without a hand-over; its lease runs out, and the second one finds the saga.
    script = Script()
    async with replica(dsn, script, "two") as two:
        standing = await two.executor.wait(saga_id, WAIT_SECONDS)
        row = (await rows(two.database, "SELECT epoch, owner FROM saga"))[0]
    assert standing.state is State.COMPLETED
    assert (row["epoch"], row["owner"]) == (2, "two")
    assert "a" not in script.calls(undo=False)


async def test_an_owner_that_lost_its_saga_writes_nothing_more(new_database: Callable[..., str]) -> None:
    dsn = new_database("orchestrator")
    hold = asyncio.Event()
    stuck = Script({("c", False): [NO]}, hold=hold)
    async with replica(dsn, stuck, "one") as one:
        saga_id = await begin(one)
        task = next(task for task in asyncio.all_tasks() if task.get_name() == f"saga-{saga_id}")
        await stuck.held.wait()
        await rows(one.database, "UPDATE replica SET expires_at = 'infinity'")
        # Somebody else took the saga while the call was under way.
        await rows(one.database, "UPDATE saga SET owner = 'two', epoch = epoch + 1")
        await rows(one.database, "INSERT INTO replica VALUES ('two', 'infinity')")
        hold.set()
        await asyncio.wait_for(task, WAIT_SECONDS)
        row = (await rows(one.database, "SELECT state, epoch FROM saga"))[0]
    assert (row["state"], row["epoch"]) == ("RUNNING", 2)
    assert stuck.calls(undo=True) == []


async def test_a_saga_that_this_code_cannot_read_parks_instead_of_looping(
    new_database: Callable[..., str],
) -> None:
    dsn = new_database("orchestrator")
    stuck = Script(hold=asyncio.Event())
    async with replica(dsn, stuck, "one") as one:
        saga_id = await begin(one)
        await stuck.held.wait()
        await rows(one.database, """UPDATE saga SET context = '{"a_field_of_tomorrow": 1}'""")
    async with replica(dsn, Script(), "two") as two:
        standing = await two.executor.wait(saga_id, WAIT_SECONDS)
    assert standing.state is State.PARKED


async def test_a_saga_that_is_too_late_when_it_is_taken_up_makes_no_further_call_forward(
    new_database: Callable[..., str],
) -> None:
    dsn = new_database("orchestrator")
    stuck = Script(hold=asyncio.Event())
    async with replica(dsn, stuck, "one") as one:
        saga_id = await begin(one)
        await stuck.held.wait()
        await rows(one.database, "UPDATE saga SET deadline = clock_timestamp() - interval '20 minutes'")
    script = Script()
    async with replica(dsn, script, "two") as two:
        standing = await two.executor.wait(saga_id, WAIT_SECONDS)
    assert standing.state is State.COMPENSATED
    assert script.calls(undo=False) == []
    assert script.calls(undo=True) == ["c", "a", "b"]


async def test_the_journal_has_no_gap_and_no_call_without_intent(new_database: Callable[..., str]) -> None:
    script = Script({("c", False): [AWAY, NO], ("b", True): [AWAY]})
    async with replica(new_database("orchestrator"), script) as one:
        await asyncio.gather(*[one.executor.wait(await begin(one), WAIT_SECONDS) for _ in range(5)])
        events = await rows(
            one.database, "SELECT saga_id, seq, step, op, outcome FROM saga_event ORDER BY 1, 2"
        )
        gaps = await rows(
            one.database,
            "SELECT saga_id FROM saga_event GROUP BY saga_id HAVING max(seq) <> count(*)",
        )
    assert gaps == []
    intended: Counter[tuple[Any, ...]] = Counter()
    for event in events:
        key = (event["saga_id"], event["step"], event["op"])
        if event["outcome"] == "intended":
            intended[key] += 1
        elif event["step"]:
            assert intended[key] == 1
