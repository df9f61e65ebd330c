"""`sagacity sagas list | show | watch | check`: looking, which changes nothing."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.live import Live

from chassis.clock import SystemClock
from cli import tables
from cli.connection import Where
from cli.failures import CommandError, ExitCode, usage
from cli.options import Address, AsJson, KeyFile, OrderId, SagaId, age_of, uuid_of
from cli.output import console, document, plain, safe
from cli.saga_operator import Operator, connected
from sagacity.sagas.v1 import sagas_pb2

MAX_PAGE = 200
DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000
# The archive answers by short pages, empty ones too.
MAX_PAGES = 200
REFRESH_PER_SECOND = 4

_clock = SystemClock()


class StateName(StrEnum):
    """Where a saga stands."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    WAITING = "waiting"
    PAUSED = "paused"
    PARKED = "parked"
    COMPLETED = "completed"
    COMPENSATED = "compensated"


def list_sagas(
    *,
    state: Annotated[StateName | None, typer.Option(help="Only sagas in this state.")] = None,
    kind: Annotated[str, typer.Option(help="Only sagas of this kind, for example place_order.")] = "",
    order: Annotated[str | None, typer.Option(help="Only sagas of this order.")] = None,
    step: Annotated[
        str, typer.Option(help="Only open sagas at this step; with --state compensated: refused by it.")
    ] = "",
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only sagas accepted so long ago: 90s, 15m, 2h, 7d.")
    ] = None,
    fingerprint: Annotated[str, typer.Option(help="Only sagas with this kind of error.")] = "",
    open_only: Annotated[bool, typer.Option("--open", help="Only sagas that have not ended.")] = False,
    archived: Annotated[bool, typer.Option(help="Search the archive instead of the journal.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="At most so many.")] = DEFAULT_LIMIT,
    page_token: Annotated[str, typer.Option(help="Go on where an earlier list ended.")] = "",
    as_json: AsJson = False,
    address: Address = None,
    identity_key_file: KeyFile = None,
) -> None:
    """List sagas, newest first."""
    request = sagas_pb2.ListSagasRequest(
        page_token=page_token,
        state=sagas_pb2.SagaState.Value(f"SAGA_STATE_{(state or 'unspecified').upper()}"),
        kind=kind,
        order_id=uuid_of(order, "order") if order else "",
        step=step,
        error_fingerprint=fingerprint,
        open=open_only,
        archived=archived,
    )
    if older_than is not None:
        age = Duration()
        age.FromTimedelta(age_of(older_than))
        request.older_than.CopyFrom(age)
    sagas, token = asyncio.run(_pages(Where(address, identity_key_file), request, limit))
    if as_json:
        document({"sagas": [plain(saga) for saga in sagas], "next_page_token": token or None})
        return
    out = console()
    if sagas:
        out.print(tables.saga_table(sagas, _clock.now()))
    else:
        out.print("no sagas")
    if token:
        out.print(f"more: --page-token {token}", soft_wrap=True)


async def _pages(
    where: Where, request: sagas_pb2.ListSagasRequest, limit: int
) -> tuple[list[sagas_pb2.Saga], str]:
    found: list[sagas_pb2.Saga] = []
    async with connected(where) as operator:
        for _ in range(MAX_PAGES):
            request.page_size = min(MAX_PAGE, limit - len(found))
            reply = await operator.call(operator.stub.ListSagas, request)
            found += reply.sagas
            request.page_token = reply.next_page_token
            if not reply.next_page_token or len(found) >= limit:
                break
    return found, request.page_token


def show(
    *,
    saga: SagaId = None,
    order: OrderId = None,
    as_json: AsJson = False,
    address: Address = None,
    identity_key_file: KeyFile = None,
) -> None:
    """Show a saga and what it did, with how long everything took."""
    where = Where(address, identity_key_file)
    found, entries = asyncio.run(_saga_and_timeline(where, *named(saga, order)))
    if as_json:
        document({"saga": plain(found), "timeline": [plain(entry) for entry in entries]})
    else:
        console().print(tables.whole(found, entries, _clock.now()))


async def _saga_and_timeline(
    where: Where, saga_id: str, order_id: str
) -> tuple[sagas_pb2.Saga, list[sagas_pb2.TimelineEntry]]:
    async with connected(where) as operator:
        if order_id:
            saga_id = (await operator.saga_of_order(order_id, open_only=False)).id
        request = sagas_pb2.GetSagaRequest(saga_id=saga_id)
        saga = (await operator.call(operator.stub.GetSaga, request)).saga
        timeline = sagas_pb2.GetTimelineRequest(saga_id=saga_id)
        return saga, list((await operator.call(operator.stub.GetTimeline, timeline)).entries)


def watch(
    *,
    saga: SagaId = None,
    order: OrderId = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document a line, as it comes.")
    ] = False,
    address: Address = None,
    identity_key_file: KeyFile = None,
) -> None:
    """Watch a saga until it ends, or all open ones until Ctrl-C."""
    names = named(saga, order) if saga or order else ("", "")
    asyncio.run(_watch(Where(address, identity_key_file), *names, as_json=as_json))


