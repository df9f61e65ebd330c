"""The application: routes, error handlers, and the edge around them."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from chassis.clock import Clock
from chassis.errors import Fault
from chassis.ids import NewId
from gateway import problems
from gateway.context import Gateway
from gateway.edge import Edge
from gateway.metrics import NO_ROUTE, known_method, show_from_the_beginning, template_of
from gateway.openapi import document
from gateway.routes import (
    admin,
    admin_events,
    docs,
    orders,
    products,
    provider_webhooks,
    sessions,
    system,
    users,
)

_LOG: Final = structlog.get_logger(__name__)

VERSION: Final = "1.0.0"
DESCRIPTION: Final = """\
Orders that either complete or are undone completely.

Register, log in with `POST /api/v1/sessions`, and send the token as `Authorization: Bearer ...`. Every POST
that creates something wants an `Idempotency-Key`: send the same key again when you do not know whether your
request arrived. Money is in minor units (`{"currency": "EUR", "amount_minor": 1234}` is 12.34 euro), times
are RFC 3339 in UTC, errors are `application/problem+json`.
"""


def create_app(gateway: Gateway, *, clock: Clock, new_id: NewId, with_docs: bool) -> FastAPI:
    """Builds the ASGI application.

    Args:
        gateway: What the routes need.
        clock: For the timestamps of problems.
        new_id: Makes ids for requests that bring none.
        with_docs: Whether /docs and /openapi.json exist.
    """
    app = FastAPI(
        title="Sagacity",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.gateway = gateway
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    for module in (
        orders,
        products,
        users,
        sessions,
        provider_webhooks,
        admin,
        admin_events,
        system,
        *((docs,) if with_docs else ()),
    ):
        # Not include_router: it would look for the route twice, in the application and in the router.
        app.router.routes.extend(module.ROUTER.routes)
    show_from_the_beginning(
        (method, route.path)
        for route in app.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    )
    _handle_errors(app, clock)
    app.add_middleware(Edge, clock=clock, new_id=new_id)
    return app


def _handle_errors(app: FastAPI, clock: Clock) -> None:
    def handler(
        problem_of: Callable[[Request, Exception], problems.Problem],
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(request: Request, error: Exception) -> Response:
            problem = problem_of(request, error)
            return problems.render(problem, request_id=request.state.request_id, now=clock.now())

        return handle

    app.add_exception_handler(Fault, handler(_of_fault))
    app.add_exception_handler(problems.ProblemError, handler(_of_problem))
    app.add_exception_handler(RequestValidationError, handler(_of_validation))
    app.add_exception_handler(HTTPException, handler(_of_status))


def _of_fault(request: Request, error: Exception) -> problems.Problem:
    assert isinstance(error, Fault)
    problem = problems.from_fault(error, method=request.method)
    if problem.status == 500:
        _LOG.error(
            "a backend failed",
            request_id=request.state.request_id,
            method=known_method(request.method),
            route=template_of(request.scope) or NO_ROUTE,
            kind=error.kind,
            reason=error.reason,
            message=error.message,
            domain=error.domain,
        )
    return problem


def _of_problem(_: Request, error: Exception) -> problems.Problem:
    assert isinstance(error, problems.ProblemError)
    return error.problem


def _of_validation(_: Request, error: Exception) -> problems.Problem:
    assert isinstance(error, RequestValidationError)
    return problems.from_validation(error.errors())


def _of_status(_: Request, error: Exception) -> problems.Problem:
    assert isinstance(error, HTTPException)
    return problems.from_status(error.status_code, error.headers)
