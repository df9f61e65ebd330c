"""The webhooks of a provider: who signed them, and what they say; pure.

The signature is `t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>" in hexadecimal>`; while a secret is
exchanged for another the provider may send one `v1` for each. The body is strict JSON; members that nobody
here reads may be added to it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.payments.domain import WebhookMalformedError, WebhookSignatureError

MAX_BODY_BYTES: Final = 64 * 1024
# Between the provider's clock and ours, and on the way: what was signed longer ago may be somebody's copy.
SIGNATURE_TOLERANCE_SECONDS: Final = 300
MAX_SIGNATURES: Final = 4
MAX_INTEGER_DIGITS: Final = 18  # of minor units; a bigint holds any of these

# The kinds of events that tell of money; any other is none of our business.
TYPES: Final = frozenset(
    {"refund.succeeded", "dispute.lost", "authorization.voided", "authorization.expired"}
)

_SIGNATURE: Final = re.compile(rf"t=([0-9]{{1,12}})((?:,v1=[0-9a-f]{{64}}){{1,{MAX_SIGNATURES}}})")
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TYPE: Final = re.compile(r"[a-z0-9_.]{1,100}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REQUEST_KEY: Final = re.compile(r"[A-Za-z0-9:_-]{0,200}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True)
class Operation:
    """The refund or void that a webhook is about, in the provider's words.

    Attributes:
        payment_id: Of which payment.
        id: The provider's own id of it.
        request_key: The key that somebody asked for it with; empty where the provider made it by itself.
        amount_minor: How much, in minor units of `currency`.
        currency: ISO 4217.
    """

    payment_id: UUID
    id: str
    request_key: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """One event of a provider; `operation` is None where its kind is none of ours."""

    id: str
    type: str
    operation: Operation | None


def sign(secret: bytes, body: bytes, *, seconds: int) -> str:
    """Returns the header that signs a body at a time, in whole seconds since 1970."""
    return f"t={seconds},v1={_digest(secret, body, str(seconds))}"


def verify(secret: bytes, body: bytes, signature: str, *, now: datetime) -> None:
    """Looks whether a body was signed with the secret, and not long ago.

    Raises:
        WebhookSignatureError: It was not. What of it was wrong is not told: nothing could be mended by it.
    """
    found = _SIGNATURE.fullmatch(signature)
    if found is None:
        raise WebhookSignatureError
    seconds, signatures = found.groups()
    expected = _digest(secret, body, seconds)
    # All of them, and each in the same time.
    matches = [hmac.compare_digest(expected, given) for given in signatures.split(",v1=")[1:]]
    if not any(matches) or abs(now.timestamp() - int(seconds)) > SIGNATURE_TOLERANCE_SECONDS:
        raise WebhookSignatureError


def parse(body: bytes) -> Webhook:
    """Reads the body of a webhook.

    Raises:
        WebhookMalformedError: It is not what the provider's contract says; the error names the member.
    """
    event = _object(body)
    id_, type_ = _text(event, "id", _EVENT_ID), _text(event, "type", _TYPE)
    if type_ not in TYPES:
        return Webhook(id_, type_, None)
    data = event.get("data")
    if not isinstance(data, dict):
        raise WebhookMalformedError("data must be an object")
    amount = data.get("amount_minor")
    # A bool is an int to Python.
    if type(amount) is not int or amount < 0:
        raise WebhookMalformedError("data.amount_minor must be an integer that is not negative")
    operation = Operation(
        payment_id=UUID(_text(data, "payment_id", _UUID, "data.")),
        id=_text(data, "operation_id", _EVENT_ID, "data."),
        request_key=_text(data, "request_key", _REQUEST_KEY, "data."),
        amount_minor=amount,
        currency=_text(data, "currency", _CURRENCY, "data."),
    )
    return Webhook(id_, type_, operation)


def _digest(secret: bytes, body: bytes, seconds: str) -> str:
    return hmac.new(secret, seconds.encode("ascii") + b"." + body, hashlib.sha256).hexdigest()


def _object(body: bytes) -> Mapping[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise WebhookMalformedError(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise WebhookMalformedError("the body is not strict JSON") from None
    if not isinstance(value, dict):
        raise WebhookMalformedError("the body must be a JSON object")
    return value


def _text(members: Mapping[str, Any], name: str, pattern: re.Pattern[str], place: str = "") -> str:
    value = members.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise WebhookMalformedError(f"{place}{name} must be text like {pattern.pattern}")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_constant=_no_constant
)
