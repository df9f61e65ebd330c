"""`sagacity sagas retry | skip | compensate | pause | resume | cancel | preview`: what repairs a saga."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from chassis.clock import SystemClock
from cli import tables
from cli.connection import Where
from cli.looking import named
from cli.options import (
    MAX_ACTOR_CHARACTERS,
    MAX_REASON_CHARACTERS,
    Actor,
    Address,
    AsJson,
    KeyFile,
    OrderId,
    OutputJson,
    Preview,
    Reason,
    SagaId,
    Yes,
    confirm,
    line_of,
    logged_in,
)
from cli.output import console, document, plain
from cli.saga_operator import Operator, connected
from sagacity.sagas.v1 import sagas_pb2

_clock = SystemClock()
Reply = TypeVar("Reply")


class VerbName(StrEnum):
    """What may be asked of a saga."""

    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


# What cannot be taken back is asked twice.
DESTRUCTIVE = frozenset({VerbName.SKIP, VerbName.COMPENSATE, VerbName.CANCEL})
_PREVIEWED = {
    VerbName.RETRY: sagas_pb2.SAGA_VERB_RETRY,
    VerbName.SKIP: sagas_pb2.SAGA_VERB_SKIP_STEP,
    VerbName.COMPENSATE: sagas_pb2.SAGA_VERB_COMPENSATE,
    VerbName.PAUSE: sagas_pb2.SAGA_VERB_PAUSE,
    VerbName.RESUME: sagas_pb2.SAGA_VERB_RESUME,
    VerbName.CANCEL: sagas_pb2.SAGA_VERB_CANCEL,
}
_HELP = {
    VerbName.RETRY: "Try again at once: what backs off is due now, what parked the saga is called again.",
    VerbName.COMPENSATE: "Unwind a saga whose pivot is not intended yet.",
    VerbName.PAUSE: "Stop a saga until it is resumed; its deadline runs on.",
    VerbName.RESUME: "Let a paused saga go on in the direction that it had.",
    VerbName.CANCEL: "Unwind a saga in the customer's name: the order is rejected as CANCELLED.",
}


@dataclass(frozen=True)
class Asked:
    """One verb as it was typed."""

    verb: VerbName
    saga_id: str
    order_id: str
    actor: str
    reason: str
    step: str = ""
    output_json: str = ""
    preview: bool = False
    yes: bool = False
    as_json: bool = False


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for verb, text in _HELP.items():
        app.command(verb.value, help=text)(_command(verb))
    app.command("skip")(skip)
    app.command("preview")(preview)


def _command(verb: VerbName) -> Callable[..., None]:
    def ask(
        *,
        reason: Reason,
        saga: SagaId = None,
        order: OrderId = None,
        actor: Actor = None,
        show_preview: Preview = False,
        yes: Yes = False,
        as_json: AsJson = False,
        address: Address = None,
        identity_key_file: KeyFile = None,
    ) -> None:
        asked = _asked(verb, saga, order, actor, reason, preview=show_preview, yes=yes, as_json=as_json)
        _run(_perform(Where(address, identity_key_file), asked))

    return ask


def skip(
    *,
    step: Annotated[str, typer.Option(help="The step.")],
    output: OutputJson,
    reason: Reason,
    saga: SagaId = None,
    order: OrderId = None,
    actor: Actor = None,
    show_preview: Preview = False,
    yes: Yes = False,
    as_json: AsJson = False,
    address: Address = None,
    identity_key_file: KeyFile = None,
) -> None:
    """Take a step for done, with the output that you supply.

    Only steps without which money, stock and the order still add up can be skipped.
    """
    asked = _asked(
        VerbName.SKIP,
        saga,
        order,
        actor,
        reason,
        step=step,
        output_json=output,
        preview=show_preview,
        yes=yes,
        as_json=as_json,
    )
    _run(_perform(Where(address, identity_key_file), asked))


def preview(
    *,
    verb: Annotated[VerbName, typer.Argument(help="The verb.")],
    saga: SagaId = None,
    order: OrderId = None,
    step: Annotated[str, typer.Option(help="The step, for skip.")] = "",
    output: OutputJson = "",
    as_json: AsJson = False,
    address: Address = None,
    identity_key_file: KeyFile = None,
) -> None:
    """Show which calls a verb would send, and change nothing."""
    saga_id, order_id = named(saga, order)
    asked = Asked(verb, saga_id, order_id, "", "", step=step, output_json=output)
    reply = _run(_previewed(Where(address, identity_key_file), asked))
    if as_json:
        document(_plan(reply))
    else:
        console().print(tables.plan(reply))


def _asked(
    verb: VerbName, saga: str | None, order: str | None, actor: str | None, reason: str, **options: Any
) -> Asked:
    saga_id, order_id = named(saga, order)
    who = logged_in() if actor is None else actor
    return Asked(
        verb,
        saga_id,
        order_id,
        line_of(who, "actor", MAX_ACTOR_CHARACTERS),
        line_of(reason, "reason", MAX_REASON_CHARACTERS),
        **options,
    )


def _run(work: Coroutine[Any, Any, Reply]) -> Reply:
    return asyncio.run(work)


async def _previewed(where: Where, asked: Asked) -> sagas_pb2.PreviewResponse:
    async with connected(where) as operator:
        return await _preview(operator, asked, await _saga_id(operator, asked))


async def _perform(where: Where, asked: Asked) -> None:
    async with connected(where) as operator:
        saga_id = await _saga_id(operator, asked)
        shown: dict[str, Any] = {}
        if asked.preview:
            reply = await _preview(operator, asked, saga_id)
            if asked.as_json:
                shown["preview"] = _plan(reply)
            else:
                console().print(tables.plan(reply))
        if asked.verb in DESTRUCTIVE:
            confirm(f"{asked.verb} saga {saga_id}?", yes=asked.yes)
        saga = await _send(operator, asked, saga_id)
    if asked.as_json:
        document({**shown, "saga": plain(saga)})
    else:
        console().print(tables.saga_facts(saga, _clock.now()))


async def _saga_id(operator: Operator, asked: Asked) -> str:
    if asked.saga_id:
        return asked.saga_id
    return (await operator.saga_of_order(asked.order_id, open_only=True)).id


async def _preview(operator: Operator, asked: Asked, saga_id: str) -> sagas_pb2.PreviewResponse:
    request = sagas_pb2.PreviewRequest(
        saga_id=saga_id, verb=_PREVIEWED[asked.verb], step=asked.step, output_json=asked.output_json
    )
    return await operator.call(operator.stub.Preview, request)


async def _send(operator: Operator, asked: Asked, saga_id: str) -> sagas_pb2.Saga:
    stub = operator.stub
    common = {"saga_id": saga_id, "actor": asked.actor, "reason": asked.reason}
    match asked.verb:
        case VerbName.RETRY:
            return (await operator.call(stub.Retry, sagas_pb2.RetryRequest(**common))).saga
        case VerbName.SKIP:
            request = sagas_pb2.SkipStepRequest(**common, step=asked.step, output_json=asked.output_json)
            return (await operator.call(stub.SkipStep, request)).saga
        case VerbName.COMPENSATE:
            return (await operator.call(stub.Compensate, sagas_pb2.CompensateRequest(**common))).saga
        case VerbName.PAUSE:
            return (await operator.call(stub.Pause, sagas_pb2.PauseRequest(**common))).saga
        case VerbName.RESUME:
            return (await operator.call(stub.Resume, sagas_pb2.ResumeRequest(**common))).saga
        case VerbName.CANCEL:
            return (await operator.call(stub.Cancel, sagas_pb2.CancelRequest(**common))).saga


def _plan(reply: sagas_pb2.PreviewResponse) -> dict[str, Any]:
    return {"calls": [plain(call) for call in reply.calls], "state": tables.state_of(reply.state)}
