"""Arrays as PostgreSQL's text: a third of the client's time that psycopg's own lists take in a batch.

A batch of the journal has some twenty arrays; measured for 64 entries: 10 instead of 29 µs an entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

_EMPTY = {None: "NULL", "": '""'}


def plain_array(values: Iterable[UUID | float | bool | str | None]) -> str:
    """An array of values whose text needs no quotes: UUIDs, numbers, booleans, bare words that we chose."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """An array of texts, whatever they hold; PostgreSQL refuses one with NUL."""
    return "{" + ",".join([_quoted(value) if value else _EMPTY[value] for value in values]) + "}"


def bytes_array(values: Iterable[bytes | None]) -> str:
    """An array of bytea, in hexadecimal."""
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
