"""`sagacity events lag | projections | audit`: looking, which changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer
from rich.console import RenderableType
from rich.live import Live

from cli import events_tables
from cli.event_operator import Answer, EventOperator, ask, require_all, require_any
from cli.events_options import Contexts, chosen
from cli.looking import DEFAULT_LIMIT, MAX_LIMIT, MAX_PAGE
from cli.options import AsJson, KeyFile
from cli.output import console, document, plain
from cli.tables import moment_of
from sagacity.events.v1 import event_operator_pb2 as pb

# One that hangs keeps the others from being shown for so long; one without its Kafka says so before.
LAG_SECONDS = 8.0
WATCH_SECONDS = 2.0
Item = TypeVar("Item")
REFRESH_PER_SECOND = 4
MAX_PAGES = 200


def lag(
    *,
    context: Contexts = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C; with --json one document a line.")
    ] = False,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Show how far outboxes and consumers are behind, and what is halted.

    A context that is away is shown as unreachable: exit code 6, and 5 where none answers.
    """
    asyncio.run(_lag(chosen(context), identity_key_file, watch=watch, as_json=as_json))


async def _lag(contexts: list[str], key_file: Path | None, *, watch: bool, as_json: bool) -> None:
    answers = await _ask_lag(contexts, key_file)
    require_any(answers)
    out = console()
    if watch and out.is_terminal and not as_json:
        with Live(console=out, refresh_per_second=REFRESH_PER_SECOND) as live:
            while True:
                live.update(events_tables.lag_table(answers))
                await asyncio.sleep(WATCH_SECONDS)
                answers = await _ask_lag(contexts, key_file)
    while True:
        if as_json:
            document(_lag_document(answers), indent=None if watch else 2)
        else:
            out.print(events_tables.lag_table(answers))
        if not watch:
            break
        await asyncio.sleep(WATCH_SECONDS)
        answers = await _ask_lag(contexts, key_file)
    require_all(answers)


async def _ask_lag(contexts: list[str], key_file: Path | None) -> list[Answer[pb.GetLagResponse]]:
    async def question(_context: str, operator: EventOperator) -> pb.GetLagResponse:
        rpc = operator.stub.GetLag
        return await operator.call(rpc, pb.GetLagRequest(), timeout_seconds=LAG_SECONDS)

    return await ask(contexts, key_file, question)


def _lag_document(answers: list[Answer[pb.GetLagResponse]]) -> dict[str, Any]:
    shown = []
    for answer in answers:
        found = plain(answer.found) if answer.found is not None else {}
        shown.append(
            {
                "context": answer.context,
                "reachable": answer.found is not None,
                "outbox": found.get("outbox"),
                "consumers": found.get("consumers", []),
            }
        )
    return {"contexts": shown}


def projections(
    *, context: Contexts = None, as_json: AsJson = False, identity_key_file: KeyFile = None
) -> None:
    """List what is built from events: which generation serves, which is being built."""
    answers = asyncio.run(ask(chosen(context), identity_key_file, projections_of))
    found = [(answer.context, each) for answer in answers for each in answer.found or []]
    show_answers(
        answers,
        {"projections": [{"context": name, **plain(each)} for name, each in found]},
        events_tables.projection_table(found) if found else "no projections",
        as_json=as_json,
    )


async def projections_of(_context: str, operator: EventOperator) -> list[pb.Projection]:
    """The projections of a context."""
    reply = await operator.call(operator.stub.ListProjections, pb.ListProjectionsRequest())
    return list(reply.projections)


def audit(
    *,
    context: Contexts = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="At most so many.")] = DEFAULT_LIMIT,
    as_json: AsJson = False,
    identity_key_file: KeyFile = None,
) -> None:
    """Show what operators did to events, when and why, the newest first."""

    async def question(_context: str, operator: EventOperator) -> Pages[pb.AuditEntry]:
        async def page(size: int, token: str) -> tuple[list[pb.AuditEntry], str]:
            request = pb.ListAuditEntriesRequest(page_size=size, page_token=token)
            reply = await operator.call(operator.stub.ListAuditEntries, request)
            return list(reply.entries), reply.next_page_token

        return await pages(page, limit)

    answers = asyncio.run(ask(chosen(context), identity_key_file, question))
    found = [(answer.context, each) for answer in answers if answer.found for each in answer.found.items]
    found.sort(key=lambda pair: moment_of(pair[1].time), reverse=True)
    more = is_there_more(answers) or len(found) > limit
    del found[limit:]
    show_answers(
        answers,
        {"entries": [{"context": name, **plain(each)} for name, each in found], "more": more},
        events_tables.audit_table(found) if found else "nothing was done",
        as_json=as_json,
    )


@dataclass
class Pages(Generic[Item]):
    """What came by pages, and whether there is more of it."""

    items: list[Item] = field(default_factory=list)
    more: bool = False


async def pages(page: Callable[[int, str], Awaitable[tuple[list[Item], str]]], limit: int) -> Pages[Item]:
    """The first `limit` of what comes by pages."""
    found: Pages[Item] = Pages()
    token = ""
    for _ in range(MAX_PAGES):
        some, token = await page(min(MAX_PAGE, limit - len(found.items)), token)
        found.items += some
        if not token or len(found.items) >= limit:
            break
    found.more = bool(token)
    return found


def is_there_more(answers: list[Answer[Pages[Item]]]) -> bool:
    """Whether a context has more than was asked for."""
    return any(answer.found.more for answer in answers if answer.found)


def show_answers(
    answers: list[Answer[Any]], shown: dict[str, Any], table: RenderableType, *, as_json: bool
) -> None:
    """Print what was found.

    Raises:
        CommandError: INCOMPLETE where some did not answer, UNAVAILABLE where nobody did: nothing is shown.
    """
    require_any(answers)
    if as_json:
        document({**shown, "unreachable": [answer.context for answer in answers if answer.away]})
    else:
        out = console()
        out.print(table)
        if shown.get("more"):
            out.print("more: raise --limit")
    require_all(answers)
