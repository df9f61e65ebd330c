"""How the command fails: one sentence with a reason code, and an exit code that says what kind it is."""

from __future__ import annotations

from enum import IntEnum

from chassis.errors import Fault, FaultKind


class ExitCode(IntEnum):
    """What the process ends with; documented in docs/cli.md."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5
    INCOMPLETE = 6
    BUG = 70
    INTERRUPTED = 130


class CommandError(Exception):
    """A failure that is told in one sentence.

    Attributes:
        code: The exit code.
        reason: UPPER_SNAKE, for scripts.
        message: A sentence for people.
    """

    def __init__(self, code: ExitCode, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


_CODES = {
    FaultKind.INVALID_ARGUMENT: ExitCode.USAGE,
    FaultKind.OUT_OF_RANGE: ExitCode.USAGE,
    FaultKind.NOT_FOUND: ExitCode.NOT_FOUND,
    FaultKind.FAILED_PRECONDITION: ExitCode.REFUSED,
    FaultKind.ABORTED: ExitCode.REFUSED,
    FaultKind.ALREADY_EXISTS: ExitCode.REFUSED,
    FaultKind.PERMISSION_DENIED: ExitCode.REFUSED,
    FaultKind.UNAUTHENTICATED: ExitCode.REFUSED,
}


def usage(message: str) -> CommandError:
    """The failure of a command that was given something unusable."""
    return CommandError(ExitCode.USAGE, "USAGE", message)


def failure(fault: Fault, whom: str) -> CommandError:
    """What a fault of who was called ("the orchestrator at here:1") is for who typed the command."""
    code = _CODES.get(fault.kind, ExitCode.UNAVAILABLE)
    message = fault.message
    if fault.fields:
        message = "; ".join(f"{field.subject}: {field.description}" for field in fault.fields)
    elif code is ExitCode.UNAVAILABLE and not fault.domain:
        message = f"{whom} does not answer: {message}"
    return CommandError(code, fault.reason, message)
