"""What admins may do to a saga through the gateway: what is passed on, who is named, what is answered."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx2
import pytest

from chassis.errors import Detail, Fault, FaultKind
from sagacity.sagas.v1 import sagas_pb2

ID = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
ADMIN = UUID("018f7e9c-5d1a-7c3e-9b1f-0000000000aa")
RPCS = {
    "retry": ("Retry", sagas_pb2.RetryResponse),
    "skip": ("SkipStep", sagas_pb2.SkipStepResponse),
    "compensate": ("Compensate", sagas_pb2.CompensateResponse),
    "pause": ("Pause", sagas_pb2.PauseResponse),
    "resume": ("Resume", sagas_pb2.ResumeResponse),
    "cancel": ("Cancel", sagas_pb2.CancelResponse),
}
each_verb = pytest.mark.parametrize("verb", RPCS)


def body_of(verb: str) -> dict[str, str]:
    more = {"step": "restock", "output_json": '{"a": 1}'} if verb == "skip" else {}
    return {"reason": "the provider is back", **more}


async def ask(client: httpx2.AsyncClient, backends: Any, verb: str, body: Any = None) -> httpx2.Response:
    headers = backends.bearer("admin", ADMIN)
    return await client.post(
        f"/api/v1/admin/sagas/{ID}/{verb}", json=body_of(verb) if body is None else body, headers=headers
    )


@each_verb
async def test_a_verb_is_asked_in_the_name_of_the_admin_and_answers_with_the_saga(
    client: httpx2.AsyncClient, backends: Any, verb: str
) -> None:
    rpc, response = RPCS[verb]
    saga = sagas_pb2.Saga(
        id=ID,
        state=sagas_pb2.SAGA_STATE_PAUSED,
        step="payment",
        waiting_for="payments",
        error_fingerprint="0123456789ab",
        last_error="AWAY: away",
        overdue=True,
        pivot_intended=True,
    )
    backends.answers[rpc] = response(saga=saga)
    answer = await ask(client, backends, verb)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["id"], shown["state"], shown["step"]) == (ID, "paused", "payment")
    assert (shown["waiting_for"], shown["error_fingerprint"]) == ("payments", "0123456789ab")
    assert (shown["last_error"], shown["overdue"], shown["pivot_intended"]) == ("AWAY: away", True, True)
    request, caller = backends.last(rpc)
    assert (request.saga_id, request.actor, request.reason) == (ID, str(ADMIN), "the provider is back")
    assert (caller.user_id, caller.role) == (ADMIN, "admin")
    if verb == "skip":
        assert (request.step, request.output_json) == ("restock", '{"a": 1}')


@each_verb
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(FaultKind.NOT_FOUND, "SAGA_NOT_FOUND", "there is no such saga"), 404),
        (Fault(FaultKind.FAILED_PRECONDITION, "SAGA_ENDED", "the saga is COMPLETED"), 409),
        (Fault(FaultKind.FAILED_PRECONDITION, "PIVOT_PASSED", "too late"), 409),
        (Fault(FaultKind.ABORTED, "SAGA_BUSY", "ask again"), 409),
    ],
)
async def test_a_refusal_is_a_problem_with_its_code(
    client: httpx2.AsyncClient, backends: Any, verb: str, fault: Fault, status: int
) -> None:
    backends.answers[RPCS[verb][0]] = fault
    answer = await ask(client, backends, verb)
    assert (answer.status_code, answer.json()["code"]) == (status, fault.reason)
    assert answer.json()["detail"] == fault.message


@each_verb
@pytest.mark.parametrize(
    ("field", "value"),
    [("reason", ""), ("reason", "two\nlines"), ("reason", "\x1b[2J"), ("reason", "r" * 501), ("actor", "me")],
)
async def test_the_reason_is_one_line_and_nobody_names_another_actor(
    client: httpx2.AsyncClient, backends: Any, verb: str, field: str, value: str
) -> None:
    answer = await ask(client, backends, verb, {**body_of(verb), field: value})
    assert answer.status_code in {400, 422}
    assert answer.json()["errors"][0]["field"] == field
    assert all(name == "GetJsonWebKeys" for name, _, _ in backends.calls)


async def test_an_output_that_is_not_the_steps_is_422_by_field(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    fields = (Detail("output_json", "not a RestockResponse"),)
    backends.answers["SkipStep"] = Fault(
        FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "not valid", fields=fields
    )
    answer = await ask(client, backends, "skip")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "output_json")


@each_verb
async def test_a_preview_says_calls_and_state(client: httpx2.AsyncClient, backends: Any, verb: str) -> None:
    calls = [
        sagas_pb2.PlannedCall(step="payment", operation="undo", rpc="/p/Reverse", request_json='{"a": 1}'),
        sagas_pb2.PlannedCall(step="order", operation="undo", rpc="/o/RejectOrder"),
    ]
    backends.answers["Preview"] = sagas_pb2.PreviewResponse(
        calls=calls, state=sagas_pb2.SAGA_STATE_COMPENSATED
    )
    query = {"verb": verb, **({"step": "restock", "output_json": "{}"} if verb == "skip" else {})}
    answer = await client.get(
        f"/api/v1/admin/sagas/{ID}/preview", params=query, headers=backends.bearer("admin")
    )
    assert answer.json() == {
        "calls": [
            {"step": "payment", "operation": "undo", "rpc": "/p/Reverse", "request": {"a": 1}},
            {"step": "order", "operation": "undo", "rpc": "/o/RejectOrder", "request": None},
        ],
        "state": "compensated",
    }
    request, _ = backends.last("Preview")
    names = {"skip": "SKIP_STEP"}
    assert sagas_pb2.SagaVerb.Name(request.verb) == f"SAGA_VERB_{names.get(verb, verb.upper())}"
    assert request.step == query.get("step", "")


@pytest.mark.parametrize("query", ["", "verb=explode", "verb=retry&surprise=1", "verb=skip&step=Not%20One"])
async def test_a_preview_of_nothing_that_there_is_is_400_or_422(
    client: httpx2.AsyncClient, backends: Any, query: str
) -> None:
    answer = await client.get(f"/api/v1/admin/sagas/{ID}/preview?{query}", headers=backends.bearer("admin"))
    assert answer.status_code in {400, 422}
    assert all(name == "GetJsonWebKeys" for name, _, _ in backends.calls)


async def test_a_list_passes_every_filter_on(client: httpx2.AsyncClient, backends: Any) -> None:
    query = {
        "state": "parked",
        "step": "payment",
        "error_fingerprint": "0123456789ab",
        "older_than_seconds": "90",
        "open": "true",
        "archived": "true",
    }
    await client.get("/api/v1/admin/sagas", params=query, headers=backends.bearer("admin"))
    request, _ = backends.last("ListSagas")
    assert (request.state, request.step) == (sagas_pb2.SAGA_STATE_PARKED, "payment")
    assert (request.error_fingerprint, request.older_than.seconds) == ("0123456789ab", 90)
    assert (request.open, request.archived) == (True, True)
    await client.get("/api/v1/admin/sagas", headers=backends.bearer("admin"))
    request, _ = backends.last("ListSagas")
    assert (request.HasField("older_than"), request.open, request.archived) == (False, False, False)


async def test_a_timeline_names_who_asked_and_why(client: httpx2.AsyncClient, backends: Any) -> None:
    entries = [
        sagas_pb2.TimelineEntry(sequence=1, step="order", operation="do", outcome="intended"),
        sagas_pb2.TimelineEntry(
            sequence=2, operation="cancel", outcome="requested", actor="ops", reason="why"
        ),
    ]
    backends.answers["GetTimeline"] = sagas_pb2.GetTimelineResponse(entries=entries)
    answer = await client.get(f"/api/v1/admin/sagas/{ID}/timeline", headers=backends.bearer("admin"))
    assert [(item["actor"], item["reason"]) for item in answer.json()["items"]] == [
        (None, None),
        ("ops", "why"),
    ]
