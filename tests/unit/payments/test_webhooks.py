from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from chassis.config import SettingsError
from services.payments.config import MIN_SECRET_CHARACTERS, PaymentsSettings
from services.payments.domain import WebhookMalformedError, WebhookSignatureError
from services.payments.webhooks import (
    MAX_BODY_BYTES,
    MAX_SIGNATURES,
    SIGNATURE_TOLERANCE_SECONDS,
    TYPES,
    parse,
    sign,
    verify,
)

NOW = datetime(2026, 11, 21, 12, 30, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
SECRET = b"of the tests alone"
EXPECTED = "267e409a24506a9c6737f411b34e54a38c9895eb5b627f8ce0c05ec726f2bc98"
PAYMENT = "0193a000-0000-7000-8000-000000000001"
DATA: dict[str, Any] = {
    "payment_id": PAYMENT,
    "operation_id": "re_1",
    "request_key": "",
    "amount_minor": 500,
    "currency": "EUR",
}


def event(**changes: object) -> bytes:
    return json.dumps({"id": "evt_1", "type": "refund.succeeded", "data": DATA} | changes).encode()


def accepted(body: bytes, signature: str, *, secret: bytes = SECRET, now: datetime = NOW) -> bool:
    try:
        verify(secret, body, signature, now=now)
    except WebhookSignatureError:
        return False
    return True


# signatures


def test_the_signature_is_the_hmac_of_the_time_and_the_body() -> None:
    # By: printf '1700000000.{}' | openssl dgst -sha256 -hmac 'of the tests alone'
    assert sign(SECRET, b"{}", seconds=1_700_000_000) == f"t=1700000000,v1={EXPECTED}"


@given(body=st.binary(max_size=200), secret=st.binary(min_size=1, max_size=70))
def test_what_is_signed_is_accepted_with_its_secret_and_its_body_alone(body: bytes, secret: bytes) -> None:
    signature = sign(secret, body, seconds=SECONDS)
    assert accepted(body, signature, secret=secret)
    assert not accepted(body + b" ", signature, secret=secret)
    assert not accepted(body, signature, secret=secret + b"1")


@given(signature=st.text(max_size=120))
def test_no_text_that_is_no_signature_is_accepted_or_breaks_anything(signature: str) -> None:
    assert not accepted(b"{}", signature)


@given(position=st.integers(0, 76), replacement=st.characters(max_codepoint=0x2FF))
def test_no_signature_with_another_character_is_accepted(position: int, replacement: str) -> None:
    good = sign(SECRET, b"{}", seconds=SECONDS)
    changed = good[:position] + replacement + good[position + 1 :]
    assert accepted(b"{}", changed) == (changed == good)


@given(late=st.integers(-10 * SIGNATURE_TOLERANCE_SECONDS, 10 * SIGNATURE_TOLERANCE_SECONDS))
def test_a_signature_is_believed_within_the_tolerance_either_way(late: int) -> None:
    signature = sign(SECRET, b"{}", seconds=SECONDS)
    now = NOW + timedelta(seconds=late)
    assert accepted(b"{}", signature, now=now) == (abs(late) <= SIGNATURE_TOLERANCE_SECONDS)


def test_while_a_secret_is_exchanged_either_signature_will_do_but_only_so_many_are_looked_at() -> None:
    good = sign(SECRET, b"{}", seconds=SECONDS).removeprefix(f"t={SECONDS}")
    other = sign(b"the one before", b"{}", seconds=SECONDS).removeprefix(f"t={SECONDS}")
    assert accepted(b"{}", f"t={SECONDS}{other}{good}")
    assert accepted(b"{}", f"t={SECONDS}{good}{other}")
    assert accepted(b"{}", f"t={SECONDS}{other * (MAX_SIGNATURES - 1)}{good}")
    assert not accepted(b"{}", f"t={SECONDS}{other * MAX_SIGNATURES}{good}")


def test_neither_secret_nor_signature_is_in_what_is_told() -> None:
    with pytest.raises(WebhookSignatureError) as refused:
        verify(SECRET, b"{}", sign(b"another", b"{}", seconds=SECONDS), now=NOW)
    assert str(refused.value) == ""


# bodies


def test_a_webhook_is_read() -> None:
    webhook = parse(event(later="added", data=DATA | {"also": [1.5, None]}))
    assert (webhook.id, webhook.type) == ("evt_1", "refund.succeeded")
    operation = webhook.operation
    assert operation is not None
    assert str(operation.payment_id) == PAYMENT
    assert (operation.id, operation.request_key, operation.amount_minor) == ("re_1", "", 500)
    for kind in TYPES:
        assert parse(event(type=kind)).operation is not None


def test_of_an_event_of_another_kind_nothing_more_is_read() -> None:
    assert parse(event(type="payout.paid", data=7)).operation is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"id": "evt_1", "id": "evt_1", "type": "payout.paid"}',
        b'{"id": "evt_1", "type": "payout.paid", "data": NaN}',
        b'{"id": "evt_1", "type": "payout.paid", "data": 1' + b"0" * 50_000 + b"}",
        b'{"id": "evt_1", "type": "payout.paid"}' + b" " * MAX_BODY_BYTES,
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookMalformedError):
        parse(body)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("id", None),
        ("id", "evt 1"),
        ("id", "e" * 101),
        ("type", ["refund.succeeded"]),
        ("data", None),
        ("data", []),
        ("data.payment_id", PAYMENT.upper()),
        ("data.payment_id", 1),
        ("data.operation_id", f"{PAYMENT}:refund"),
        ("data.operation_id", "re_1\n"),
        ("data.request_key", None),
        ("data.request_key", "\x00"),
        ("data.amount_minor", True),
        ("data.amount_minor", -1),
        ("data.amount_minor", 1.0),
        ("data.amount_minor", "500"),
        ("data.amount_minor", 10**18),
        ("data.currency", "eur"),
        ("data.currency", "EURO"),
    ],
)
def test_a_member_that_is_wrong_is_named(place: str, value: object) -> None:
    outer, _, inner = place.partition(".")
    body = event(**{outer: DATA | {inner: value} if inner else value})
    with pytest.raises(WebhookMalformedError, match=r"strict JSON" if value == 10**18 else place):
        parse(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(name=st.sampled_from(["id", "type", "data", *DATA]), value=json_values)
def test_no_signed_body_breaks_anything(name: str, value: object) -> None:
    changed = {"data": DATA | {name: value}} if name in DATA else {name: value}
    try:
        webhook = parse(event(**changed))
    except WebhookMalformedError:
        return
    assert webhook.operation is None or webhook.operation.amount_minor >= 0


@given(body=st.binary(max_size=300))
def test_no_bytes_break_anything(body: bytes) -> None:
    with pytest.raises(WebhookMalformedError):
        parse(body)


# the secret


def test_a_secret_that_is_too_short_is_refused_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PaymentsSettings().webhook_secrets() == {}
    long_enough = "x" * MIN_SECRET_CHARACTERS
    settings = PaymentsSettings(simulated_webhook_secret=SecretStr(long_enough))
    assert settings.webhook_secrets() == {"simulated": long_enough.encode()}
    assert long_enough not in repr(settings)
    with pytest.raises(ValidationError):
        PaymentsSettings(simulated_webhook_secret=SecretStr(long_enough[1:]))
    monkeypatch.setenv("SAGACITY_PAYMENTS_SIMULATED_WEBHOOK_SECRET", "hunter2")
    with pytest.raises(SettingsError, match="SAGACITY_PAYMENTS_SIMULATED_WEBHOOK_SECRET") as refused:
        PaymentsSettings.read()
    assert "hunter2" not in str(refused.value)
