"""The built-in payment provider: it moves no real money, and keeps books of its own like one that does.

Its ledger is the schema `provider_simulation`, reached by its own connections in its own transactions;
nothing else writes there, and no transaction of the payments context includes it. Times are the database's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from chassis.errors import Fault
from chassis.postgres import Database, Row, Transaction, statement
from services.payments.domain import Amounts, LedgerKind
from services.payments.provider import Card, PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment
from services.payments.unasked import UnaskedOperation

NAME = "simulated"


@dataclass(frozen=True, slots=True)
class _Behaviour:
    card: Card
    decline_reason: str = ""
    slow: bool = False
    first_answer_lost: bool = False
    late: bool = False
    capture_declined: bool = False
    partial_refund_declined: bool = False
    # Of operations after the authorisation: the first answer to each key.
    answers_lost: frozenset[LedgerKind] = frozenset()


_TOKENS: Mapping[str, _Behaviour] = {
    "tok_success": _Behaviour(Card("visa", "4242")),
    "tok_declined": _Behaviour(Card("visa", "0002"), decline_reason="CARD_DECLINED"),
    "tok_insufficient_funds": _Behaviour(Card("visa", "9995"), decline_reason="INSUFFICIENT_FUNDS"),
    "tok_slow": _Behaviour(Card("mastercard", "4444"), slow=True),
    "tok_timeout_after_charge": _Behaviour(Card("mastercard", "5100"), first_answer_lost=True),
    "tok_late": _Behaviour(Card("mastercard", "3222"), late=True),
    "tok_timeout_after_capture": _Behaviour(
        Card("mastercard", "5108"), answers_lost=frozenset({LedgerKind.CAPTURE})
    ),
    "tok_timeout_after_refund": _Behaviour(
        Card("mastercard", "5116"), answers_lost=frozenset({LedgerKind.REFUND})
    ),
    "tok_capture_declined": _Behaviour(Card("visa", "0101"), capture_declined=True),
    "tok_partial_refund_declined": _Behaviour(Card("visa", "0119"), partial_refund_declined=True),
}
_UNKNOWN_CARD = _Behaviour(Card("unknown", "0000"), decline_reason="CARD_DECLINED")
_TOTALS: Mapping[LedgerKind, str] = {
    LedgerKind.CAPTURE: "captured_minor",
    LedgerKind.VOID: "voided_minor",
    LedgerKind.REFUND: "refunded_minor",
}

_COLUMNS = """authorized_minor, captured_minor, refunded_minor, voided_minor, decline_reason, cancelled,
    token, authorise_attempts, currency_code, unasked, deliver_time > clock_timestamp() AS undelivered"""

_OPEN = statement(
    "provider_open",
    """
    INSERT INTO provider_simulation.payment (payment_id, token, currency_code, amount_minor)
    VALUES (%(payment_id)s, %(token)s, %(currency_code)s, %(amount_minor)s)
    ON CONFLICT (payment_id) DO NOTHING
    """,
)

# The payment's row decides, because DO UPDATE reads its newest version, also one that was committed after
# this statement began: the first attempt on a payment that is not cancelled has the effect, others have none.
_AUTHORISE = statement(
    "provider_authorise",
    f"""
    WITH payment AS (
        INSERT INTO provider_simulation.payment AS stored
            (payment_id, token, currency_code, amount_minor, authorise_attempts, authorized_minor,
             captured_minor, decline_reason, deliver_time)
        VALUES (%(payment_id)s, %(token)s, %(currency_code)s, %(amount_minor)s, 1, %(authorized_minor)s,
            %(captured_minor)s, %(decline_reason)s, clock_timestamp() + %(late)s::interval)
        ON CONFLICT (payment_id) DO UPDATE SET
            authorise_attempts = stored.authorise_attempts + 1,
            authorized_minor = CASE WHEN stored.authorise_attempts = 0 AND NOT stored.cancelled
                THEN excluded.authorized_minor ELSE stored.authorized_minor END,
            captured_minor = CASE WHEN stored.authorise_attempts = 0 AND NOT stored.cancelled
                THEN excluded.captured_minor ELSE stored.captured_minor END,
            decline_reason = CASE WHEN stored.authorise_attempts = 0 AND NOT stored.cancelled
                THEN excluded.decline_reason ELSE stored.decline_reason END,
            deliver_time = CASE WHEN stored.authorise_attempts = 0 AND NOT stored.cancelled
                THEN excluded.deliver_time ELSE stored.deliver_time END
        RETURNING *
    ), entries AS (
        INSERT INTO provider_simulation.operation
            (operation_key, payment_id, kind, amount_minor, currency_code, effective_time)
        SELECT entry.operation_key, payment_id, entry.kind, entry.minor, currency_code,
            greatest(deliver_time, clock_timestamp())
        FROM payment, LATERAL (VALUES
            (%(authorise_key)s::text, 'AUTHORIZATION', authorized_minor),
            (%(capture_key)s::text, 'CAPTURE', captured_minor)) AS entry (operation_key, kind, minor)
        WHERE authorise_attempts = 1 AND entry.minor > 0
    )
    SELECT {_COLUMNS} FROM payment
    """,  # noqa: S608 - constants of this module
)
_LOOK_UP = statement(
    "provider_look_up",
    f"SELECT {_COLUMNS} FROM provider_simulation.payment WHERE payment_id = %(payment_id)s",  # noqa: S608
)
_LOCK = statement("provider_lock", _LOOK_UP.sql + " FOR UPDATE")
_OPERATION = statement(
    "provider_operation",
    "SELECT amount_minor FROM provider_simulation.operation WHERE operation_key = %(operation_key)s",
)
_ENTER = statement(
    "provider_enter",
    """
    INSERT INTO provider_simulation.operation
        (operation_key, payment_id, kind, amount_minor, currency_code, effective_time)
    VALUES (%(operation_key)s, %(payment_id)s, %(kind)s, %(minor)s, %(currency_code)s, clock_timestamp())
    """,
)
_CHANGE = statement(
    "provider_change",
    f"""
    UPDATE provider_simulation.payment SET
        captured_minor = captured_minor + %(captured_minor)s,
        refunded_minor = refunded_minor + %(refunded_minor)s,
        voided_minor = voided_minor + %(voided_minor)s
    WHERE payment_id = %(payment_id)s
    RETURNING {_COLUMNS}
    """,  # noqa: S608 - constants of this module
)
_CANCEL = statement(
    "provider_cancel",
    "UPDATE provider_simulation.payment SET cancelled = true WHERE payment_id = %(payment_id)s",
)
# What was on its way when the cancel came never arrives.
_DROP_UNDELIVERED = statement(
    "provider_drop_undelivered",
    """
    WITH dropped AS (
        DELETE FROM provider_simulation.operation
        WHERE payment_id = %(payment_id)s
    )
    UPDATE provider_simulation.payment
    SET authorized_minor = 0, captured_minor = 0, deliver_time = '-infinity'
    WHERE payment_id = %(payment_id)s
    """,
)


class SimulatedProvider:
    """The provider behind the test tokens; see `services.payments.provider.PaymentProvider` for the contract.

    tok_success, tok_declined and tok_insufficient_funds do what they say; tok_slow answers after a delay;
    tok_timeout_after_charge charges, and its first answer is lost; tok_late is charged only some time later,
    and until then the provider does not know of it. The others are charged like tok_success:
    tok_timeout_after_capture loses the first answer to a capture that is asked for by itself,
    tok_timeout_after_refund the first answer to each refund; tok_capture_declined declines such a capture,
    tok_partial_refund_declined a refund of less than all that was captured.

    Args:
        database: Connections of its own; `close` is the caller's.
        slow_seconds: How long tok_slow's answer takes.
        late_seconds: How long tok_late's authorisation is on its way.
    """

    name = NAME

    def __init__(self, database: Database, *, slow_seconds: float, late_seconds: float) -> None:
        self._database = database
        self._slow_seconds = slow_seconds
        self._late = timedelta(seconds=late_seconds)

    async def describe(self, token: str) -> Card | None:
        """Returns brand and last four digits of a test token; None for any other."""
        behaviour = _TOKENS.get(token)
        return behaviour.card if behaviour else None

    async def open(self, terms: PaymentTerms) -> ProviderPayment:
        """Makes the payment known; moves no money."""
        async with _unknown_when_away():
            await self._database.fetch(_OPEN, _terms(terms))
            rows = await self._database.fetch(_LOOK_UP, {"payment_id": terms.payment_id})
            return _payment(rows[0])

    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        """Holds the amount and, with a `capture_key`, takes it: one statement."""
        behaviour = _TOKENS.get(terms.token, _UNKNOWN_CARD)
        accepted = 0 if behaviour.decline_reason else terms.amount_minor
        params = _terms(terms) | {
            "authorized_minor": accepted,
            "captured_minor": 0 if capture_key is None else accepted,
            "decline_reason": behaviour.decline_reason,
            "late": self._late if behaviour.late else timedelta(0),
            "authorise_key": operation_key,
            "capture_key": capture_key,
        }
        async with _unknown_when_away():
            row = (await self._database.fetch(_AUTHORISE, params))[0]
        if behaviour.slow:
            await asyncio.sleep(self._slow_seconds)
        answer_lost = behaviour.first_answer_lost and row["authorise_attempts"] == 1
        if answer_lost or (behaviour.late and row["undelivered"]):
            raise ProviderOutcomeUnknownError
        return _payment(row)

    async def capture(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        """Takes what is held, unless the payment is cancelled."""

        async def effect(tx: Transaction, row: Row) -> Row:
            if _behaviour(row).capture_declined:
                return row | {"decline_reason": "CAPTURE_DECLINED"}
            held = row["authorized_minor"] - row["voided_minor"] - row["captured_minor"]
            if row["undelivered"] or row["cancelled"] or held < amount_minor:
                return row
            return await _move(
                tx,
                payment_id,
                operation_key,
                LedgerKind.CAPTURE,
                minor=amount_minor,
                currency_code=row["currency_code"],
            )

        return await self._once(payment_id, operation_key, LedgerKind.CAPTURE, effect)

    async def cancel(self, payment_id: UUID, *, operation_key: str) -> ProviderPayment:
        """Lets go what is held, for good; also of an authorisation that is still on its way."""

        async def effect(tx: Transaction, row: Row) -> Row:
            await tx.fetch(_CANCEL, {"payment_id": payment_id})
            if row["undelivered"]:
                await tx.fetch(_DROP_UNDELIVERED, {"payment_id": payment_id})
            else:
                held = row["authorized_minor"] - row["voided_minor"] - row["captured_minor"]
                if held > 0:
                    await _move(
                        tx,
                        payment_id,
                        operation_key,
                        LedgerKind.VOID,
                        minor=held,
                        currency_code=row["currency_code"],
                    )
            return (await tx.fetch(_LOOK_UP, {"payment_id": payment_id}))[0]

        return await self._once(payment_id, operation_key, LedgerKind.VOID, effect)

    async def refund(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        """Gives back what was captured, never more than that."""

        async def effect(tx: Transaction, row: Row) -> Row:
            if _behaviour(row).partial_refund_declined and amount_minor < row["captured_minor"]:
                return row | {"decline_reason": "PARTIAL_REFUND_DECLINED"}
            if row["undelivered"] or row["captured_minor"] - row["refunded_minor"] < amount_minor:
                return row
            return await _move(
                tx,
                payment_id,
                operation_key,
                LedgerKind.REFUND,
                minor=amount_minor,
                currency_code=row["currency_code"],
            )

        return await self._once(payment_id, operation_key, LedgerKind.REFUND, effect)

    async def look_up(self, payment_id: UUID) -> ProviderPayment | None:
        """Returns what is known of a payment; None also while its authorisation is on its way."""
        async with _unknown_when_away():
            rows = await self._database.fetch(_LOOK_UP, {"payment_id": payment_id})
        return _payment(rows[0]) if rows and not rows[0]["undelivered"] else None

    async def _once(
        self,
        payment_id: UUID,
        operation_key: str,
        kind: LedgerKind,
        effect: Callable[[Transaction, Row], Awaitable[Row]],
    ) -> ProviderPayment:
        total = _TOTALS[kind]

        async def attempt(tx: Transaction) -> tuple[ProviderPayment, bool]:
            rows = await tx.fetch(_LOCK, {"payment_id": payment_id})
            if not rows:
                raise LookupError(f"payment {payment_id} is not open")
            before = rows[0]
            done = await tx.fetch(_OPERATION, {"operation_key": operation_key})
            if done:
                return _payment(before, moved_minor=done[0]["amount_minor"]), False
            after = await effect(tx, before)
            moved = after[total] - before[total]
            lost = moved > 0 and kind in _behaviour(before).answers_lost
            return _payment(after, moved_minor=moved), lost

        async with _unknown_when_away():
            answer, answer_lost = await self._database.run(attempt)
        if answer_lost:
            raise ProviderOutcomeUnknownError
        return answer


async def _move(
    tx: Transaction, payment_id: UUID, operation_key: str, kind: LedgerKind, *, minor: int, currency_code: str
) -> Row:
    entry = {
        "operation_key": operation_key,
        "payment_id": payment_id,
        "kind": kind.value,
        "minor": minor,
        "currency_code": currency_code,
    }
    await tx.fetch(_ENTER, entry)
    change = {
        "payment_id": payment_id,
        "captured_minor": minor if kind is LedgerKind.CAPTURE else 0,
        "refunded_minor": minor if kind is LedgerKind.REFUND else 0,
        "voided_minor": minor if kind is LedgerKind.VOID else 0,
    }
    return (await tx.fetch(_CHANGE, change))[0]


def _terms(terms: PaymentTerms) -> Row:
    return {
        "payment_id": terms.payment_id,
        "token": terms.token,
        "currency_code": terms.currency_code,
        "amount_minor": terms.amount_minor,
    }


def _behaviour(row: Row) -> _Behaviour:
    return _TOKENS.get(row["token"], _UNKNOWN_CARD)


def _payment(row: Row, *, moved_minor: int = 0) -> ProviderPayment:
    if row["undelivered"]:
        return ProviderPayment()
    amounts = Amounts(
        authorized_minor=row["authorized_minor"],
        captured_minor=row["captured_minor"],
        refunded_minor=row["refunded_minor"],
        voided_minor=row["voided_minor"],
    )
    unasked = tuple(
        UnaskedOperation(made["operation_key"], LedgerKind(made["kind"]), made["minor"], NAME, made["reason"])
        for made in row["unasked"]
    )
    return ProviderPayment(amounts, row["decline_reason"], row["cancelled"], moved_minor, unasked)


@asynccontextmanager
async def _unknown_when_away() -> AsyncIterator[None]:
    # Its callers see a provider, not a database: a statement that was cut off may have been committed.
    try:
        yield
    except Fault as fault:
        raise ProviderOutcomeUnknownError from fault
