"""Identifiers: UUIDv7 (RFC 9562), which sort by the time of their making."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

NewId: TypeAlias = Callable[[], UUID]

_MILLISECONDS_SHIFT = 80


def new_id() -> UUID:
    """A new UUIDv7."""
    return uuid7()


def minted_at(identifier: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond, in UTC; ValueError for another kind of UUID."""
    if identifier.version != 7:
        raise ValueError("not a UUIDv7")
    return datetime.fromtimestamp((identifier.int >> _MILLISECONDS_SHIFT) / 1000, UTC)
