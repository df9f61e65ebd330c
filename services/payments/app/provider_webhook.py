"""Webhooks: what a provider did without being asked becomes a fact, once, whatever tells of it and how often.

A webhook is a hint to look. What is recorded is what the provider answers when it is asked about the
payment, so that webhooks may be late, doubled or in any order. Two things make each effect one: the event's
id, and the operation's own id, both stored in the transaction of the effect, behind the payment's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final

import structlog

from chassis.postgres import Row, Transaction
from services.payments import events, metrics, store, webhooks
from services.payments.app import Payments, settling
from services.payments.domain import (
    Amounts,
    Movement,
    NotSettledError,
    OutcomeUnknownError,
    ProviderContradictionError,
    ProviderUnknownError,
    WebhookMalformedError,
    WebhookSignatureError,
)
from services.payments.provider import ProviderOutcomeUnknownError, ProviderPayment
from services.payments.unasked import after_unasked
from services.payments.webhooks import Operation, Webhook

# A provider gives up long before. What came again after it was forgotten would have no effect either: by then
# its operation is recorded.
REMEMBERED: Final = timedelta(days=30)
FORGOTTEN_AT_ONCE: Final = 20

_NO_STEP: Final[Row] = {"saga_id": None, "step": None, "outcome": None, "reply": None, "undo_reply": None}
_log: Final = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What became of a webhook that is not to be sent again."""

    APPLIED = "applied"
    NOTHING_NEW = "nothing_new"  # recorded already, or it was us who asked for it
    DUPLICATE = "duplicate"
    IGNORED = "ignored"  # of a kind that says nothing about money
    FOREIGN = "foreign"  # about a payment that is not ours


async def handle_webhook(app: Payments, provider: str, body: bytes, signature: str) -> Outcome:
    """Takes a webhook; when it returns, everything that there is to record is committed.

    Raises:
        ProviderUnknownError: Nothing is taken from that provider.
        WebhookSignatureError: The provider did not sign it, or not of late.
        WebhookMalformedError: It is no webhook.
        OutcomeUnknownError: The provider did not answer.
        NotSettledError: The provider does not know it itself yet, or the payment's charge, capture or
            reversal is not recorded yet. Sent again later, it is taken.
        ProviderContradictionError: It cannot have happened; an alarm, and nothing is changed.
    """
    try:
        outcome = await _handle(app, provider, body, signature)
    except Exception as error:
        metrics.WEBHOOKS.labels(_OUTCOMES.get(type(error), "failed")).inc()
        raise
    metrics.WEBHOOKS.labels(outcome.value).inc()
    return outcome


_OUTCOMES: Final[Mapping[type[Exception], str]] = {
    ProviderUnknownError: "refused",
    WebhookSignatureError: "refused",
    WebhookMalformedError: "refused",
    OutcomeUnknownError: "too_early",
    NotSettledError: "too_early",
    ProviderContradictionError: "contradiction",
}


async def _handle(app: Payments, provider: str, body: bytes, signature: str) -> Outcome:
    secret = app.webhook_secrets.get(provider)
    if secret is None or provider != app.provider.name:
        raise ProviderUnknownError
    webhooks.verify(secret, body, signature, now=app.clock.now())
    webhook = webhooks.parse(body)
    told = webhook.operation
    if told is None:
        return Outcome.IGNORED
    payments = await app.database.fetch(store.READ_PAYMENT, {"payment_id": told.payment_id})
    if not payments or payments[0]["provider"] != provider:
        # Every payment is stored before its provider hears of it: this one is somebody else's.
        return Outcome.FOREIGN
    named = {"provider": provider, "event_id": webhook.id}
    if await app.database.fetch(store.WEBHOOK_SEEN, named):
        return Outcome.DUPLICATE
    answer = await _truth(app, told)
    _compare(webhook, told, answer, payments[0]["currency_code"])
    outcome = await app.database.run(lambda tx: _record(app, tx, named, told, answer))
    if outcome is Outcome.APPLIED:
        app.published()
    return outcome


async def _truth(app: Payments, told: Operation) -> ProviderPayment:
    """Returns what the provider itself says of the payment.

    Raises:
        NotSettledError: It does not know of the operation yet: its answers lag behind its webhooks.
        OutcomeUnknownError: It did not answer.
    """
    try:
        async with asyncio.timeout(app.provider_timeout_seconds):
            answer = await app.provider.look_up(told.payment_id)
    except (ProviderOutcomeUnknownError, TimeoutError) as error:
        raise OutcomeUnknownError from error
    ours = told.request_key.startswith(f"{told.payment_id}:")
    if answer is None or not (ours or any(made.operation_key == told.id for made in answer.unasked)):
        raise NotSettledError
    return answer


def _compare(webhook: Webhook, told: Operation, answer: ProviderPayment, currency: str) -> None:
    """Raises an alarm where a webhook's figures are not those of the provider's answer, which are taken."""
    minors = [made.amount_minor for made in answer.unasked if made.operation_key == told.id]
    limit = max(answer.amounts.captured_minor, answer.amounts.authorized_minor)
    if told.currency != currency or told.amount_minor > limit or (minors and minors != [told.amount_minor]):
        _alarm("figures_differ", payment_id=told.payment_id, event_id=webhook.id)


async def _record(
    app: Payments, tx: Transaction, named: Row, told: Operation, answer: ProviderPayment
) -> Outcome:
    row = (await tx.fetch(store.LOCK_PAYMENT, {"payment_id": told.payment_id}))[0]
    now = app.clock.now()
    remembered = {
        "payment_id": told.payment_id,
        "now": now,
        "forget_before": now - REMEMBERED,
        "batch": FORGOTTEN_AT_ONCE,
    }
    if not await tx.fetch(store.REMEMBER_WEBHOOK, named | remembered):
        return Outcome.DUPLICATE
    unasked = await settling.unrecorded(tx, told.payment_id, answer)
    if not unasked:
        return Outcome.NOTHING_NEW
    before = store.payment_of(row)
    recorded = Amounts(row["authorized_minor"], before.captured_minor, before.refunded_minor)
    try:
        after = after_unasked(before, recorded, answer.amounts, unasked, now=now)
    except ProviderContradictionError:
        _alarm("contradiction", payment_id=told.payment_id, event_id=named["event_id"])
        raise
    params = store.settlement(
        after,
        Amounts(recorded.authorized_minor, after.captured_minor, after.refunded_minor),
        sources=[before.state],
        entries=[Movement(made.operation_key, made.kind, made.amount_minor) for made in unasked],
        events=events.published(
            after,
            captured_before=True,
            new_id=app.new_id,
            now=now,
            refunded_before=before.refunded_minor,
            unasked=unasked,
        ),
        refunded_before=before.refunded_minor,
    )
    changed = await settling.settle_in(tx, after, params | _NO_STEP, unasked)
    assert changed, "the payment's lock is held"
    return Outcome.APPLIED


def _alarm(kind: str, **what: object) -> None:
    metrics.ALARMS.labels(kind).inc()
    _log.error("provider_webhook_alarm", kind=kind, **{name: str(value) for name, value in what.items()})
