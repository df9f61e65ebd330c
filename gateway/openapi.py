"""The OpenAPI document: the framework's, with our security scheme and our one error format."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.auth import Access
from gateway.problems import MEDIA_TYPE
from gateway.views import ProblemView

BEARER: Final = "accessToken"

IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "Chosen by you: the same key again is the same request again, and has its effect once.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "example": "0b6a8f5c-place-order",
}
PREFER: Final[dict[str, Any]] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "How long to wait for the end (RFC 7240): `wait=N`, 0 to 30 seconds, or `respond-async`.",
    "schema": {"type": "string"},
    "example": "wait=10",
}
LAST_EVENT_ID: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The `id` of the last event that was read: the stream goes on after it.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}
IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` that was read: the change is made only where it is still that.",
    "schema": {"type": "string"},
}

_PROBLEM: Final = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_FOR_ALL: Final = {
    400: "The request is malformed; `errors` names the fields",
    422: "The request is well-formed, but a value is not allowed",
    500: "Our mistake; nothing is told but the request id",
    503: "Too much to do, or a part is away: try again after `Retry-After` seconds",
    504: "It took too long",
}
_FOR_KNOWN: Final = {401: "No valid access token", 403: "Your role may not do this"}


def problem_responses(access: Access) -> dict[int | str, dict[str, Any]]:
    """Describes the errors that a route for these callers has."""
    texts = _FOR_ALL if access is Access.ANYONE else {**_FOR_ALL, **_FOR_KNOWN}
    return problems(texts)


def problems(texts: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Describes problem responses, by status."""
    return {status: {"description": text, "content": _PROBLEM} for status, text in sorted(texts.items())}


def headers_of(*headers: dict[str, Any]) -> dict[str, Any]:
    """Describes the headers that a route reads by itself."""
    return {"parameters": [dict(header) for header in headers]}


def document(app: FastAPI) -> dict[str, Any]:
    """Builds the OpenAPI document, once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = schema.setdefault("components", {})
        components["securitySchemes"] = {
            BEARER: {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "`access_token` of `POST /api/v1/sessions`.",
            }
        }
        reference = "#/components/schemas/{model}"
        problem = ProblemView.model_json_schema(ref_template=reference)
        schemas = components.setdefault("schemas", {})
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem
        app.openapi_schema = schema
    return app.openapi_schema
