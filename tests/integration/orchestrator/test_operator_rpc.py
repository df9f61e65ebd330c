"""SagaOperator behind its gate, over a real channel and a real journal: who may, what is shown, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from chassis import grpc_errors
from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from orchestrator.rpc import SAGA_OPERATOR_POLICIES, SagaOperator
from sagacity.sagas.v1 import sagas_pb2 as pb
from sagacity.sagas.v1 import sagas_pb2_grpc
from tests.integration.orchestrator.scripted import AWAY, FULL, NO, Replica, Script, of, replica

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 20.0
ADMIN = new_id()
KNOWN = of(FULL)
SERVICES = ("gateway", "operator", "orders")
PAIRS = {name: new_key_pair(name) for name in SERVICES}
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["SagaOperator"].methods]
VERBS = {
    "Retry": pb.RetryRequest,
    "SkipStep": pb.SkipStepRequest,
    "Compensate": pb.CompensateRequest,
    "Pause": pb.PauseRequest,
    "Resume": pb.ResumeRequest,
    "Cancel": pb.CancelRequest,
}


@dataclass
class World:
    replica: Replica
    script: Script
    connections: dict[str, Connection]

    async def call(self, name: str, request: Any, *, by: str = "operator", user: Any = None) -> Any:
        connection = self.connections[by]
        rpc = getattr(sagas_pb2_grpc.SagaOperatorStub(connection.channel), name)
        return await connection.call(rpc, request, timeout_seconds=TIMEOUT_SECONDS, user=user)

    async def refusal(self, name: str, request: Any, **options: Any) -> Fault:
        with pytest.raises(Fault) as caught:
            await self.call(name, request, **options)
        return caught.value

    def watch(self, saga_id: UUID | str = "") -> Any:
        token = ServiceIdentity("operator", PAIRS["operator"][0]).token()
        stub: Any = sagas_pb2_grpc.SagaOperatorStub(self.connections["operator"].channel)
        return stub.WatchSagas(
            pb.WatchSagasRequest(saga_id=str(saga_id)),
            metadata=[("authorization", f"Bearer {token}")],
            timeout=TIMEOUT_SECONDS,
        )

    async def saga(self, saga_id: UUID) -> pb.Saga:
        saga: pb.Saga = (await self.call("GetSaga", pb.GetSagaRequest(saga_id=str(saga_id)))).saga
        return saga


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[World]:
    script = Script()
    async with replica(dsn, script, definitions=KNOWN) as one:
        server = build_server(
            domain="sagacity.sagas",
            policies=SAGA_OPERATOR_POLICIES,
            verifier=Verifier({"keys": [public for _, public in PAIRS.values()]}),
        )
        sagas_pb2_grpc.add_SagaOperatorServicer_to_server(
            SagaOperator(one.database, one.operations, KNOWN), server.server
        )
        port = await server.start("127.0.0.1:0")
        connections = {
            name: Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pem))
            for name, (pem, _) in PAIRS.items()
        }
        yield World(one, script, connections)
        for connection in connections.values():
            await connection.close()
        await server.stop()


@pytest.fixture
async def world(new_database: Callable[..., str]) -> AsyncIterator[World]:
    async with opened(new_database("orchestrator")) as made:
        yield made


def asked(name: str, saga_id: UUID, **changes: Any) -> Any:
    values: dict[str, Any] = {"saga_id": str(saga_id), "actor": "ops", "reason": "because"}
    if name == "SkipStep":
        values |= {"step": "last", "output_json": "{}"}
    return VERBS[name](**(values | changes))


async def archive(one: Replica) -> None:
    await one.rows("UPDATE saga SET update_time = update_time - interval '8 days'")
    rows = await one.rows("SELECT id FROM saga WHERE state IN ('COMPLETED', 'COMPENSATED')")
    # Ids of eight days ago: the archive goes by them.
    for number, row in enumerate(rows):
        old = UUID(int=(row["id"].int & ((1 << 80) - 1)) | ((0x018F00000000 + number) << 80))
        for query in (
            "UPDATE saga SET id = %(old)s WHERE id = %(id)s",
            "UPDATE saga_event SET saga_id = %(old)s WHERE saga_id = %(id)s",
        ):
            await one.rows(query, old=old, id=row["id"])
    await one.leases.prune()


# --- who may ---


@pytest.mark.parametrize("name", METHODS)
async def test_only_admins_and_the_operators_own_key_are_served(world: World, name: str) -> None:
    assert SAGA_OPERATOR_POLICIES[name].callers == {"gateway", "operator"}
    for by, user in (
        ("orders", None),
        ("gateway", None),
        ("gateway", Caller("gateway", new_id(), "customer")),
        ("gateway", Caller("gateway", new_id(), "support")),
    ):
        policy = SAGA_OPERATOR_POLICIES[name]
        assert not policy.permits(user or Caller(by))
    assert SAGA_OPERATOR_POLICIES[name].permits(Caller("operator"))
    assert SAGA_OPERATOR_POLICIES[name].permits(Caller("gateway", ADMIN, "admin"))
    if name in VERBS:
        fault = await world.refusal(name, asked(name, new_id()), by="orders")
        assert fault.kind is FaultKind.PERMISSION_DENIED


async def test_of_an_admin_the_journal_has_the_id_whatever_name_is_sent(world: World) -> None:
    world.script.holds["c"] = asyncio.Event()
    saga_id = await world.replica.begin()
    await world.script.asked_for("c")
    admin = Caller("gateway", ADMIN, "admin")
    await world.call("Pause", asked("Pause", saga_id, actor="somebody else"), by="gateway", user=admin)
    await world.call("Resume", asked("Resume", saga_id, actor="command line"))
    reply = await world.call("GetTimeline", pb.GetTimelineRequest(saga_id=str(saga_id)))
    verbs = [(entry.operation, entry.actor, entry.reason) for entry in reply.entries if entry.actor]
    assert verbs == [("pause", str(ADMIN), "because"), ("resume", "command line", "because")]


# --- verbs ---


async def test_every_verb_answers_with_the_saga_after_it(world: World) -> None:
    for name, expected in (
        ("Pause", {pb.SAGA_STATE_PAUSED}),
        ("Resume", {pb.SAGA_STATE_RUNNING, pb.SAGA_STATE_COMPLETED}),
        ("Retry", {pb.SAGA_STATE_RUNNING, pb.SAGA_STATE_COMPLETED}),
        ("Compensate", {pb.SAGA_STATE_RUNNING, pb.SAGA_STATE_COMPENSATING, pb.SAGA_STATE_COMPENSATED}),
        ("Cancel", {pb.SAGA_STATE_RUNNING, pb.SAGA_STATE_COMPENSATING, pb.SAGA_STATE_COMPENSATED}),
    ):
        world.script.seen.clear()
        world.script.holds["c"] = asyncio.Event()
        saga_id = await world.replica.begin()
        await world.script.asked_for("c")
        if name == "Resume":
            await world.call("Pause", asked("Pause", saga_id))
        saga = (await world.call(name, asked(name, saga_id))).saga
        assert (saga.id, saga.state in expected) == (str(saga_id), True), name
        assert saga.epoch >= 2


BAD_FIELDS = (
    ("saga_id", "garbage"),
    ("saga_id", ""),
    ("actor", ""),
    ("actor", "a\x1b[31m"),
    ("actor", "a" * 201),
    ("reason", ""),
    ("reason", "two\nlines"),
    ("reason", "nul\x00"),
    ("reason", "r" * 501),
)


async def test_a_verb_without_good_id_actor_and_reason_is_refused_by_field(world: World) -> None:
    for name in VERBS:
        for field, value in BAD_FIELDS:
            request = asked(name, new_id())
            setattr(request, field, value)
            fault = await world.refusal(name, request)
            assert (fault.kind, fault.fields[0].subject) == (FaultKind.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("output", ["", "   ", "\n"])
async def test_an_output_that_was_forgotten_is_not_taken_for_an_empty_one(world: World, output: str) -> None:
    world.script.faults = {"last": [NO]}
    saga_id = await world.replica.begin()
    await world.replica.end_of(saga_id)
    for name, request in (
        ("SkipStep", asked("SkipStep", saga_id, output_json=output)),
        ("Preview", pb.PreviewRequest(saga_id=str(saga_id), verb=2, step="last", output_json=output)),
    ):
        fault = await world.refusal(name, request)
        assert (fault.kind, fault.fields[0].subject) == (FaultKind.INVALID_ARGUMENT, "output_json")


async def test_a_preview_over_the_wire_says_calls_and_state(world: World) -> None:
    world.script.faults = {"last": [NO]}
    saga_id = await world.replica.begin()
    await world.replica.end_of(saga_id)
    reply = await world.call("Preview", pb.PreviewRequest(saga_id=str(saga_id), verb=pb.SAGA_VERB_RETRY))
    assert reply.state == pb.SAGA_STATE_COMPLETED
    assert [(call.step, call.operation) for call in reply.calls] == [("last", "do")]
    assert str(saga_id) in reply.calls[0].request_json
    assert (await world.saga(saga_id)).state == pb.SAGA_STATE_PARKED


# --- what is shown ---


async def test_a_parked_saga_shows_its_step_its_error_and_that_its_pivot_is_passed(world: World) -> None:
    world.script.faults = {"last": [NO]}
    saga_id = await world.replica.begin()
    await world.replica.end_of(saga_id)
    saga = await world.saga(saga_id)
    assert (saga.state, saga.step, saga.pivot_intended) == (pb.SAGA_STATE_PARKED, "last", True)
    assert (saga.last_error, len(saga.error_fingerprint), saga.overdue) == ("NO: no", 12, False)
    await world.replica.past("deadline", "-1 second", saga_id)
    assert (await world.saga(saga_id)).overdue


async def test_a_saga_that_waits_for_a_participant_says_for_which_and_until_when(world: World) -> None:
    world.script.faults = {"c": [AWAY] * 50}
    saga_id = await world.replica.begin()
    await world.replica.left_memory(saga_id)
    saga = await world.saga(saga_id)
    assert (saga.step, saga.waiting_for, saga.HasField("next_attempt_time")) == ("c", "payments", True)


async def test_an_archived_saga_is_found_by_its_id_with_its_timeline_and_takes_no_verbs(
    world: World,
) -> None:
    world.script.faults = {"c": [NO]}
    first, second = await world.replica.begin(), await world.replica.begin()
    for saga_id in (first, second):
        await world.replica.end_of(saga_id)
    await archive(world.replica)
    assert (await world.call("ListSagas", pb.ListSagasRequest())).sagas == []
    archived = (await world.call("ListSagas", pb.ListSagasRequest(archived=True))).sagas
    assert {saga.state for saga in archived} == {pb.SAGA_STATE_COMPLETED, pb.SAGA_STATE_COMPENSATED}
    for saga in archived:
        assert await world.saga(UUID(saga.id)) == saga
        timeline = await world.call("GetTimeline", pb.GetTimelineRequest(saga_id=saga.id))
        assert [entry.sequence for entry in timeline.entries] == list(range(1, saga.sequence + 1))
        for name in VERBS:
            fault = await world.refusal(name, asked(name, UUID(saga.id)))
            assert (fault.kind, fault.reason) == (FaultKind.FAILED_PRECONDITION, "SAGA_ENDED")
        call = world.watch(saga.id)
        messages = [message async for message in call]
        assert [len(message.entries) for message in messages] == [saga.sequence]


async def test_lists_filter_by_what_is_asked_for(world: World) -> None:
    world.script.faults = {"last": [NO]}
    parked, done = await world.replica.begin(), await world.replica.begin()
    for saga_id in (parked, done):
        await world.replica.end_of(saga_id)
    ids = {saga.state: saga.id for saga in (await world.call("ListSagas", pb.ListSagasRequest())).sagas}
    held = await world.saga(UUID(ids[pb.SAGA_STATE_PARKED]))
    for request, expected in (
        (pb.ListSagasRequest(open=True), [held.id]),
        (pb.ListSagasRequest(state=pb.SAGA_STATE_PARKED), [held.id]),
        (pb.ListSagasRequest(step="last"), [held.id]),
        (pb.ListSagasRequest(step="c"), []),
        (pb.ListSagasRequest(error_fingerprint=held.error_fingerprint), [held.id]),
        (pb.ListSagasRequest(order_id=held.order_id), [held.id]),
        (pb.ListSagasRequest(older_than=Duration(seconds=3_600)), []),
        (pb.ListSagasRequest(older_than=Duration(), open=True), [held.id]),
        (pb.ListSagasRequest(kind="nothing"), []),
        (pb.ListSagasRequest(kind="nul\x00"), []),
        (pb.ListSagasRequest(state=pb.SAGA_STATE_COMPLETED, open=True), []),
        (pb.ListSagasRequest(older_than=Duration(seconds=315_576_000_000)), []),
    ):
        found = (await world.call("ListSagas", request)).sagas
        assert [saga.id for saga in found] == expected, request


async def test_a_page_token_is_good_for_its_own_list_only(world: World) -> None:
    for _ in range(3):
        await world.replica.end_of(await world.replica.begin())
    page = await world.call("ListSagas", pb.ListSagasRequest(page_size=2))
    rest = await world.call("ListSagas", pb.ListSagasRequest(page_size=2, page_token=page.next_page_token))
    assert (len(page.sagas), len(rest.sagas), rest.next_page_token) == (2, 1, "")
    for other in (
        pb.ListSagasRequest(page_token=page.next_page_token, open=True),
        pb.ListSagasRequest(page_token=page.next_page_token, archived=True),
        pb.ListSagasRequest(page_token=page.next_page_token, step="c"),
        pb.ListSagasRequest(page_token="garbage"),
    ):
        fault = await world.refusal("ListSagas", other)
        assert (fault.kind, fault.fields[0].subject) == (FaultKind.INVALID_ARGUMENT, "page_token")


# --- watching ---


async def test_watching_a_saga_shows_every_entry_once_and_ends_with_it(world: World) -> None:
    world.script.holds["c"] = asyncio.Event()
    saga_id = await world.replica.begin()
    await world.script.asked_for("c")
    stream = aiter(world.watch(saga_id))
    first = await anext(stream)
    assert first.sagas[0].state == pb.SAGA_STATE_RUNNING
    world.script.holds["c"].set()
    messages = [first, *[message async for message in stream]]
    last = messages[-1].sagas[0]
    assert last.state == pb.SAGA_STATE_COMPLETED
    seen = [entry.sequence for message in messages for entry in message.entries]
    assert seen == list(range(1, last.sequence + 1))


async def test_watching_without_an_id_shows_the_open_sagas_oldest_first(world: World) -> None:
    world.script.holds["c"] = asyncio.Event()
    ids = [await world.replica.begin() for _ in range(3)]
    call = world.watch()
    assert [saga.id for saga in (await call.read()).sagas] == [str(saga_id) for saga_id in ids]
    world.script.holds["c"].set()
    for saga_id in ids:
        await world.replica.end_of(saga_id)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (await call.read()).sagas:
            pass
    call.cancel()
    assert not (await world.call("ListSagas", pb.ListSagasRequest(open=True))).sagas


async def test_watching_a_saga_that_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.watch(new_id()).read()
    assert grpc_errors.from_error(caught.value).reason == "SAGA_NOT_FOUND"


# --- definitions ---


async def test_the_check_tells_what_open_sagas_need_and_what_this_code_has(world: World) -> None:
    world.script.holds["c"] = asyncio.Event()
    for _ in range(3):
        await world.replica.begin()
    strange = await world.replica.begin()
    await world.replica.rows(
        "UPDATE saga SET definition_hash = 'strange', state = 'PARKED', epoch = 9 WHERE id = %(id)s",
        id=strange,
    )
    reply = await world.call("CheckDefinitions", pb.CheckDefinitionsRequest())
    found = {use.definition_hash: (use.kind, use.open, use.parked, use.loadable) for use in reply.definitions}
    assert found == {FULL.hash: ("full", 3, 0, True), "strange": ("full", 1, 1, False)}


async def test_the_check_names_definitions_that_nothing_needs(world: World) -> None:
    reply = await world.call("CheckDefinitions", pb.CheckDefinitionsRequest())
    assert [(use.kind, use.open, use.loadable) for use in reply.definitions] == [("full", 0, True)]
