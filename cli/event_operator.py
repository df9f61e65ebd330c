"""The EventOperator of one context, or of all of them at once, as this command calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc.aio

from cli.connection import CALL_SECONDS, CONTEXTS, Client, Reply, Request, Where
from cli.connection import connected as connected_client
from cli.failures import CommandError, ExitCode, usage
from cli.output import safe
from sagacity.events.v1 import event_operator_pb2_grpc

if TYPE_CHECKING:  # the generated module has this name for type checkers only
    from sagacity.events.v1.event_operator_pb2_grpc import EventOperatorAsyncStub

Found = TypeVar("Found")


class EventOperator:
    """Calls of one context, each made once; whatever goes wrong is a CommandError."""

    def __init__(self, client: Client) -> None:
        self.stub: EventOperatorAsyncStub = event_operator_pb2_grpc.EventOperatorStub(client.channel)
        self._client = client

    async def call(
        self,
        rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Reply:
        """Make a call of the stub; CommandError as `Client.call`."""
        return await self._client.call(rpc, request, timeout_seconds=timeout_seconds)


@asynccontextmanager
async def connected(context: str, key_file: Path | None) -> AsyncIterator[EventOperator]:
    """Open the connection to a context for one command."""
    async with connected_client(Where(key_file=key_file, peer=CONTEXTS[context])) as client:
        yield EventOperator(client)


@dataclass(frozen=True)
class Answer(Generic[Found]):
    """What a context answered, or that it is away."""

    context: str
    found: Found | None
    away: CommandError | None = None


async def ask(
    contexts: Sequence[str],
    key_file: Path | None,
    question: Callable[[str, EventOperator], Awaitable[Found]],
) -> list[Answer[Found]]:
    """Ask some contexts at once; one that is away keeps nobody from hearing the others.

    Raises:
        CommandError: whatever one of them refuses.
    """

    async def one(context: str) -> Answer[Found]:
        try:
            async with connected(context, key_file) as operator:
                return Answer(context, await question(context, operator))
        except CommandError as error:
            if error.code is not ExitCode.UNAVAILABLE:
                raise
            return Answer(context, None, error)

    return list(await asyncio.gather(*map(one, contexts)))


def require_any(answers: Sequence[Answer[Found]]) -> None:
    """See that somebody has answered.

    Raises:
        CommandError: UNAVAILABLE where nobody has.
    """
    silent = [answer.away for answer in answers if answer.away]
    if silent and len(silent) == len(answers):
        raise CommandError(ExitCode.UNAVAILABLE, silent[0].reason, "; ".join(map(_message, silent)))


def require_all(answers: Sequence[Answer[Found]]) -> None:
    """See that nobody is missing from what has been shown.

    Raises:
        CommandError: INCOMPLETE where some have not answered; who they are.
    """
    silent = [(answer.context, answer.away) for answer in answers if answer.away]
    if silent:
        message = "; ".join(f"{context}: {away.message}" for context, away in silent)
        raise CommandError(ExitCode.INCOMPLETE, silent[0][1].reason, message)


def _message(error: CommandError) -> str:
    return error.message


def context_of(name: str, what: str, given: str | None) -> str:
    """Whose consumer or projection this is: as `given`, or by the first part of its name.

    Raises:
        CommandError: USAGE where neither tells.
    """
    context = given or name.partition(".")[0]
    if context not in CONTEXTS:
        raise usage(f"whose {what} is {safe(name)[:80]!r}? Name the context by --context")
    return context
