"""The route class: nobody gets in undeclared, and no body gets in that is not strict JSON."""

import asyncio
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

from gateway.auth import Access
from gateway.context import Context, Gateway
from gateway.openapi import BEARER, problem_responses
from gateway.problems import FieldError, Problem, ProblemError, too_slow
from gateway.strict_json import parse_object

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10  # for all of a body

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
API: Final = "/api/v1"
_ACCESS: Final = "__access__"


def allow(access: Access) -> Callable[[Endpoint], Endpoint]:
    """Declares who may call a route. Put it below the route's decorator."""

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ACCESS, access)
        return endpoint

    return declare


def access_of(endpoint: Callable[..., Any]) -> Access | None:
    """Tells who may call an endpoint; None where nobody declared it."""
    access = getattr(endpoint, _ACCESS, None)
    return access if isinstance(access, Access) else None


def router(prefix: str = "", *, tags: list[str | Enum] | None = None) -> APIRouter:
    """Makes a router all of whose routes are guarded.

    Args:
        prefix: Where they are, all of the path.
        tags: Where they are in the documentation.
    """
    return APIRouter(prefix=prefix, tags=tags, route_class=GuardedRoute)


class _ParsedRequest(Request):
    """A request whose body was parsed by our parser before the framework asks for it."""

    def __init__(self, request: Request, body: bytes, parsed: dict[str, Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._parsed = parsed

    @override
    async def json(self) -> dict[str, Any]:
        return self._parsed


class GuardedRoute(APIRoute):
    """A route that authenticates first, then reads a bounded, strict body, then does what routes do."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        access = access_of(endpoint)
        if access is None:
            raise TypeError(f"{path}: declare with @allow who may call it")
        self.access = access
        if access is not Access.ANYONE:
            options["openapi_extra"] = {"security": [{BEARER: []}], **(options.get("openapi_extra") or {})}
        options["responses"] = {**problem_responses(access), **(options.get("responses") or {})}
        super().__init__(path, endpoint, **options)

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the framework's handler."""
        handle = super().get_route_handler()
        access = self.access
        takes_body = self.body_field is not None

        async def guarded(request: Request) -> Response:
            gateway: Gateway = request.app.state.gateway
            principal = await gateway.authenticator.authenticate(
                request.headers.getlist("authorization"), access
            )
            request.state.context = Context(gateway, request, principal)
            if takes_body:
                _check_content_type(request)
                body = await read_body(request)
                request = _ParsedRequest(request, body, parse_object(body))
            return await handle(request)

        return guarded


def _check_content_type(request: Request) -> None:
    values = request.headers.getlist("content-type")
    media_type, _, parameters = (values[0] if len(values) == 1 else "").partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if media_type.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise ProblemError(
            Problem(
                415,
                "UNSUPPORTED_MEDIA_TYPE",
                "Send Content-Type: application/json, in UTF-8.",
                (FieldError("Content-Type", "must be application/json"),),
                {"Accept": "application/json"},
            )
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(
            Problem(
                415,
                "UNSUPPORTED_MEDIA_TYPE",
                "Send the body without Content-Encoding.",
                (FieldError("Content-Encoding", "is not supported"),),
                {"Accept-Encoding": "identity"},
            )
        )


async def read_body(request: Request) -> bytes:
    """Reads all of a body as it came.

    Raises:
        ProblemError: 413 above MAX_BODY_BYTES, 408 after BODY_SECONDS.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_all(request)
    except TimeoutError:
        raise ProblemError(too_slow()) from None


async def _read_all(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ProblemError(too_large())
        chunks.append(chunk)
    return b"".join(chunks)


def too_large() -> Problem:
    """Makes the 413."""
    return Problem(413, "BODY_TOO_LARGE", f"The body is larger than {MAX_BODY_BYTES} bytes.")
