"""The only renderer of errors.

Everything that goes wrong becomes `application/problem+json` (RFC 9457) here.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from chassis.errors import Fault, FaultKind

MEDIA_TYPE: Final = "application/problem+json"
DOMAIN: Final = "sagacity.gateway"
MAX_ERRORS: Final = 50  # entries of `errors`
MAX_FIELD_CHARACTERS: Final = 200
DEFAULT_RETRY_AFTER_SECONDS: Final = 1
AUTHENTICATE: Final = {"WWW-Authenticate": 'Bearer realm="sagacity"'}

_OPAQUE: Final = "Something went wrong on our side. Quote the request id when you report it."

_STATUS_OF_REASON: Final[Mapping[str, int]] = {
    "CARD_DECLINED": 402,
    "INSUFFICIENT_FUNDS": 402,
    "ETAG_MISMATCH": 412,
    "IDEMPOTENCY_KEY_REUSED": 422,
}

_STATUS_OF_KIND: Final[Mapping[FaultKind, int]] = {
    FaultKind.INVALID_ARGUMENT: 422,
    FaultKind.OUT_OF_RANGE: 400,
    FaultKind.NOT_FOUND: 404,
    FaultKind.ALREADY_EXISTS: 409,
    FaultKind.FAILED_PRECONDITION: 409,
    FaultKind.ABORTED: 409,
    FaultKind.PERMISSION_DENIED: 403,
    FaultKind.UNAUTHENTICATED: 401,
    FaultKind.RESOURCE_EXHAUSTED: 503,
    FaultKind.UNAVAILABLE: 503,
    FaultKind.CANCELLED: 503,
    FaultKind.DEADLINE_EXCEEDED: 504,
}

# What a value may not be, as opposed to what a type may not be: 422, not 400.
_VALUE_ERRORS: Final = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "string_pattern_mismatch",
        "string_too_long",
        "string_too_short",
        "too_long",
        "too_short",
        "value_error",
    }
)

_JSON_NAMES: Final[Mapping[str, str]] = {"minor_units": "amount_minor", "currency_code": "currency"}
_WRAPPERS: Final = frozenset({"address", "product"})  # messages whose fields the JSON body has at its top


@dataclass(frozen=True, slots=True)
class FieldError:
    """One entry of `errors`: a field of the request, as the client writes it, and what is wrong with it."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told to the client: `code` for programs (UPPER_SNAKE), `detail` for people.

    `extra` are further members.
    """

    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class ProblemError(Exception):
    """Raised where the gateway itself has something to refuse."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def malformed(detail: str, *errors: FieldError) -> ProblemError:
    """Makes the 400 for a request that is not what the contract asks for."""
    return ProblemError(Problem(400, "INVALID_ARGUMENT", detail, errors))


