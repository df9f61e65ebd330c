"""A payment provider that counts what it is asked, how it answers, and how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from services.payments.metrics import CALLS, SECONDS
from services.payments.provider import (
    Card,
    PaymentProvider,
    PaymentTerms,
    ProviderOutcomeUnknownError,
    ProviderPayment,
)

OUTCOMES: Final = ("ok", "declined", "unknown", "failed")
OPERATIONS: Final = ("describe", "open", "authorise", "capture", "cancel", "refund", "look_up")


class MeasuredProvider:
    """Hands everything on to another provider; its contract is that of `PaymentProvider`."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider
        self.name = provider.name
        for operation in OPERATIONS:
            SECONDS.labels(self.name, operation)
            for outcome in OUTCOMES:
                CALLS.labels(self.name, operation, outcome)

    async def describe(self, token: str) -> Card | None:
        """Counts and hands on."""
        with self._measured("describe"):
            return await self._provider.describe(token)

    async def open(self, terms: PaymentTerms) -> ProviderPayment:
        """Counts and hands on."""
        with self._measured("open"):
            return await self._provider.open(terms)

    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        """Counts and hands on."""
        with self._measured("authorise") as answered:
            return answered.by(
                await self._provider.authorise(terms, operation_key=operation_key, capture_key=capture_key)
            )

    async def capture(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        """Counts and hands on."""
        with self._measured("capture") as answered:
            return answered.by(
                await self._provider.capture(
                    payment_id, operation_key=operation_key, amount_minor=amount_minor
                )
            )

    async def cancel(self, payment_id: UUID, *, operation_key: str) -> ProviderPayment:
        """Counts and hands on."""
        with self._measured("cancel"):
            return await self._provider.cancel(payment_id, operation_key=operation_key)

    async def refund(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        """Counts and hands on."""
        with self._measured("refund") as answered:
            return answered.by(
                await self._provider.refund(
                    payment_id, operation_key=operation_key, amount_minor=amount_minor
                )
            )

    async def look_up(self, payment_id: UUID) -> ProviderPayment | None:
        """Counts and hands on; that something was declined before is no refusal to answer."""
        with self._measured("look_up"):
            return await self._provider.look_up(payment_id)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[_Answer]:
        answer = _Answer()
        started = time.perf_counter()
        try:
            yield answer
        except (ProviderOutcomeUnknownError, asyncio.CancelledError):
            answer.outcome = "unknown"  # the caller's time-out cancels
            raise
        except Exception:
            answer.outcome = "failed"
            raise
        finally:
            SECONDS.labels(self.name, operation).observe(time.perf_counter() - started)
            CALLS.labels(self.name, operation, answer.outcome).inc()


class _Answer:
    def __init__(self) -> None:
        self.outcome = "ok"

    def by(self, payment: ProviderPayment) -> ProviderPayment:
        if payment.decline_reason:
            self.outcome = "declined"
        return payment
