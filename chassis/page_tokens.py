"""Opaque page tokens: where a page ended, bound to the filter that it was made for (keyset pagination)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from chassis.errors import Detail, Fault, FaultKind

DIGEST_CHARACTERS = 12
MAX_NUMBER = 2**63 - 1


def encode_page_token(position: Sequence[object], chosen: Sequence[object]) -> str:
    """Make a URL-safe token of a page's last sort key; `chosen` is the filter and whose list it is."""
    text = json.dumps([_digest(chosen), *map(str, position)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_page_token(
    token: str, chosen: Sequence[object], *, types: Sequence[Callable[[str], Any]]
) -> tuple[Any, ...] | None:
    """Read a token back: one value per type, or None for the empty token of a first page.

    Raises:
        Fault: INVALID_ARGUMENT naming page_token, where the token is not one of ours or was made for another
        filter.
    """
    if not token:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, *position = json.loads(text)
        values = tuple(kind(value) for kind, value in zip(types, position, strict=True))
        storable = all(map(_is_storable, values))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error):
        raise _not_ours() from None
    if digest != _digest(chosen) or not storable:
        raise _not_ours()
    return values


def _is_storable(value: object) -> bool:
    """Whether PostgreSQL has such a value; ValueError for text that is no Unicode."""
    if isinstance(value, str):
        return b"\x00" not in value.encode()
    return not isinstance(value, int) or -MAX_NUMBER <= value <= MAX_NUMBER


def _not_ours() -> Fault:
    problem = Detail("page_token", "is not a token of this list")
    return Fault(
        FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "the page token is not valid", fields=(problem,)
    )


def _digest(chosen: Sequence[object]) -> str:
    return hashlib.sha256(repr([str(item) for item in chosen]).encode()).hexdigest()[:DIGEST_CHARACTERS]