async def _watch(where: Where, saga_id: str, order_id: str, *, as_json: bool) -> None:
    async with connected(where) as operator:
        if order_id:
            saga_id = (await operator.saga_of_order(order_id, open_only=False)).id
        out = console()
        if as_json:
            await _watch_as_json(operator, saga_id)
        elif out.is_terminal:
            await _watch_live(operator, saga_id, out)
        else:
            await _watch_as_lines(operator, saga_id, out)


async def _watch_as_json(operator: Operator, saga_id: str) -> None:
    async for message in operator.watch(saga_id):
        sagas = [plain(saga) for saga in message.sagas]
        if saga_id:
            entries = [plain(entry) for entry in message.entries]
            document({"saga": sagas[0], "timeline": entries}, indent=None)
        else:
            document({"sagas": sagas}, indent=None)


async def _watch_live(operator: Operator, saga_id: str, out: Console) -> None:
    entries: list[sagas_pb2.TimelineEntry] = []
    with Live(console=out, refresh_per_second=REFRESH_PER_SECOND) as live:
        async for message in operator.watch(saga_id):
            entries += message.entries
            if saga_id:
                live.update(tables.whole(message.sagas[0], entries, _clock.now()))
            else:
                live.update(tables.saga_table(message.sagas, _clock.now()))


async def _watch_as_lines(operator: Operator, saga_id: str, out: Console) -> None:
    """What is new, a line each: entries of one saga, or open sagas that have changed."""
    shown: dict[str, tuple[int, int]] = {}
    async for message in operator.watch(saga_id):
        for entry in message.entries:
            moment = entry.time.ToJsonString()
            _print_words(out, moment, entry.operation, entry.step, entry.outcome, entry.detail)
        for saga in message.sagas:
            if shown.get(saga.id) != (saga.sequence, saga.epoch):
                _print_words(out, saga.id, saga.kind, tables.state_of(saga.state), saga.step, saga.last_error)
        shown = {saga.id: (saga.sequence, saga.epoch) for saga in message.sagas}


def _print_words(out: Console, *words: str) -> None:
    out.print(safe(" ".join(filter(None, words))), soft_wrap=True)


def check(*, as_json: AsJson = False, address: Address = None, identity_key_file: KeyFile = None) -> None:
    """Check that this code drives every open saga; exit code 1 where it does not, or one is parked."""
    uses = asyncio.run(_definitions(Where(address, identity_key_file)))
    lost = sum(use.open for use in uses if not use.loadable)
    parked = sum(use.parked for use in uses)
    if as_json:
        document({"ok": not lost and not parked, "definitions": [plain(use) for use in uses]})
    else:
        console().print(tables.definitions(uses))
    problems = [f"open sagas whose definition this code does not have: {lost}"] if lost else []
    problems += [f"sagas that are parked and need a person: {parked}"] if parked else []
    if problems:
        raise CommandError(ExitCode.CHECK_FAILED, "CHECK_FAILED", "; ".join(problems))


async def _definitions(where: Where) -> list[sagas_pb2.DefinitionUse]:
    async with connected(where) as operator:
        request = sagas_pb2.CheckDefinitionsRequest()
        return list((await operator.call(operator.stub.CheckDefinitions, request)).definitions)


def named(saga: str | None, order: str | None) -> tuple[str, str]:
    """The saga's id, or its order's; the other is empty.

    Raises:
        CommandError: USAGE unless it is exactly one of them.
    """
    if (saga is None) == (order is None):
        raise usage("name a saga by its id, or by --order and the order's id")
    if saga is not None:
        return uuid_of(saga, "saga"), ""
    return "", uuid_of(order or "", "order")
