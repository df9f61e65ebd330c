"""Records the histories of the sagas that have none yet: `python -m tests.sagas.histories.record`.

For each version of `orchestrator.sagas.DEFINITIONS` without a file here, it drives sagas of it against real
contexts and writes down the journal before every call, where they park, and where they are paused. Run it
once, when a version is released, and commit the file: it is what sagas in flight look like to later code. A
file that is there is never written again: for a version that was not released yet, delete it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from typing_extensions import override

from chassis.postgres import Database, statement
from orchestrator import calling
from orchestrator.entries import State, Verb
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.operations import Operations, Request
from orchestrator.saga import Action, Operation, Saga
from orchestrator.sagas import DEFINITIONS
from tests.conftest import Databases, local_postgres
from tests.sagas.contexts import serving
from tests.sagas.engine import WAIT_SECONDS, Engine
from tests.sagas.faults import Half, Trouble, Troubled
from tests.sagas.stored import Point, file_of, read_point, save
from tests.sagas.worlds import WORLDS

_OPEN = statement("open", "SELECT id FROM saga WHERE state NOT IN ('COMPLETED', 'COMPENSATED')")


@dataclass
class Way:
    """How a saga goes: what goes wrong, and the call that it is paused at."""

    name: str
    troubles: dict[Half, Trouble] = field(default_factory=dict)
    paused_at: Half | None = None


def ways_of(definition: Saga[Any]) -> Iterator[Way]:
    """Ways that between them pass every half of every step, and every state that a saga can rest in."""
    steps = list(definition.all_steps())
    names = [step.name for step in steps]
    pivot = Half(next(step.name for step in steps if step.pivot), Operation.DO)
    yield Way("completed")
    yield Way("slow", {Half(name, Operation.DO): Trouble.LOST_TWICE for name in names})
    yield Way("parked at the pivot", {pivot: Trouble.REFUSED})
    yield Way("paused", paused_at=pivot)
    undos = [Half(step.name, Operation.UNDO) for step in steps if step.undo is not None]
    if undos:
        last = Half(names[names.index(pivot.step) - 1], Operation.DO)
        refused = {last: Trouble.REFUSED_LATER}
        yield Way("undone", refused)
        yield Way("undone slowly", refused | dict.fromkeys(undos, Trouble.LOST_TWICE))
        yield Way("parked at an undo", refused | {undos[0]: Trouble.REFUSED})
        yield Way("paused while it is undone", refused, paused_at=undos[0])


@dataclass
class Recorder(Troubled):
    """Writes down the saga before each call; the call of `stays_at` never returns."""

    journal: Database | None = None
    way: str = ""
    names: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    stays_at: Half | None = None
    stays: asyncio.Event = field(default_factory=asyncio.Event)

    async def note(self) -> UUID:
        """Write down the only saga that has not ended."""
        assert self.journal is not None
        (row,) = await self.journal.fetch(_OPEN, {})
        point = await read_point(self.journal, self.way, row["id"], self.names)
        if point.row not in [known.row for known in self.points]:
            self.points.append(point)
        return point.saga_id

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        await self.note()
        if self.half_of(action, request) == self.stays_at and not self.stays.is_set():
            self.stays.set()
            await asyncio.Event().wait()
        return await super().call(action, request, timeout_seconds=timeout_seconds)


async def record(engine: Engine, definition: Saga[Any], way: Way) -> list[Point]:
    """Drive one saga; the points that it passed."""
    case = await WORLDS[definition.kind, definition.version](engine.contexts, engine.run)
    recorder = Recorder(
        engine.contexts.participants,
        definition,
        journal=engine.database,
        way=way.name,
        names=case.names,
        stays_at=way.paused_at,
    )
    for half, trouble in way.troubles.items():
        recorder.expect(half, trouble)
    async with engine.driving(recorder) as executor:
        operations = Operations(engine.journal, executor, DEFINITIONS)
        saga_id = await engine.begin(executor, case)
        if way.paused_at is not None:
            await recorder.stays.wait()
            await operations.perform(_asked(saga_id, Verb.PAUSE))
            await recorder.note()
            await operations.perform(_asked(saga_id, Verb.RESUME))
        await _to_the_end(executor, operations, recorder, saga_id)
    assert recorder.all_happened
    return recorder.points


async def _to_the_end(executor: Executor, operations: Operations, recorder: Recorder, saga_id: UUID) -> None:
    while (await executor.wait(saga_id, WAIT_SECONDS)).state is State.PARKED:
        await recorder.note()
        await operations.perform(_asked(saga_id, Verb.RETRY))


def _asked(saga_id: UUID, verb: Verb) -> Request:
    return Request(saga_id, verb, actor="operator", reason="a history")


async def main() -> None:
    """Record what has no file."""
    calling.BACKOFF_BASE_SECONDS = 0.001
    missing = [saga for key, saga in DEFINITIONS.sagas.items() if not file_of(*key).exists()]
    with local_postgres() as admin_dsn:
        databases = Databases(admin_dsn)
        async with serving(databases.new) as contexts:
            database = await Database.open(databases.new("orchestrator"), application_name="recorder")
            journal = Journal(database, "recorder")
            task = asyncio.create_task(journal.run())
            engine = Engine(contexts, journal, database)
            for definition in missing:
                points = [await record(engine, definition, way) for way in ways_of(definition)]
                save([point for passed in points for point in passed])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await database.close()


if __name__ == "__main__":
    asyncio.run(main())
