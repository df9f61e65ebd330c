"""`python -m deploy.local` (= `make run`): the whole suite on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.errors import LocalDeployError
from deploy.local.logbook import Logbook
from deploy.local.programs import GATEWAY, PROGRAMS, USERS
from deploy.local.suite import EMBEDDED, MAVEN, Suite
from deploy.local.welcome import welcome

GRPC_PORT = USERS.default_port
GATEWAY_PORT = GATEWAY.default_port
KILLED_BY_CTRL_C = 130
ADDRESSES = re.compile(r"[^:,\s]+:\d{1,5}(,[^:,\s]+:\d{1,5})*")


class LogFormat(StrEnum):
    """How the processes log: lines for people, or JSON."""

    CONSOLE = "console"
    JSON = "json"


async def run(suite: Suite, console: Console) -> None:
    """Start `suite`, show its log, and stop it in order at the first SIGINT or SIGTERM; the second one kills.

    Raises:
        LocalDeployError: it does not start, or a child died.
    """
    loop = asyncio.get_running_loop()
    asked_to_end = asyncio.Event()

    def on_signal() -> None:
        if asked_to_end.is_set():
            console.print("killed", style="bold red")
            suite.kill_everything()
            # Without any clean-up that could wait for what has just been killed.
            os._exit(KILLED_BY_CTRL_C)
        asked_to_end.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    logbook = Logbook({name: suite.process(name).log for name in suite.names}, console)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(logbook.follow())
        try:
            await _until_the_end(suite, console, asked_to_end)
        finally:
            following.cancel()
            logbook.catch_up()


async def _until_the_end(suite: Suite, console: Console, asked_to_end: asyncio.Event) -> None:
    ending = asyncio.ensure_future(asked_to_end.wait())
    try:
        starting = asyncio.ensure_future(suite.start())
        await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return
        await starting
        console.print(welcome(suite), markup=False, highlight=False, soft_wrap=True)
        dying = asyncio.ensure_future(suite.first_death())
        await asyncio.wait([dying, ending], return_when=asyncio.FIRST_COMPLETED)
        if dying.done():
            await suite.stop()
            raise LocalDeployError(dying.result())
        dying.cancel()
        console.print("stopping; Ctrl-C again kills", style="bold")
        await suite.stop()
    finally:
        ending.cancel()


def main(
    port: Annotated[
        int,
        typer.Option(help="The gateway's port; 0: any free one.", envvar="SAGACITY_PORT", min=0, max=65535),
    ] = GATEWAY_PORT,
    grpc_port: Annotated[
        int,
        typer.Option(
            help="The first of the five ports of the services and the orchestrator; 0: free ones.",
            envvar="SAGACITY_GRPC_PORT",
            min=0,
            max=65531,
        ),
    ] = GRPC_PORT,
    data_dir: Annotated[
        Path, typer.Option(help="Databases, secrets and logs.", envvar="SAGACITY_DATA_DIR")
    ] = Path(".sagacity"),
    kafka: Annotated[
        str, typer.Option(help="embedded, maven, or HOST:PORT of a broker.", envvar="SAGACITY_KAFKA")
    ] = EMBEDDED,
    log_format: Annotated[LogFormat, typer.Option(help="How the processes log.")] = LogFormat.CONSOLE,
) -> None:
    """Run Sagacity on this machine until Ctrl-C."""
    console = Console()
    offset = grpc_port - GRPC_PORT
    ports = {program.name: program.default_port + offset if grpc_port else 0 for program in PROGRAMS}
    ports[GATEWAY.name] = port

    def report(step: str) -> None:
        console.print(f"· {step}", style="dim", highlight=False, markup=False)

    failure: BaseException | None = None
    if kafka not in {EMBEDDED, MAVEN} and not ADDRESSES.fullmatch(kafka):
        raise typer.BadParameter("embedded, maven, or HOST:PORT of a broker", param_hint="--kafka")
    try:
        suite = Suite(data_dir, ports=ports, kafka=kafka, log_format=log_format.value, report=report)
        asyncio.run(run(suite, console))
    except* (LocalDeployError, OSError) as group:
        # An OSError names its file: something is in the way of the data folder.
        failure = _first(group)
    if failure is not None:
        sentence = str(failure)
        if isinstance(failure, OSError) and failure.filename:
            sentence = f"{failure.filename} cannot be used: {failure.strerror}"
        sys.stderr.write(f"sagacity: {sentence}\n")
        raise SystemExit(1)


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    """Return the sentence to show: one is enough."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    application = typer.Typer(pretty_exceptions_enable=False)
    application.command()(main)
    application()
