"""What the provider does by itself becomes a fact once, whatever tells of it and whoever is at work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from chassis.clock import SystemClock
from chassis.errors import Fault
from chassis.ids import new_id
from chassis.telemetry import REGISTRY
from sagacity.payments.v1 import events_pb2
from services.payments.app.provider_webhook import FORGOTTEN_AT_ONCE, REMEMBERED, Outcome, handle_webhook
from services.payments.domain import (
    LedgerKind,
    NotSettledError,
    OutcomeUnknownError,
    PaymentState,
    ProviderContradictionError,
    ProviderUnknownError,
    WebhookMalformedError,
    WebhookSignatureError,
)
from services.payments.provider import ProviderOutcomeUnknownError, ProviderPayment
from services.payments.simulated_dashboard import AUTHORIZATION_EXPIRED, DISPUTE, Made, NotPossibleError
from services.payments.simulated_provider import SimulatedProvider
from services.payments.unasked import UnaskedOperation
from services.payments.webhooks import SIGNATURE_TOLERANCE_SECONDS, sign
from tests.integration.payments.conftest import WEBHOOK_SECRET
from tests.integration.payments.published import BY_PROVIDER, BY_SAGA, facts, given_back

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.payments.conftest import Step, World

pytestmark = pytest.mark.integration

TAKEN = [("AUTHORIZATION", 1234), ("CAPTURE", 1234)]
HELD = [("AUTHORIZATION", 1234)]
CALLERS = 16


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Lying(SimulatedProvider):
    """Says of payments what a test wants it to."""

    def __init__(self, world: World, answer: ProviderPayment | Exception | None) -> None:
        super().__init__(world.provider_database, slow_seconds=0, late_seconds=0)
        self._answer = answer

    @override
    async def look_up(self, payment_id: UUID) -> ProviderPayment | None:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


# what becomes a fact


async def test_refunds_of_the_dashboard_become_facts_one_by_one(world: World) -> None:
    step = await world.captured()
    payment_id = step.order.payment_id
    first = await world.dashboard.refund(payment_id, 234)
    wakes = len(world.wakes)
    assert await world.tell(first) is Outcome.APPLIED
    assert len(world.wakes) == wakes + 1
    assert await world.state(step) == "PARTIALLY_REFUNDED"
    assert await world.ledger(step) == [*TAKEN, ("REFUND", 234)]
    last = await world.dashboard.refund(payment_id, reason=DISPUTE)
    assert await world.tell(last) is Outcome.APPLIED
    assert await world.state(step) == "REFUNDED"
    _, one, other = await facts(world, step)
    assert (one.origin, one.provider_reason, one.amount.minor_units) == (BY_PROVIDER, "DASHBOARD_REFUND", 234)
    assert (other.origin, other.provider_reason, other.amount.minor_units) == (BY_PROVIDER, "DISPUTE", 1000)
    assert (one.order_id, one.refund_id) == (str(step.order.order_id), str(first.operation.id))
    assert other.refund_id == str(last.operation.id) != one.refund_id


async def test_a_hold_that_the_provider_let_go_is_voided(world: World) -> None:
    for reason in ("DASHBOARD_VOID", AUTHORIZATION_EXPIRED):
        step = await world.authorised()
        assert await world.tell(await world.dashboard.void(step.order.payment_id, reason=reason)) == "applied"
        assert await world.state(step) == "VOIDED"
        (voided,) = await facts(world, step)
        assert (voided.origin, voided.provider_reason) == (BY_PROVIDER, reason)


async def test_what_a_saga_gives_back_says_so(world: World) -> None:
    step, held = await world.captured(), await world.authorised()
    later = step.later()
    await later.refund(234)
    await step.later().reverse()
    await held.later().reverse()
    _, refunded, reversed_ = await facts(world, step)
    (voided,) = await facts(world, held)
    assert (refunded.refund_id, reversed_.refund_id) == (str(later.refund_id), "")
    assert [fact.origin for fact in (refunded, reversed_, voided)] == [BY_SAGA] * 3
    assert [fact.provider_reason for fact in (refunded, reversed_, voided)] == [""] * 3


# the same, again and in any order


async def test_the_same_event_again_is_a_duplicate_and_another_event_of_the_same_refund_is_nothing_new(
    world: World,
) -> None:
    step = await world.captured()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    outcomes = [await world.tell(made, event) for event in ("evt_1", "evt_1", "evt_2", "evt_2", "evt_1")]
    assert outcomes == ["applied", "duplicate", "nothing_new", "duplicate", "duplicate"]
    assert await given_back(world, step) == [(500, BY_PROVIDER)]


async def test_webhooks_out_of_order_have_one_effect_each(world: World) -> None:
    for order in permutations((0, 0, 1, 1, 2)):
        step = await world.captured()
        made = [await world.dashboard.refund(step.order.payment_id, minor) for minor in (200, 300, 400)]
        for index in order:
            await world.tell(made[index], f"evt_{made[index].operation.operation_key}")
        assert sorted(await given_back(world, step)) == [
            (200, BY_PROVIDER),
            (300, BY_PROVIDER),
            (400, BY_PROVIDER),
        ]


REFUSALS = {"REFUND_TOO_LARGE", "PAYMENT_NOT_REFUNDABLE", "PAYMENT_NOT_CAPTURABLE"}


async def done(world: World, step: Step, action: str, made: list[Made], event: str) -> None:
    """Do one thing, and let it be refused for good where it comes too late."""

    async def webhook() -> None:
        if made:
            assert await world.tell(made[0], event) in {"applied", "nothing_new", "duplicate"}

    async def dashboard() -> None:
        with suppress(NotPossibleError):
            made.append(await world.dashboard.refund(step.order.payment_id, 500))

    async def expiry() -> None:
        with suppress(NotPossibleError):
            made.append(await world.dashboard.void(step.order.payment_id))

    later = step.later()
    actions: dict[str, Callable[[], Awaitable[object]]] = {
        "webhook": webhook,
        "dashboard": dashboard,
        "expiry": expiry,
        "refund": lambda: later.refund(900),
        "capture": later.capture,
        "reverse": later.reverse,
    }
    try:
        await actions[action]()
    except Fault as refused:
        if not refused.recorded or refused.reason not in REFUSALS:
            raise


async def test_every_order_of_refund_webhook_again_our_refund_and_reversal_gives_back_all_once(
    world: World,
) -> None:
    actions = ("dashboard", "webhook", "webhook", "refund", "reverse")
    for number, order in enumerate(sorted(set(permutations(actions)))):
        step = await world.captured()
        made: list[Made] = []
        for action in order:
            await done(world, step, action, made, f"evt_{number}")
        assert await world.state(step) == "REFUNDED", order
        back = await given_back(world, step)
        assert sum(minor for minor, _ in back) == 1234
        assert [origin for _, origin in back].count(BY_PROVIDER) == len(made)


async def test_every_order_of_void_webhook_again_capture_our_refund_and_reversal_leaves_nothing(
    world: World,
) -> None:
    actions = ("expiry", "webhook", "webhook", "capture", "refund", "reverse")
    for number, order in enumerate(sorted(set(permutations(actions)))):
        step = await world.authorised()
        made: list[Made] = []
        for action in order:
            await done(world, step, action, made, f"evt_{number}")
        assert await world.state(step) in {"REFUNDED", "VOIDED"}, order
        told = await facts(world, step)
        voided = [fact.origin for fact in told if isinstance(fact, events_pb2.PaymentVoided)]
        assert voided in ([], [BY_PROVIDER] if made else [BY_SAGA]), order
        totals = {kind: minor for kind, minor in await world.ledger(step) if kind != "REFUND"}
        assert totals.get("VOID", 0) + totals.get("CAPTURE", 0) == 1234


async def test_sixteen_webhooks_at_once_have_one_effect(world: World) -> None:
    step = await world.captured()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    same = await asyncio.gather(*(world.tell(made, "evt_same") for _ in range(CALLERS)))
    assert sorted(same) == ["applied"] + ["duplicate"] * (CALLERS - 1)
    assert await given_back(world, step) == [(500, BY_PROVIDER)]
    made = await world.dashboard.refund(step.order.payment_id, 600)
    others = await asyncio.gather(*(world.tell(made, f"evt_{number}") for number in range(CALLERS)))
    assert sorted(others) == ["applied"] + ["nothing_new"] * (CALLERS - 1)
    assert await given_back(world, step) == [(500, BY_PROVIDER), (600, BY_PROVIDER)]


async def test_webhooks_refunds_and_reversals_at_the_same_time_give_back_all_and_no_more(
    world: World,
) -> None:
    for token in ("tok_success", "tok_timeout_after_refund"):
        for _ in range(4):
            step = await world.captured(token)
            made = [await world.dashboard.refund(step.order.payment_id, minor) for minor in (100, 200)]
            one, other, reversal = step.later(), step.later(), step.later()
            calls: list[Awaitable[object]] = [world.tell(made[number % 2]) for number in range(CALLERS - 4)]
            calls += [one.refund(700), reversal.reverse(), other.refund(600), step.reverse()]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            expected = (Fault, OutcomeUnknownError)
            assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, expected)] == []
            for saga, amount in ((one, 700), (other, 600), (one, 700), (other, 600)):
                await asyncio.gather(saga.refund(amount), return_exceptions=True)
            for _ in range(5):
                await asyncio.gather(reversal.reverse(), step.reverse(), return_exceptions=True)
            assert await reversal.reverse() is await step.reverse() is PaymentState.REFUNDED
            back = await given_back(world, step)
            assert sum(minor for minor, _ in back) == 1234
            assert sorted(minor for minor, origin in back if origin == BY_PROVIDER) == [100, 200]


# who is to send it again, and who is not


async def test_what_we_asked_for_ourselves_changes_nothing(world: World) -> None:
    step = await world.captured()
    later = step.later()
    await later.refund(500)
    before = await facts(world, step)
    data = {
        "payment_id": str(step.order.payment_id),
        "operation_id": "re_of_theirs",
        "request_key": f"{step.order.payment_id}:refund:{later.refund_id}",
        "amount_minor": 500,
        "currency": "EUR",
    }
    body = json.dumps({"id": "evt_1", "type": "refund.succeeded", "data": data}).encode()
    assert [await world.send(body) for _ in range(2)] == ["nothing_new", "duplicate"]
    assert await facts(world, step) == before


async def test_what_is_none_of_our_business_is_taken_and_ignored(world: World) -> None:
    assert await world.send(b'{"id": "evt_1", "type": "payout.paid", "data": [1, null]}') is Outcome.IGNORED
    operation = UnaskedOperation("re_1", LedgerKind.REFUND, 1, "simulated", "DISPUTE")
    assert await world.tell(Made(new_id(), operation, "EUR")) is Outcome.FOREIGN
    assert await world.rows("SELECT * FROM provider_webhook") == []


async def test_what_the_provider_does_not_know_of_yet_is_sent_again(world: World) -> None:
    step = await world.captured()
    invented = UnaskedOperation("re_invented", LedgerKind.REFUND, 500, "simulated", "DISPUTE")
    for _ in range(2):
        with pytest.raises(NotSettledError):
            await world.tell(Made(step.order.payment_id, invented, "EUR"), "evt_1")
    assert await world.ledger(step) == TAKEN
    assert await world.rows("SELECT * FROM provider_webhook") == []


async def test_while_the_provider_does_not_answer_nothing_is_recorded(world: World) -> None:
    step = await world.captured()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    away = world.with_provider(Lying(world, ProviderOutcomeUnknownError()))
    with pytest.raises(OutcomeUnknownError):
        await world.tell(made, "evt_1", app=away)
    assert await world.ledger(step) == TAKEN
    assert await world.tell(made, "evt_1") is Outcome.APPLIED


async def test_a_webhook_that_names_another_amount_is_an_alarm_and_the_providers_answer_counts(
    world: World,
) -> None:
    step = await world.captured()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    alarms = count("payments_provider_alarms_total", kind="figures_differ")
    told = json.loads(made.webhook("evt_1"))
    told["data"]["amount_minor"] = 999_999
    assert await world.send(json.dumps(told).encode()) is Outcome.APPLIED
    assert count("payments_provider_alarms_total", kind="figures_differ") == alarms + 1
    assert await given_back(world, step) == [(500, BY_PROVIDER)]


async def test_never_does_more_go_back_than_was_captured_whatever_the_provider_says(world: World) -> None:
    step = await world.captured()
    await step.later().refund(1000)
    truth = await world.provider.look_up(step.order.payment_id)
    assert truth is not None
    before = await facts(world, step)
    alarms = count("payments_provider_alarms_total", kind="contradiction")
    operation = UnaskedOperation("re_1", LedgerKind.REFUND, 235, "simulated", "DISPUTE")
    lying = world.with_provider(Lying(world, ProviderPayment(truth.amounts, unasked=(operation,))))
    for _ in range(2):
        with pytest.raises(ProviderContradictionError):
            await world.tell(Made(step.order.payment_id, operation, "EUR"), "evt_1", app=lying)
    assert count("payments_provider_alarms_total", kind="contradiction") == alarms + 2
    assert await facts(world, step) == before
    assert await world.rows("SELECT * FROM provider_webhook") == []


async def test_events_are_forgotten_when_they_are_old_and_have_no_effect_when_they_come_again(
    world: World,
) -> None:
    step = await world.captured()
    made = await world.dashboard.refund(step.order.payment_id, 500)
    await world.tell(made, "evt_1")
    await world.rows(
        "INSERT INTO provider_webhook SELECT provider, 'evt_old_' || n, payment_id, receive_time"
        " FROM provider_webhook, generate_series(1, %(most)s) AS n",
        most=FORGOTTEN_AT_ONCE,
    )
    age = REMEMBERED + timedelta(minutes=1)
    await world.rows("UPDATE provider_webhook SET receive_time = receive_time - %(age)s::interval", age=age)
    for event in ("evt_2", "evt_3"):
        assert await world.tell(made, event) is Outcome.NOTHING_NEW
    kept = await world.rows("SELECT event_id FROM provider_webhook ORDER BY event_id")
    assert [row["event_id"] for row in kept] == ["evt_2", "evt_3"]
    assert await world.tell(made, "evt_1") is Outcome.NOTHING_NEW
    assert await given_back(world, step) == [(500, BY_PROVIDER)]


# who may tell it


async def test_what_is_not_signed_by_the_provider_or_not_of_late_is_refused(world: World) -> None:
    step = await world.captured()
    body = (await world.dashboard.refund(step.order.payment_id, 500)).webhook("evt_1")
    now = int(SystemClock().now().timestamp())
    good = sign(WEBHOOK_SECRET, body, seconds=now)
    late = SIGNATURE_TOLERANCE_SECONDS + 60
    refused = count("payments_provider_webhooks_total", outcome="refused")
    bad = [
        "",
        good.upper(),
        good.replace("t=", "t=0"),
        sign(b"another secret, as long", body, seconds=now),
        sign(WEBHOOK_SECRET, body + b" ", seconds=now),
        sign(WEBHOOK_SECRET, body, seconds=now - late),
        sign(WEBHOOK_SECRET, body, seconds=now + late),
    ]
    for signature in bad:
        with pytest.raises(WebhookSignatureError):
            await handle_webhook(world.app, "simulated", body, signature)
    for provider in ("", "another", "SIMULATED"):
        with pytest.raises(ProviderUnknownError):
            await handle_webhook(world.app, provider, body, good)
    assert count("payments_provider_webhooks_total", outcome="refused") == refused + len(bad) + 3
    assert await world.ledger(step) == TAKEN
    assert await handle_webhook(world.app, "simulated", body, good) is Outcome.APPLIED


async def test_what_is_signed_and_is_no_webhook_is_refused(world: World) -> None:
    good = {"payment_id": str(new_id()), "operation_id": "re_1", "request_key": ""}
    good |= {"amount_minor": 1, "currency": "EUR"}  # type: ignore[dict-item]
    bodies = [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 10_000]
    for change in ({"payment_id": "1"}, {"operation_id": "a:b"}, {"amount_minor": True}, {"currency": "eur"}):
        event = {"id": "evt_1", "type": "refund.succeeded", "data": good | change}
        bodies.append(json.dumps(event).encode())
    for body in bodies:
        with pytest.raises(WebhookMalformedError):
            await world.send(body)
