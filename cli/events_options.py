"""The options that the commands of `sagacity events` share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

import typer

from cli.connection import CONTEXTS
from cli.options import MAX_ACTOR_CHARACTERS, MAX_REASON_CHARACTERS, line_of, logged_in


class ContextName(StrEnum):
    """Whose events."""

    USERS = "users"
    INVENTORY = "inventory"
    PAYMENTS = "payments"
    ORDERS = "orders"


Contexts: TypeAlias = Annotated[
    list[ContextName] | None,
    typer.Option("--context", help="Ask this context; may be repeated. Else all of them."),
]
OwnContext: TypeAlias = Annotated[
    ContextName | None,
    typer.Option("--context", help="Whose it is, where the first part of its name does not say."),
]
Consumer: TypeAlias = Annotated[
    str, typer.Argument(metavar="CONSUMER", help="For example users.customer-statistics.")
]
Reason: TypeAlias = Annotated[str, typer.Option("--reason", help="Why; it goes into the audit.")]


def chosen(contexts: list[ContextName] | None) -> list[str]:
    """The contexts to ask: those that were named, or all."""
    return list(dict.fromkeys(context.value for context in contexts)) if contexts else list(CONTEXTS)


def asked_by(actor: str | None, reason: str) -> dict[str, str]:
    """Who asks and why, as every verb says it.

    Raises:
        CommandError: USAGE where one of them is no line for the audit.
    """
    return {
        "actor": line_of(logged_in() if actor is None else actor, "actor", MAX_ACTOR_CHARACTERS),
        "reason": line_of(reason, "reason", MAX_REASON_CHARACTERS),
    }
