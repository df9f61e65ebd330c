"""What a route needs: the backends, who is calling, and how to name the request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar
from uuid import NAMESPACE_URL, uuid5

import grpc.aio
from fastapi import Depends, Request

from chassis.clock import Clock
from gateway.auth import Authenticator, Principal, UserKeys
from gateway.clients import CALL_TIMEOUT_SECONDS, Acting, Backend, Backends
from gateway.idempotency import required_key
from gateway.live import LiveUpdates

_REQUEST_IDS: Final = uuid5(NAMESPACE_URL, "urn:sagacity:gateway:request-id")

Stub = TypeVar("Stub")
Message = TypeVar("Message")
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the process has one of."""

    backends: Backends
    keys: UserKeys
    authenticator: Authenticator
    clock: Clock
    health: Callable[[], Awaitable[dict[str, str]]]
    live: LiveUpdates


@dataclass(frozen=True, slots=True)
class Context:
    """One request."""

    gateway: Gateway
    request: Request
    principal: Principal | None

    @property
    def backends(self) -> Backends:
        """The backends."""
        return self.gateway.backends

    @property
    def user_id(self) -> str:
        """The id of the calling user; only on a route that is not for anyone."""
        assert self.principal is not None
        return str(self.principal.user_id)

    async def call(
        self,
        backend: Backend[Stub],
        rpc: grpc.aio.UnaryUnaryMultiCallable[Message, Reply],
        message: Message,
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> Reply:
        """Calls a backend for the calling user.

        Raises:
            Fault: Whatever the backend answered, or why it did not.
        """
        user = self.principal.caller() if self.principal else None
        return await backend.call(
            rpc, message, Acting(user, self.request.state.request_id), timeout_seconds=timeout_seconds
        )

    def idempotency_key(self) -> str:
        """Returns the request's Idempotency-Key.

        Raises:
            ProblemError: 400 where it is missing, doubled or not printable.
        """
        return required_key(self.request.headers.getlist("idempotency-key"))

    def request_id_of(self, route: str) -> str:
        """Derives a backend's `request_id` from who calls, what, and the Idempotency-Key.

        The same three give the same UUID.

        Args:
            route: Names the route, with the ids in its path.

        Raises:
            ProblemError: 400 where the key is missing, doubled or not printable.
        """
        # The key is printable ASCII without spaces, so a space cannot make two of these alike.
        return str(uuid5(_REQUEST_IDS, f"{self.user_id} {route} {self.idempotency_key()}"))


async def _context(request: Request) -> Context:
    context = request.state.context
    assert isinstance(context, Context)
    return context


Ctx = Annotated[Context, Depends(_context)]
