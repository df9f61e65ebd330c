"""Health, readiness, and the keys that verify access tokens."""

from fastapi import Response

from gateway.auth import Access
from gateway.context import Ctx
from gateway.openapi import problems
from gateway.problems import FieldError, Problem, ProblemError
from gateway.routing import allow, router
from gateway.views import HealthView, Json

ROUTER = router(tags=["system"])


@ROUTER.get("/healthz", response_model_exclude_none=True)
@allow(Access.ANYONE)
async def health() -> HealthView:
    """Tells that the process is alive; it asks nobody."""
    return HealthView(status="ok")


@ROUTER.get("/readyz", responses=problems({503: "A backend is away; `errors` names it"}))
@allow(Access.ANYONE)
async def readiness(context: Ctx) -> HealthView:
    """Tells whether every backend is there."""
    backends = await context.gateway.health()
    away = [name for name, state in backends.items() if state != "ok"]
    if away:
        detail = f"Not ready: {', '.join(away)}."
        errors = [FieldError(name, "is not available") for name in away]
        raise ProblemError(Problem(503, "NOT_READY", detail, errors, {"Retry-After": "1"}))
    return HealthView(status="ready", backends=backends)


@ROUTER.get("/.well-known/jwks.json", response_model=Json)
@allow(Access.ANYONE)
async def json_web_keys(context: Ctx) -> Response:
    """Publishes the keys that verify access tokens (RFC 7517)."""
    text = await context.gateway.keys.text()
    return Response(text, headers={"Cache-Control": "public, max-age=300"}, media_type="application/json")
