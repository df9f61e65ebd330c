"""`sagacity events pause | resume | rebuild`: what is asked of consumers and projections."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from cli import events_tables
from cli.connection import CONTEXTS
from cli.event_operator import EventOperator, ask, connected, context_of, require_any
from cli.events_looking import projections_of
from cli.events_options import Consumer, OwnContext, Reason, asked_by
from cli.failures import CommandError, ExitCode
from cli.options import Actor, AsJson, KeyFile
from cli.output import console, document, plain, safe
from sagacity.events.v1 import event_operator_pb2 as pb

PROGRESS_SECONDS = 0.5
REFRESH_PER_SECOND = 4


def pause(
    *,
    consumer: Consumer,
    reason: Reason,
    context: OwnContext = None,
    actor: Actor = None,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Stop a consumer, in all processes, until it is resumed; what it has read is applied first."""
    whose = context_of(consumer, "consumer", context)
    request = pb.PauseConsumerRequest(consumer=consumer, **asked_by(actor, reason))
    state = asyncio.run(_pause(whose, identity_key_file, request))
    _show_consumer(consumer, state, as_json=as_json)


async def _pause(context: str, key_file: Path | None, request: pb.PauseConsumerRequest) -> int:
    async with connected(context, key_file) as operator:
        return (await operator.call(operator.stub.PauseConsumer, request)).state


def resume(
    *,
    consumer: Consumer,
    reason: Reason,
    context: OwnContext = None,
    actor: Actor = None,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Let a consumer go on that was paused, or that halted because too much failed in a row."""
    whose = context_of(consumer, "consumer", context)
    request = pb.ResumeConsumerRequest(consumer=consumer, **asked_by(actor, reason))
    state = asyncio.run(_resume(whose, identity_key_file, request))
    _show_consumer(consumer, state, as_json=as_json)


async def _resume(context: str, key_file: Path | None, request: pb.ResumeConsumerRequest) -> int:
    async with connected(context, key_file) as operator:
        return (await operator.call(operator.stub.ResumeConsumer, request)).state


def _show_consumer(consumer: str, state: int, *, as_json: bool) -> None:
    shown = events_tables.consumer_state(state)
    if as_json:
        document({"consumer": consumer, "state": shown})
    else:
        console().print(f"{safe(consumer)} is {shown}")


def rebuild(
    *,
    projection: Annotated[
        str, typer.Argument(metavar="PROJECTION", help="For example order-history; see `projections`.")
    ],
    reason: Reason,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how far it is, until the new generation serves.")
    ] = False,
    context: OwnContext = None,
    actor: Actor = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --wait one document a line.")
    ] = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Build a projection anew beside the one that serves, and switch once it has caught up.

    One that is being built already goes on instead.
    """
    request = pb.RebuildProjectionRequest(projection=projection, **asked_by(actor, reason))
    asyncio.run(_rebuild(context, identity_key_file, request, wait=wait, as_json=as_json))


async def _rebuild(
    given: str | None,
    key_file: Path | None,
    request: pb.RebuildProjectionRequest,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    context = given or await _owner_of(request.projection, key_file)
    async with connected(context, key_file) as operator:
        projection = (await operator.call(operator.stub.RebuildProjection, request)).projection
        out = console()
        if not wait:
            _show_projection(out, context, projection, as_json=as_json)
        elif out.is_terminal and not as_json:
            await _watch(out, context, operator, projection)
        else:
            await _print_progress(out, context, operator, projection, as_json=as_json)


async def _owner_of(projection: str, key_file: Path | None) -> str:
    """The context that has a projection.

    Raises:
        CommandError: NOT_FOUND where none has it; UNAVAILABLE where one that is away may have it.
    """
    answers = await ask(list(CONTEXTS), key_file, projections_of)
    require_any(answers)
    for answer in answers:
        if projection in {each.name for each in answer.found or []}:
            return answer.context
    for answer in answers:
        if answer.away:
            raise answer.away
    message = f"no context has a projection {projection}"
    raise CommandError(ExitCode.NOT_FOUND, "PROJECTION_NOT_FOUND", message)


async def _now(operator: EventOperator, context: str, name: str) -> pb.Projection:
    for projection in await projections_of(context, operator):
        if projection.name == name:
            return projection
    message = f"the projection {name} is gone"
    raise CommandError(ExitCode.NOT_FOUND, "PROJECTION_NOT_FOUND", message)


async def _watch(out: Console, context: str, operator: EventOperator, projection: pb.Projection) -> None:
    with Live(console=out, refresh_per_second=REFRESH_PER_SECOND) as live:
        while True:
            live.update(events_tables.projection_table([(context, projection)]))
            if _has_ended(projection):
                return
            await asyncio.sleep(PROGRESS_SECONDS)
            projection = await _now(operator, context, projection.name)


async def _print_progress(
    out: Console, context: str, operator: EventOperator, projection: pb.Projection, *, as_json: bool
) -> None:
    """What has changed, a line each."""
    shown: pb.Projection | None = None
    while True:
        if projection != shown:
            _show_projection(out, context, projection, as_json=as_json, indent=None)
            shown = projection
        if _has_ended(projection):
            return
        await asyncio.sleep(PROGRESS_SECONDS)
        projection = await _now(operator, context, projection.name)


def _has_ended(projection: pb.Projection) -> bool:
    return projection.state == pb.PROJECTION_STATE_SERVING


def _show_projection(
    out: Console, context: str, projection: pb.Projection, *, as_json: bool, indent: int | None = 2
) -> None:
    if as_json:
        shown: dict[str, Any] = {"projection": {"context": context, **plain(projection)}}
        document(shown, indent=indent)
        return
    state = events_tables.projection_state(projection.state)
    words = f"{projection.name} is {state}: generation {projection.active_generation} serves"
    if projection.building_generation:
        words += f", {projection.building_generation} is being built, copied: {projection.copied}"
    out.print(safe(words), soft_wrap=True)