def render(problem: Problem, *, request_id: str, now: datetime) -> Response:
    """Renders a problem as a response.

    Args:
        problem: What to tell.
        request_id: Id of the request, for the client to quote.
        now: When it happened, aware, UTC.
    """
    return Response(
        render_body(problem, request_id=request_id, now=now),
        status_code=problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


def render_body(problem: Problem, *, request_id: str, now: datetime) -> bytes:
    """Renders the JSON of a problem, for those who cannot send a `Response`."""
    body = {
        "type": "urn:problem-type:sagacity:" + problem.code.lower().replace("_", "-"),
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "errors": [{"field": error.field, "message": error.message} for error in problem.errors[:MAX_ERRORS]],
        **problem.extra,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def too_slow() -> Problem:
    """Makes the 408. Its connection is closed: the rest of the body could still come."""
    return Problem(408, "REQUEST_TIMEOUT", "The body came too slowly.", headers={"Connection": "close"})


def overloaded() -> Problem:
    """Makes the 503 for one request too many."""
    return Problem(503, "OVERLOADED", "Too many requests at once.", headers={"Retry-After": "1"})


def internal() -> Problem:
    """Makes the opaque 500: it says nothing of what happened."""
    return Problem(500, "INTERNAL", _OPAQUE)


def status_of_refusal(reason: str) -> int:
    """Tells the status for an order that was refused: 402 where the payment was, else 409."""
    return 402 if _STATUS_OF_REASON.get(reason) == 402 else 409


def from_fault(fault: Fault, *, method: str) -> Problem:
    """Turns the error of a backend, or one of our own, into a problem.

    Args:
        fault: What the call raised.
        method: The request's HTTP method; what is wrong with a request that has no body is its shape
            (400), not its content.
    """
    if fault.kind is FaultKind.UNAUTHENTICATED and not _is_about_the_client(fault):
        # The backend does not know the gateway: our fault, not the client's, and nothing they could mend.
        return internal()
    status = _STATUS_OF_REASON.get(fault.reason) or _STATUS_OF_KIND.get(fault.kind, 500)
    if status == 500:
        return internal()
    if fault.kind is FaultKind.INVALID_ARGUMENT and (method in {"GET", "DELETE"} or not fault.fields):
        status = 400
    return Problem(
        status,
        fault.reason or fault.kind.value,
        fault.message or HTTPStatus(status).phrase,
        tuple(FieldError(_json_name(entry.subject), entry.description) for entry in fault.fields),
        _headers_of(fault, status),
        {
            "details": [
                {"subject": entry.subject, "description": entry.description} for entry in fault.subjects
            ]
        }
        if fault.subjects
        else {},
    )


def _is_about_the_client(fault: Fault) -> bool:
    return fault.domain == DOMAIN or fault.reason == "BAD_CREDENTIALS"


def _headers_of(fault: Fault, status: int) -> Mapping[str, str]:
    if status == 401:
        return AUTHENTICATE
    if status in {503, 504}:
        after = fault.retry_after.total_seconds() if fault.retry_after else 0
        return {"Retry-After": str(max(DEFAULT_RETRY_AFTER_SECONDS, math.ceil(after)))}
    return {}


def _json_name(path: str) -> str:
    """Translates a protobuf path: `product.unit_price.minor_units` is `unit_price.amount_minor` in JSON."""
    parts = path.split(".")
    if len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(_JSON_NAMES.get(part, part) for part in parts)[:MAX_FIELD_CHARACTERS]


def from_validation(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Turns what pydantic found into a problem, without its input: it could hold a secret.

    400 where the shape is wrong (type, missing, unknown), 422 where a well-formed value of the body is not
    allowed.
    """
    entries = tuple(FieldError(field_of(error["loc"]), _sentence(error)) for error in errors[:MAX_ERRORS])
    values_only = all(error["loc"][0] == "body" and error["type"] in _VALUE_ERRORS for error in errors)
    named = ", ".join(entry.field for entry in entries[:3]) or "the request"
    if values_only:
        return Problem(422, "INVALID_ARGUMENT", f"Not allowed: {named}.", entries)
    return Problem(400, "INVALID_ARGUMENT", f"Malformed: {named}.", entries)


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "Unknown field"
    return re.sub(r"^Value error, ", "", str(error["msg"]))


def field_of(location: Sequence[str | int]) -> str:
    """Writes pydantic's location as a field: `("body", "items", 0, "sku")` is `items[0].sku`."""
    if location[0] == "header":
        return "-".join(part.capitalize() for part in str(location[-1]).replace("_", "-").split("-"))
    parts = location[1:] or location
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".")[:MAX_FIELD_CHARACTERS]


def from_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """Makes a problem from a bare HTTP status, for what the framework refuses by itself (404, 405)."""
    details = {
        404: ("ROUTE_NOT_FOUND", "There is nothing at this address."),
        405: ("METHOD_NOT_ALLOWED", "This address does not know that method."),
        400: ("INVALID_ARGUMENT", "The request is malformed."),
    }
    if status >= 500:
        return internal()
    code, detail = details.get(status, (HTTPStatus(status).name, HTTPStatus(status).phrase + "."))
    return Problem(status, code, detail, headers=dict(headers or {}))
