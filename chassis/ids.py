"""Identifiers: UUIDv7 (RFC 9562), which sort by the time of their making."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

NewId: TypeAlias = Callable[[], UUID]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MILLISECONDS_SHIFT = 80
_VERSION_AND_VARIANT = (7 << 76) | (2 << 62)


def new_id() -> UUID:
    """A new UUIDv7."""
    return uuid7()


def moment_of(identifier: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond, in UTC.

    Raises:
        ValueError: Another kind of UUID, or one of a year that has five digits.
    """
    if identifier.version != 7:
        raise ValueError("not a UUIDv7")
    try:
        return _EPOCH + (identifier.int >> _MILLISECONDS_SHIFT) * _MILLISECOND
    except OverflowError as error:
        raise ValueError("a UUIDv7 of a year that no calendar here has") from error


def uuid7_floor(moment: datetime) -> UUID:
    """The lowest UUIDv7 of a moment's millisecond: every one that was made before that millisecond is lower.

    Raises:
        ValueError: The moment is before 1970, or has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    milliseconds = (moment - _EPOCH) // _MILLISECOND
    if milliseconds < 0:
        raise ValueError("a moment before 1970")
    return UUID(int=milliseconds << _MILLISECONDS_SHIFT | _VERSION_AND_VARIANT)
