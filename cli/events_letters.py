"""`sagacity events dead-letters list | show | replay | discard`: what consumers had to put aside."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from chassis.clock import SystemClock
from cli import events_tables
from cli.event_operator import EventOperator, ask, connected, context_of
from cli.events_looking import Pages, is_there_more, pages, show_answers
from cli.events_options import Consumer, Contexts, OwnContext, Reason, asked_by, chosen
from cli.failures import CommandError, ExitCode, usage
from cli.looking import DEFAULT_LIMIT, MAX_LIMIT
from cli.options import Actor, AsJson, KeyFile, Yes, confirm
from cli.output import console, document, plain, safe
from sagacity.events.v1 import event_operator_pb2 as pb

# A call replays as many as it may; so many calls are made for --all.
MAX_REPLAY_CALLS = 1_000
REPLAY_SECONDS = 60.0
MAX_SEQUENCE = 2**63 - 1

Aggregate: TypeAlias = Annotated[
    str, typer.Argument(metavar="AGGREGATE", help="As `list` shows it: <topic>/<type>/<id>.")
]
Sequence: TypeAlias = Annotated[
    int, typer.Argument(metavar="SEQUENCE", min=1, max=MAX_SEQUENCE, help="As `list` shows it.")
]

app = typer.Typer(
    help="Events that a consumer could not apply: list, show, replay, discard.", no_args_is_help=True
)
_clock = SystemClock()


@app.command("list")
def list_letters(
    *,
    context: Contexts = None,
    consumer: Annotated[str, typer.Option(help="Only of this consumer.")] = "",
    aggregate: Annotated[str, typer.Option(help="Only of this aggregate: <topic>/<type>/<id>.")] = "",
    event_type: Annotated[str, typer.Option("--type", help="Only of this type, by its full name.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_LIMIT, help="At most so many of each context.")
    ] = DEFAULT_LIMIT,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """List dead letters by consumer, aggregate and sequence."""

    async def question(_context: str, operator: EventOperator) -> Pages[pb.DeadLetter]:
        async def page(size: int, token: str) -> tuple[list[pb.DeadLetter], str]:
            request = pb.ListDeadLettersRequest(
                page_size=size, page_token=token, consumer=consumer, aggregate=aggregate, type=event_type
            )
            reply = await operator.call(operator.stub.ListDeadLetters, request)
            return list(reply.dead_letters), reply.next_page_token

        return await pages(page, limit)

    # Only its own context knows a consumer.
    whose = [context_of(consumer, "consumer", None)] if consumer and not context else chosen(context)
    answers = asyncio.run(ask(whose, identity_key_file, question))
    found = [(answer.context, each) for answer in answers if answer.found for each in answer.found.items]
    show_answers(
        answers,
        {
            "dead_letters": [{"context": name, **plain(each)} for name, each in found],
            "more": is_there_more(answers),
        },
        events_tables.letter_table([each for _, each in found], _clock.now()) if found else "no dead letters",
        as_json=as_json,
    )


@app.command()
def show(
    *,
    consumer: Consumer,
    aggregate: Aggregate,
    sequence: Annotated[
        int | None,
        typer.Argument(
            metavar="[SEQUENCE]", min=1, max=MAX_SEQUENCE, help="Else the first of the aggregate."
        ),
    ] = None,
    context: OwnContext = None,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Show a dead letter with its payload."""
    whose = context_of(consumer, "consumer", context)
    reply = asyncio.run(_read(whose, identity_key_file, consumer, aggregate, sequence))
    if not as_json:
        console().print(events_tables.letter_facts(reply, _clock.now()))
        return
    document(
        {
            "dead_letter": {"context": whose, **plain(reply.dead_letter)},
            "payload": json.loads(reply.payload_json) if reply.payload_json else None,
            "payload_base64": base64.b64encode(reply.payload).decode(),
        }
    )


async def _read(
    context: str, key_file: Path | None, consumer: str, aggregate: str, sequence: int | None
) -> pb.GetDeadLetterResponse:
    async with connected(context, key_file) as operator:
        if sequence is None:
            first = pb.ListDeadLettersRequest(page_size=1, consumer=consumer, aggregate=aggregate)
            found = (await operator.call(operator.stub.ListDeadLetters, first)).dead_letters
            if not found:
                message = "there is no dead letter of this aggregate"
                raise CommandError(ExitCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND", message)
            sequence = found[0].sequence
        request = pb.GetDeadLetterRequest(consumer=consumer, aggregate=aggregate, sequence=sequence)
        return await operator.call(operator.stub.GetDeadLetter, request)


@dataclass
class Replayed:
    """What became of a replay."""

    applied: int = 0
    left: int = 0
    error: str = ""


@app.command()
def replay(
    *,
    consumer: Consumer,
    aggregate: Annotated[
        str, typer.Argument(metavar="[AGGREGATE]", help="As `list` shows it: <topic>/<type>/<id>.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Instead of an aggregate: every one that is halted.")
    ] = False,
    reason: Reason,
    context: OwnContext = None,
    actor: Actor = None,
    yes: Yes = False,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Apply what is parked for an aggregate, in order, until one fails again; exit code 1 where one does."""
    if bool(aggregate) == everything:
        raise usage("name an aggregate, or all by --all")
    whose = context_of(consumer, "consumer", context)
    asked = asked_by(actor, reason)
    confirm(f"replay {aggregate or 'everything'} for {consumer}?", yes=yes)
    request = pb.ReplayDeadLettersRequest(consumer=consumer, aggregate=aggregate, **asked)
    done = asyncio.run(_replay(whose, identity_key_file, request))
    if as_json:
        document({"applied": done.applied, "left": done.left, "error": done.error or None})
    else:
        console().print(f"applied: {done.applied}, left: {done.left}")
    if done.left:
        message = f"left: {done.left}; {done.error}".removesuffix("; ")
        raise CommandError(ExitCode.CHECK_FAILED, "REPLAY_FAILED", message)


async def _replay(context: str, key_file: Path | None, request: pb.ReplayDeadLettersRequest) -> Replayed:
    """Call until all of it was tried once; what failed first is told."""
    done = Replayed()
    async with connected(context, key_file) as operator:
        for _ in range(MAX_REPLAY_CALLS):
            rpc = operator.stub.ReplayDeadLetters
            reply = await operator.call(rpc, request, timeout_seconds=REPLAY_SECONDS)
            done = Replayed(done.applied + reply.applied, reply.left, done.error or reply.error)
            request.page_token = reply.next_page_token
            if not reply.next_page_token:
                break
    return done


@app.command()
def discard(
    *,
    consumer: Consumer,
    aggregate: Aggregate,
    sequence: Sequence,
    reason: Reason,
    context: OwnContext = None,
    actor: Actor = None,
    yes: Yes = False,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Give up the first event that is parked for an aggregate: it will never have its effect here."""
    whose = context_of(consumer, "consumer", context)
    asked = asked_by(actor, reason)
    confirm(f"discard event {sequence} of {aggregate} for {consumer}?", yes=yes)
    request = pb.DiscardDeadLetterRequest(consumer=consumer, aggregate=aggregate, sequence=sequence, **asked)
    reply = asyncio.run(_discard(whose, identity_key_file, request))
    if as_json:
        document(plain(reply))
    else:
        console().print(f"discarded; left of {safe(aggregate)}: {reply.left}")


async def _discard(
    context: str, key_file: Path | None, request: pb.DiscardDeadLetterRequest
) -> pb.DiscardDeadLetterResponse:
    async with connected(context, key_file) as operator:
        return await operator.call(operator.stub.DiscardDeadLetter, request)
