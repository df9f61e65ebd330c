"""The request headers that say how often and how long: Idempotency-Key, and Prefer (RFC 7240)."""

import re
from dataclasses import dataclass
from typing import Final

from gateway.problems import FieldError, ProblemError, malformed

DEFAULT_WAIT_SECONDS: Final = 5
MAX_WAIT_SECONDS: Final = 30
MAX_PREFERENCES: Final = 20

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_WAIT: Final = re.compile(r'(?:([0-9]{1,9})|"([0-9]{1,9})")')


def required_key(values: list[str]) -> str:
    """Returns the one Idempotency-Key.

    Raises:
        ProblemError: 400 where it is missing, doubled or not 1 to 255 printable ASCII characters.
    """
    if len(values) != 1:
        raise _bad("Idempotency-Key", "is required once" if values else "is required")
    if not _KEY.fullmatch(values[0]):
        raise _bad("Idempotency-Key", "must be 1 to 255 printable ASCII characters without spaces")
    return values[0]


@dataclass(frozen=True, slots=True)
class Preference:
    """How long the client wants to wait, and what to say of it in Preference-Applied.

    Empty where nothing was asked for.
    """

    wait_seconds: int
    applied: str


def preference(values: list[str]) -> Preference:
    """Reads `Prefer: wait=N` and `Prefer: respond-async`.

    Unknown preferences are ignored, of a doubled one the first counts.

    Raises:
        ProblemError: 400 where `wait` is not a whole number from 0 to 30.
    """
    wait: int | None = None
    asynchronous = False
    entries = ",".join(values).split(",")
    if len(entries) > MAX_PREFERENCES:
        raise _bad("Prefer", f"has more than {MAX_PREFERENCES} preferences")
    for entry in entries:
        name, _, value = entry.split(";", 1)[0].partition("=")
        name = name.strip().lower()
        if name == "wait" and wait is None:
            wait = _seconds(value.strip())
        asynchronous = asynchronous or name == "respond-async"
    if wait is not None:
        return Preference(wait, f"wait={wait}")
    if asynchronous:
        return Preference(0, "respond-async")
    return Preference(DEFAULT_WAIT_SECONDS, "")


def _seconds(value: str) -> int:
    found = _WAIT.fullmatch(value)
    seconds = int(found[1] or found[2]) if found else -1
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise _bad("Prefer", f"wait must be a whole number of seconds from 0 to {MAX_WAIT_SECONDS}")
    return seconds


def _bad(header: str, why: str) -> ProblemError:
    return malformed(f"The header {header} {why}.", FieldError(header, why))
