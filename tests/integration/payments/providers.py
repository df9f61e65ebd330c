"""Providers that misbehave in one way each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from typing_extensions import override

from services.payments.domain import Amounts
from services.payments.provider import PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment
from services.payments.simulated_provider import SimulatedProvider

if TYPE_CHECKING:
    from tests.integration.payments.conftest import World

Ask = Callable[[], Awaitable[ProviderPayment]]


class Watched(SimulatedProvider):
    """Lets a test come between every capture, cancel or refund and the books: `around` does as it likes."""

    def __init__(self, world: World) -> None:
        super().__init__(world.provider_database, slow_seconds=0, late_seconds=0)
        self.asked: Counter[str] = Counter()

    async def around(self, name: str, ask: Ask) -> ProviderPayment:  # noqa: ARG002 - others look at it
        return await ask()

    @override
    async def capture(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        self.asked["capture"] += 1
        ask = super().capture
        return await self.around(
            "capture", lambda: ask(payment_id, operation_key=operation_key, amount_minor=amount_minor)
        )

    @override
    async def cancel(self, payment_id: UUID, *, operation_key: str) -> ProviderPayment:
        self.asked["cancel"] += 1
        ask = super().cancel
        return await self.around("cancel", lambda: ask(payment_id, operation_key=operation_key))

    @override
    async def refund(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        self.asked["refund"] += 1
        ask = super().refund
        return await self.around(
            "refund", lambda: ask(payment_id, operation_key=operation_key, amount_minor=amount_minor)
        )


class Held(Watched):
    """Holds operations of one name, before or after their effect, until the test lets them go on."""

    def __init__(self, world: World, name: str, *, after: bool) -> None:
        super().__init__(world)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self._name, self._after = name, after

    @override
    async def around(self, name: str, ask: Ask) -> ProviderPayment:
        if name != self._name:
            return await ask()
        answer = await ask() if self._after else None
        self.reached.set()
        await self.go_on.wait()
        return answer or await ask()


class Late(Watched):
    """Says nothing to operations of one name, which are on their way until the test delivers them."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world)
        self.on_its_way: list[Ask] = []
        self._name = name

    @override
    async def around(self, name: str, ask: Ask) -> ProviderPayment:
        if name != self._name:
            return await ask()
        self.on_its_way.append(ask)
        raise ProviderOutcomeUnknownError

    async def deliver(self) -> None:
        for ask in self.on_its_way:
            await ask()


class SaysNothingOfUse(Watched):
    """Does not do the captures and refunds that it is asked for, and gives no reason."""

    @override
    async def around(self, name: str, ask: Ask) -> ProviderPayment:
        return await ask() if name == "cancel" else ProviderPayment(Amounts(1234, 1234 * (name == "refund")))


class DeclinesRefunds(Watched):
    """Gives nothing back, and says why."""

    @override
    async def around(self, name: str, ask: Ask) -> ProviderPayment:
        if name == "refund":
            return ProviderPayment(Amounts(1234, 1234), decline_reason="ACCOUNT_CLOSED")
        return await ask()


class WithoutCombinedCapture(SimulatedProvider):
    """Wants authorisation and capture to be asked for one by one."""

    @override
    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        return await super().authorise(terms, operation_key=operation_key, capture_key=None)
