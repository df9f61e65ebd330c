"""Faults become problems: the status, the words, and what is kept back."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from chassis.errors import Detail, Fault, FaultKind
from gateway import problems

NOW = datetime(2026, 11, 21, 2, 3, 4, 567890, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [
        (FaultKind.FAILED_PRECONDITION, "CARD_DECLINED", 402),
        (FaultKind.FAILED_PRECONDITION, "INSUFFICIENT_FUNDS", 402),
        (FaultKind.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", 409),
        (FaultKind.FAILED_PRECONDITION, "PRICE_CHANGED", 409),
        (FaultKind.ALREADY_EXISTS, "EMAIL_TAKEN", 409),
        (FaultKind.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", 422),
        (FaultKind.ABORTED, "ETAG_MISMATCH", 412),
        (FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", 404),
        (FaultKind.PERMISSION_DENIED, "NOT_ALLOWED", 403),
        (FaultKind.UNAUTHENTICATED, "BAD_CREDENTIALS", 401),
        (FaultKind.RESOURCE_EXHAUSTED, "OVERLOADED", 503),
        (FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", 503),
        (FaultKind.DEADLINE_EXCEEDED, "", 504),
        (FaultKind.OUT_OF_RANGE, "X", 400),
    ],
)
def test_a_fault_has_a_status(kind: FaultKind, reason: str, status: int) -> None:
    problem = problems.from_fault(Fault(kind, reason, "m", domain="sagacity.users"), method="POST")
    assert (problem.status, problem.code) == (status, reason or kind.value)


@pytest.mark.parametrize("kind", list(FaultKind))
def test_every_kind_of_fault_has_an_answer(kind: FaultKind) -> None:
    problem = problems.from_fault(Fault(kind, "SOMETHING", "m"), method="GET")
    assert 400 <= problem.status < 600


@pytest.mark.parametrize(
    "kind", [FaultKind.INTERNAL, FaultKind.UNKNOWN, FaultKind.DATA_LOSS, FaultKind.UNIMPLEMENTED]
)
def test_a_bug_of_a_backend_is_an_opaque_500(kind: FaultKind) -> None:
    problem = problems.from_fault(Fault(kind, "BOOM", "SELECT secret FROM users"), method="GET")
    assert problem == problems.internal()


def test_a_backend_that_does_not_know_the_gateway_is_not_the_clients_fault() -> None:
    fault = Fault(FaultKind.UNAUTHENTICATED, "BAD_SERVICE_TOKEN", "the service token is not valid")
    assert problems.from_fault(fault, method="GET").status == 500


def test_a_401_says_how_to_authenticate() -> None:
    fault = Fault(FaultKind.UNAUTHENTICATED, "TOKEN_MISSING", "m", domain=problems.DOMAIN)
    assert problems.from_fault(fault, method="GET").headers["WWW-Authenticate"].startswith("Bearer")


def test_pressure_says_when_to_come_back_in_whole_seconds() -> None:
    fault = Fault(FaultKind.RESOURCE_EXHAUSTED, "OVERLOADED", "m", retry_after=timedelta(milliseconds=1200))
    assert problems.from_fault(fault, method="POST").headers == {"Retry-After": "2"}


def test_wrong_fields_are_named_as_the_json_names_them() -> None:
    fields = (
        Detail("product.unit_price.minor_units", "too much"),
        Detail("address.country_code", "unknown"),
        Detail("items[0].quantity", "too many"),
        Detail("currency_code", "unknown"),
    )
    fault = Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "m", fields=fields)
    problem = problems.from_fault(fault, method="POST")
    assert problem.status == 422
    assert [error.field for error in problem.errors] == [
        "unit_price.amount_minor",
        "country_code",
        "items[0].quantity",
        "currency",
    ]


def test_a_wrong_argument_of_a_request_without_a_body_is_400() -> None:
    fault = Fault(FaultKind.INVALID_ARGUMENT, "BAD_TOKEN", "m", fields=(Detail("page_token", "not ours"),))
    assert problems.from_fault(fault, method="GET").status == 400


def test_a_problem_has_every_member_of_the_contract() -> None:
    problem = problems.Problem(409, "INSUFFICIENT_STOCK", "Too few.", extra={"order_id": "x"})
    response = problems.render(problem, request_id="r-1", now=NOW)
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "urn:problem-type:sagacity:insufficient-stock",
        "title": "Conflict",
        "status": 409,
        "detail": "Too few.",
        "code": "INSUFFICIENT_STOCK",
        "request_id": "r-1",
        "timestamp": "2026-11-21T02:03:04.567Z",
        "errors": [],
        "order_id": "x",
    }


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 418, 422, 431, 500, 599])
def test_any_status_of_the_framework_becomes_a_problem(status: int) -> None:
    problem = problems.from_status(status)
    assert json.loads(problems.render_body(problem, request_id="r", now=NOW))["status"] == problem.status
