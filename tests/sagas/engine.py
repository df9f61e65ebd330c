"""The real engine on a real journal, one saga after the other, and what is proved of each that has ended."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chassis.errors import Fault
from chassis.ids import new_id
from chassis.postgres import Database, Statement, statement
from orchestrator.entries import State, Verb
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.operations import Operations, Request
from orchestrator.saga import Operation
from orchestrator.saga_log import Acceptance, Standing
from orchestrator.sagas import DEFINITIONS
from services.payments.invariants import broken_invariants
from tests.e2e.queries import QUERIES
from tests.integration.inventory import conftest as inventory
from tests.integration.orders import conftest as orders
from tests.sagas.contexts import NAMES, Contexts
from tests.sagas.faults import Sent, Troubled
from tests.sagas.worlds import Case

WAIT_SECONDS = 20.0
SEED = 20_26


@dataclass
class Engine:
    """One replica, and the contexts that it calls."""

    contexts: Contexts
    journal: Journal
    database: Database
    _content: dict[str, Statement] = field(default_factory=dict)

    @asynccontextmanager
    async def driving(self, troubled: Troubled) -> AsyncIterator[Executor]:
        """Drive sagas whose calls pass through `troubled`."""
        executor = Executor(self.journal, troubled, DEFINITIONS, rng=random.Random(SEED))  # noqa: S311
        task = asyncio.create_task(executor.run())
        await asyncio.sleep(0)
        try:
            yield executor
        finally:
            await executor.stop()
            await task

    async def begin(self, executor: Executor, case: Case) -> UUID:
        """Accept the saga of a case."""
        definition = case.definition
        acceptance = Acceptance(
            saga_id=new_id(),
            kind=definition.kind,
            version=definition.version,
            definition_hash=definition.hash,
            key=case.order_id,
            context=dataclasses.asdict(case.params),
            deadline=definition.deadline,
            events=(),
            owner=self.journal.replica,
            caller="user",
            rpc=definition.kind,
            idempotency_key=str(new_id()),
            request_hash=b"hash",
        )
        if case.behind:
            return (await executor.accept_behind(acceptance)).saga_id
        return (await executor.accept(definition, case.params, acceptance)).saga_id

    async def finish(self, executor: Executor, saga_id: UUID) -> tuple[Standing, int]:
        """Wait for the end, and be the person that a parked saga needs; also says how often it parked."""
        operations = Operations(self.journal, executor, DEFINITIONS)
        parked = 0
        while True:
            standing = await executor.wait(saga_id, WAIT_SECONDS)
            if standing.state is not State.PARKED:
                return standing, parked
            parked += 1
            await operations.perform(Request(saga_id, Verb.RETRY, actor="tester", reason="a test"))

    async def run(self, case: Case) -> State:
        """Drive a saga to its end with nothing in its way."""
        async with self.driving(Troubled(self.contexts.participants, case.definition)) as executor:
            standing, _ = await self.finish(executor, await self.begin(executor, case))
        return standing.state

    async def broken(self) -> list[tuple[str, str, str]]:
        """Whatever breaks an invariant of `promises.md`, over all databases."""
        found = []
        for name, query in _INVARIANTS.items():
            database = self.database if name == "sagas" else self.contexts.databases[name]
            found += [(name, row["invariant"], row["subject"]) for row in await database.fetch(query, {})]
        databases = self.contexts.databases
        money = await broken_invariants(databases["payments"], databases["provider"])
        return found + [("payments", *item) for item in money]

    async def send_again(self, sent: Sequence[Sent]) -> list[Sent]:
        """Send calls again, the same bytes, all at once; what is said now."""
        return list(await asyncio.gather(*(self._send_again(call) for call in sent)))

    async def _send_again(self, call: Sent) -> Sent:
        participants = self.contexts.participants
        try:
            said: bytes | Fault = await participants.call(
                call.action, call.request, timeout_seconds=WAIT_SECONDS
            )
        except Fault as fault:
            said = fault
        return call._replace(said=said)

    async def content(self) -> list[dict[str, Any]]:
        """Fingerprints of all tables of the participants: equal where nothing happened in between."""
        found = []
        for name in NAMES:
            database = self.contexts.databases[name]
            if name not in self._content:
                tables = await database.fetch(_TABLES, {})
                sums = [_SUM.format(table=row["name"]) for row in tables]
                self._content[name] = statement("content", " UNION ALL ".join(sums))
            found += await database.fetch(self._content[name], {})
        return found


_SUM = """SELECT '{table}' AS name, count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t"""
_TABLES = statement(
    "tables",
    """
    SELECT format('%%I.%%I', table_schema, table_name) AS name FROM information_schema.tables
     WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'
     ORDER BY 1
    """,
)


def _all_of(queries: Mapping[str, str]) -> Statement:
    """One statement of many queries."""
    parts = [
        f"SELECT '{invariant}' AS invariant, q::text AS subject FROM ({query}) AS q"  # noqa: S608
        for invariant, query in queries.items()
    ]
    return statement("invariants", " UNION ALL ".join(parts).replace("%", "%%"))


_OWN = {"orders": orders.INVARIANTS, "inventory": inventory.INVARIANTS}


def _invariants(name: str) -> Statement:
    queries = {f"{key} of {name}": query for key, query in _OWN.get(name, {}).items()}
    queries |= QUERIES[name]
    return _all_of(queries)


_INVARIANTS = {name: _invariants(name) for name in QUERIES}


def is_effect(sent: Sent, checks: frozenset[str]) -> bool:
    """Whether a call changes something; a check may answer differently once the world has moved on."""
    return not (sent.half.operation is Operation.DO and sent.half.step in checks)
