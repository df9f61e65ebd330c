"""`sagacity` (= `python -m cli`): what it knows, and how it ends."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from cli import capacity, events_letters, events_looking, events_tail, events_verbs, looking, verbs
from cli.failures import CommandError, ExitCode
from cli.output import complain

_HELP = """Look into Sagacity's sagas and events, and repair them; work out what a rate of orders needs.

Exit codes: 0 done, 1 a check or a replay failed, 2 wrong usage, 3 not found, 4 refused, 5 nobody answers,
6 some contexts did not answer, 130 interrupted.
"""

STDOUT = 1

app = typer.Typer(
    name="sagacity",
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sagas = typer.Typer(
    help="Sagas: list, show, watch, check; retry, skip, compensate, pause, resume, cancel; preview.",
    no_args_is_help=True,
)
sagas.command("list")(looking.list_sagas)
sagas.command("show")(looking.show)
sagas.command("watch")(looking.watch)
sagas.command("check")(looking.check)
verbs.register(sagas)
app.add_typer(sagas, name="sagas")
events = typer.Typer(
    help="Events: lag, tail; dead letters; pause and resume consumers; rebuild projections; audit.",
    no_args_is_help=True,
)
events.command("lag")(events_looking.lag)
events.command("tail")(events_tail.tail)
events.add_typer(events_letters.app, name="dead-letters")
events.command("pause")(events_verbs.pause)
events.command("resume")(events_verbs.resume)
events.command("projections")(events_looking.projections)
events.command("rebuild")(events_verbs.rebuild)
events.command("audit")(events_looking.audit)
app.add_typer(events, name="events")
app.command("capacity")(capacity.capacity)

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def run(arguments: Sequence[str]) -> int:
    """Do what was typed; the exit code. Whatever goes wrong is one sentence on standard error."""
    try:
        code = app(list(arguments), prog_name="sagacity", standalone_mode=False)
    except CommandError as error:
        complain(error.reason, error.message)
        return error.code
    except TyperException as error:
        complain("USAGE", error.format_message())
        return ExitCode.USAGE
    except (typer.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except SystemExit:
        # What typer makes of a closed pipe: who reads has seen enough. Nothing more is flushed into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 - not 1, which says that a check failed
        return _unexpected(error, arguments)
    return int(code or 0)


def _unexpected(error: Exception, arguments: Sequence[str]) -> int:
    # Python keeps bytes of the command line that are no UTF-8 as surrogates, which no message takes.
    if isinstance(error, UnicodeEncodeError) and any(map(_SURROGATE.search, arguments)):
        complain("USAGE", "what is typed must be UTF-8")
        return ExitCode.USAGE
    traceback.print_exception(error)
    return ExitCode.BUG


def main() -> None:
    """The command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
