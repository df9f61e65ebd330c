"""Sessions: logging in."""

from gateway import render
from gateway.auth import Access
from gateway.context import Ctx
from gateway.models import NewSession
from gateway.openapi import problems
from gateway.routing import API, allow, router
from gateway.views import SessionView
from sagacity.users.v1 import users_pb2

ROUTER = router(f"{API}/sessions", tags=["sessions"])


@ROUTER.post("", status_code=201, responses=problems({401: "The e-mail address or the password is wrong"}))
@allow(Access.ANYONE)
async def log_in(body: NewSession, context: Ctx) -> SessionView:
    """Exchanges e-mail address and password for an access token.

    Each login makes a new one, so it wants no Idempotency-Key.
    """
    users = context.backends.users
    request = users_pb2.LoginRequest(email=body.email, password=body.password)
    return render.session(await context.call(users, users.stub.Login, request))
