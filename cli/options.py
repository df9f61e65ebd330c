"""The options that commands share, and how what was typed is read."""

from __future__ import annotations

import os
import pwd
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeAlias
from uuid import UUID

import typer

from cli.connection import KEY_VARIABLE, ORCHESTRATOR
from cli.failures import CommandError, ExitCode, usage
from cli.output import safe

MAX_REASON_CHARACTERS = 500
MAX_ACTOR_CHARACTERS = 200
_AGE = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Address: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help=f"The orchestrator; else {ORCHESTRATOR.variable}, else {ORCHESTRATOR.default_address}.",
    ),
]
KeyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--identity-key-file",
        metavar="FILE",
        help=f"The operator's private key; else {KEY_VARIABLE}, else the one that `make run` left.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
SagaId: TypeAlias = Annotated[str | None, typer.Argument(metavar="SAGA", help="The saga's id.")]
OrderId: TypeAlias = Annotated[
    str | None, typer.Option("--order", metavar="ORDER", help="Instead of the saga's id: its order's.")
]
Reason: TypeAlias = Annotated[str, typer.Option("--reason", help="Why; it is journaled with the saga.")]
Actor: TypeAlias = Annotated[
    str | None, typer.Option("--actor", help="Who asks, also journaled; else who is logged in here.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back on a terminal.")]
Preview: TypeAlias = Annotated[
    bool, typer.Option("--preview", help="Show first which calls would be sent; then do it.")
]
OutputJson: TypeAlias = Annotated[
    str,
    typer.Option(
        "--output", metavar="JSON", help="The reply that the step is taken to have given; {} is an empty one."
    ),
]


def uuid_of(text: str, what: str) -> str:
    """A UUID as it is written canonically.

    Raises:
        CommandError: USAGE where it is none.
    """
    try:
        return str(UUID(text))
    except ValueError:
        raise usage(f"{safe(text)[:80]!r} is no {what} id: a UUID is needed") from None


def age_of(text: str) -> timedelta:
    """A span as 90s, 15m, 2h or 7d.

    Raises:
        CommandError: USAGE.
    """
    match = _AGE.fullmatch(text)
    if match is None:
        raise usage(f"{safe(text)[:80]!r} is no age: write it as 90s, 15m, 2h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def line_of(text: str, what: str, longest: int) -> str:
    """Text for the journal: one line that is not empty, without controls.

    Raises:
        CommandError: USAGE.
    """
    text = text.strip()
    if not text or len(text) > longest:
        raise usage(f"--{what} must have 1 to {longest} characters")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in text):
        raise usage(f"--{what} must be one line of UTF-8, without control characters")
    return text


def confirm(question: str, *, yes: bool) -> None:
    """Ask back before what cannot be taken back, where somebody is there to answer.

    Raises:
        CommandError: REFUSED NOT_CONFIRMED.
    """
    if yes or not sys.stdin.isatty():
        return
    sys.stderr.write(f"{safe(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError(ExitCode.REFUSED, "NOT_CONFIRMED", "nothing was done")


def logged_in() -> str:
    """The name of the user of this process."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
