"""What admins may see and do of a context's events by REST: what is passed on, what is answered."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import httpx2
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.identity import ServiceIdentity, new_key_pair
from gateway.clients import CONTEXTS, Backends
from sagacity.events.v1 import event_operator_pb2 as pb

ADMIN = UUID("018f7e9c-5d1a-7c3e-9b1f-0000000000aa")
BASE = "/api/v1/admin/contexts/users"
CONSUMER = "users.customer-statistics"
AGGREGATE = "sagacity.orders.v1/order/018f7e9c"
WHY = {"reason": "the handler is repaired"}
ONE = {"consumer": CONSUMER, "aggregate": AGGREGATE, "sequence": 3}
LETTER = pb.DeadLetter(
    consumer=CONSUMER,
    generation=1,
    aggregate=AGGREGATE,
    sequence=3,
    type="sagacity.orders.v1.OrderPlaced",
    event_id="e1",
    topic="sagacity.orders.v1",
    partition=2,
    offset=17,
    error="ValueError('no')",
    replays=1,
    occurred_at=Timestamp(seconds=0),
    create_time=Timestamp(seconds=60),
)
SHOWN = {
    **ONE,
    "generation": 1,
    "type": "sagacity.orders.v1.OrderPlaced",
    "event_id": "e1",
    "topic": "sagacity.orders.v1",
    "partition": 2,
    "offset": 17,
    "error": "ValueError('no')",
    "replays": 1,
    "occurred_at": "1970-01-01T00:00:00Z",
    "create_time": "1970-01-01T00:01:00Z",
}


class Verb(NamedTuple):
    """How a verb is asked for, and what it becomes."""

    route: str
    body: dict[str, Any]
    rpc: str


VERBS = (
    Verb("dead-letters/replay", {"consumer": CONSUMER, "aggregate": AGGREGATE, **WHY}, "ReplayDeadLetters"),
    Verb("dead-letters/discard", {**ONE, **WHY}, "DiscardDeadLetter"),
    Verb(f"consumers/{CONSUMER}/pause", WHY, "PauseConsumer"),
    Verb(f"consumers/{CONSUMER}/resume", WHY, "ResumeConsumer"),
    Verb("projections/order-history/rebuild", WHY, "RebuildProjection"),
)
each_verb = pytest.mark.parametrize("verb", VERBS, ids=[verb.rpc for verb in VERBS])


async def ask(client: httpx2.AsyncClient, backends: Any, route: str, body: Any) -> httpx2.Response:
    return await client.post(f"{BASE}/{route}", json=body, headers=backends.bearer("admin", ADMIN))


async def look(client: httpx2.AsyncClient, backends: Any, route: str, **query: str) -> httpx2.Response:
    return await client.get(f"{BASE}/{route}", params=query, headers=backends.bearer("admin", ADMIN))


def nobody_was_asked(backends: Any) -> bool:
    return all(name == "GetJsonWebKeys" for name, _, _ in backends.calls)


async def test_every_context_is_asked_at_its_own_address() -> None:
    identity = ServiceIdentity("gateway", new_key_pair("gateway")[0])
    connections = {name: Connection("127.0.0.1:1", identity) for name in (*CONTEXTS, "orchestrator")}
    made = Backends.over(connections)
    assert {name: made.events[name].connection for name in CONTEXTS} == {
        name: connections[name] for name in CONTEXTS
    }
    for connection in connections.values():
        await connection.close()


# --- looking ---


async def test_lag_is_shown_in_seconds_offsets_and_words(client: httpx2.AsyncClient, backends: Any) -> None:
    partition = pb.PartitionLag(
        topic="sagacity.orders.v1", partition=1, committed_offset=7, end_offset=9, lag=2
    )
    consumer = pb.ConsumerLag(
        consumer=CONSUMER,
        generation=1,
        state=pb.CONSUMER_STATE_HALTED,
        partitions=[partition],
        dead_letters=2,
        halted_keys=1,
    )
    outbox = pb.OutboxLag(
        topic="sagacity.users.v1", waiting=3, oldest_age=Duration(seconds=1, nanos=500_000_000)
    )
    backends.answers["GetLag"] = pb.GetLagResponse(outbox=outbox, consumers=[consumer])
    assert (await look(client, backends, "lag")).json() == {
        "outbox": {
            "topic": "sagacity.users.v1",
            "waiting": 3,
            "oldest_age_seconds": 1.5,
            "oldest_transaction_age_seconds": None,
        },
        "consumers": [
            {
                "consumer": CONSUMER,
                "generation": 1,
                "state": "halted",
                "partitions": [
                    {
                        "topic": "sagacity.orders.v1",
                        "partition": 1,
                        "committed_offset": 7,
                        "end_offset": 9,
                        "lag": 2,
                    }
                ],
                "dead_letters": 2,
                "halted_keys": 1,
            }
        ],
    }
    backends.answers["GetLag"] = pb.GetLagResponse()
    assert (await look(client, backends, "lag")).json() == {"outbox": None, "consumers": []}


async def test_a_list_of_dead_letters_passes_every_filter_on(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    backends.answers["ListDeadLetters"] = pb.ListDeadLettersResponse(
        dead_letters=[LETTER], next_page_token="t2"
    )
    query = {"consumer": CONSUMER, "aggregate": AGGREGATE, "type": "T", "page_size": "7", "page_token": "t1"}
    answer = await look(client, backends, "dead-letters", **query)
    assert answer.json() == {"items": [SHOWN], "next_page_token": "t2"}
    request, caller = backends.last("ListDeadLetters")
    assert (request.consumer, request.aggregate, request.type) == (CONSUMER, AGGREGATE, "T")
    assert (request.page_size, request.page_token) == (7, "t1")
    assert (caller.user_id, caller.role) == (ADMIN, "admin")


async def test_one_dead_letter_is_read_with_its_payload(client: httpx2.AsyncClient, backends: Any) -> None:
    reply = pb.GetDeadLetterResponse(dead_letter=LETTER, payload=b"\xff", payload_json='{"order_id": "o"}')
    backends.answers["GetDeadLetter"] = reply
    query = {**ONE, "sequence": "3"}
    answer = await look(client, backends, "dead-letters/detail", **query)
    assert answer.json() == {"dead_letter": SHOWN, "payload": {"order_id": "o"}, "payload_base64": "/w=="}
    request, _ = backends.last("GetDeadLetter")
    assert (request.consumer, request.aggregate, request.sequence) == (CONSUMER, AGGREGATE, 3)
    foreign = pb.DeadLetter(consumer=CONSUMER, aggregate=AGGREGATE, sequence=3)
    backends.answers["GetDeadLetter"] = pb.GetDeadLetterResponse(dead_letter=foreign)
    shown = (await look(client, backends, "dead-letters/detail", **query)).json()
    assert (shown["payload"], shown["dead_letter"]["type"], shown["dead_letter"]["occurred_at"]) == (
        None,
    ) * 3


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("dead-letters/detail", {}),
        ("dead-letters/detail", {**ONE, "sequence": "0"}),
        ("dead-letters/detail", {**ONE, "sequence": "1_0"}),
        ("dead-letters/detail", {**ONE, "sequence": "9" * 19}),
        ("dead-letters/detail", {**ONE, "sequence": "9" * 5_000}),
        ("dead-letters/detail", {**ONE, "consumer": ""}),
        ("dead-letters/detail", {**ONE, "aggregate": "a\nb"}),
        ("dead-letters", {"consumer": "c" * 201}),
        ("dead-letters", {"aggregate": "a" * 501}),
        ("dead-letters", {"type": "\x1b"}),
        ("dead-letters", {"page_size": "201"}),
        ("dead-letters", {"surprise": "1"}),
        ("audit", {"page_token": "\x00"}),
    ],
)
async def test_a_query_for_nothing_that_there_is_is_400(
    client: httpx2.AsyncClient, backends: Any, route: str, query: dict[str, str]
) -> None:
    answer = await look(client, backends, route, **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_ARGUMENT")
    assert answer.json()["errors"][0]["field"]
    assert nobody_was_asked(backends)


async def test_a_context_that_there_is_not_is_400_and_named(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    for name in ("orchestrator", "USERS", "gateway"):
        answer = await client.get(
            f"/api/v1/admin/contexts/{name}/lag", headers=backends.bearer("admin", ADMIN)
        )
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "context")
    assert nobody_was_asked(backends)


async def test_projections_and_the_audit_are_shown(client: httpx2.AsyncClient, backends: Any) -> None:
    projection = pb.Projection(
        name="order-history",
        state=pb.PROJECTION_STATE_CATCHING_UP,
        active_generation=1,
        building_generation=2,
        copied=12,
        begin_time=Timestamp(seconds=60),
    )
    backends.answers["ListProjections"] = pb.ListProjectionsResponse(projections=[projection])
    assert (await look(client, backends, "projections")).json()["items"] == [
        {
            "name": "order-history",
            "state": "catching_up",
            "active_generation": 1,
            "building_generation": 2,
            "copied": 12,
            "begin_time": "1970-01-01T00:01:00Z",
            "switch_time": None,
        }
    ]
    words = {"actor": "ops", "action": "replay", "target": AGGREGATE, "reason": "why", "outcome": "1 applied"}
    entry = pb.AuditEntry(time=Timestamp(seconds=60), **words)
    backends.answers["ListAuditEntries"] = pb.ListAuditEntriesResponse(entries=[entry], next_page_token="t2")
    assert (await look(client, backends, "audit", page_size="1", page_token="t1")).json() == {
        "items": [{"time": "1970-01-01T00:01:00Z", **words}],
        "next_page_token": "t2",
    }
    request, _ = backends.last("ListAuditEntries")
    assert (request.page_size, request.page_token) == (1, "t1")


# --- verbs ---


@each_verb
async def test_a_verb_is_asked_in_the_name_of_the_admin(
    client: httpx2.AsyncClient, backends: Any, verb: Verb
) -> None:
    assert (await ask(client, backends, verb.route, verb.body)).status_code == 200
    request, caller = backends.last(verb.rpc)
    assert (request.actor, request.reason) == (str(ADMIN), "the handler is repaired")
    assert (caller.user_id, caller.role) == (ADMIN, "admin")
    for field in ("consumer", "aggregate", "sequence"):
        if field in ONE and field in request.DESCRIPTOR.fields_by_name:
            assert getattr(request, field) == ONE[field]


async def test_verbs_answer_with_what_became_of_it(client: httpx2.AsyncClient, backends: Any) -> None:
    everything = {"consumer": CONSUMER, **WHY}
    backends.answers["ReplayDeadLetters"] = pb.ReplayDeadLettersResponse(applied=2, next_page_token="t2")
    answer = await ask(client, backends, "dead-letters/replay", {**everything, "page_token": "t1"})
    assert answer.json() == {"applied": 2, "left": 0, "error": None, "next_page_token": "t2"}
    assert backends.last("ReplayDeadLetters")[0].page_token == "t1"
    assert backends.last("ReplayDeadLetters")[0].aggregate == ""
    backends.answers["ReplayDeadLetters"] = pb.ReplayDeadLettersResponse(left=1, error="no")
    answer = await ask(client, backends, "dead-letters/replay", everything)
    assert answer.json() == {"applied": 0, "left": 1, "error": "no", "next_page_token": None}
    backends.answers["DiscardDeadLetter"] = pb.DiscardDeadLetterResponse(left=4)
    assert (await ask(client, backends, "dead-letters/discard", {**ONE, **WHY})).json() == {"left": 4}
    backends.answers["PauseConsumer"] = pb.PauseConsumerResponse(state=pb.CONSUMER_STATE_PAUSED)
    answer = await ask(client, backends, f"consumers/{CONSUMER}/pause", WHY)
    assert answer.json() == {"consumer": CONSUMER, "state": "paused"}
    backends.answers["ResumeConsumer"] = pb.ResumeConsumerResponse(state=pb.CONSUMER_STATE_RUNNING)
    answer = await ask(client, backends, f"consumers/{CONSUMER}/resume", WHY)
    assert answer.json() == {"consumer": CONSUMER, "state": "running"}
    projection = pb.Projection(name="order-history", state=pb.PROJECTION_STATE_COPYING, building_generation=1)
    backends.answers["RebuildProjection"] = pb.RebuildProjectionResponse(projection=projection)
    shown = (await ask(client, backends, "projections/order-history/rebuild", WHY)).json()
    assert (shown["state"], shown["active_generation"], shown["building_generation"]) == ("copying", None, 1)


@each_verb
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(FaultKind.NOT_FOUND, "CONSUMER_NOT_FOUND", "there is no such consumer"), 404),
        (Fault(FaultKind.FAILED_PRECONDITION, "NOT_THE_FIRST", "another one is before it"), 409),
        (Fault(FaultKind.UNAVAILABLE, "UNAVAILABLE", "away"), 503),
    ],
)
async def test_a_refusal_is_a_problem_with_its_code(
    client: httpx2.AsyncClient,
    backends: Any,
    verb: Verb,
    fault: Fault,
    status: int,
) -> None:
    backends.answers[verb.rpc] = fault
    answer = await ask(client, backends, verb.route, verb.body)
    assert (answer.status_code, answer.json()["code"]) == (status, fault.reason)


@each_verb
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reason", ""),
        ("reason", None),
        ("reason", "two\nlines"),
        ("reason", "r" * 501),
        ("actor", "me"),
        ("consumer", "\x1b"),
        ("aggregate", ""),
        ("aggregate", None),
        ("sequence", 0),
        ("sequence", True),
    ],
)
async def test_what_is_not_in_the_contract_is_refused_by_field(
    client: httpx2.AsyncClient,
    backends: Any,
    verb: Verb,
    field: str,
    value: Any,
) -> None:
    answer = await ask(client, backends, verb.route, {**verb.body, field: value})
    assert answer.status_code in {400, 422}
    assert answer.json()["errors"][0]["field"] == field
    assert nobody_was_asked(backends)
