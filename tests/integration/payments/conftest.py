"""The payments context on a fresh database, with the simulated provider on connections of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest_asyncio

from chassis.barrier import SagaCall
from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.postgres import Database, Row, statement
from services.payments.app import Payments
from services.payments.app.capture import capture
from services.payments.app.charge import charge
from services.payments.app.payment_methods import add_payment_method
from services.payments.app.provider_webhook import Outcome, handle_webhook
from services.payments.app.refund import refund
from services.payments.app.reverse import reverse, reverse_as_step
from services.payments.domain import CaptureMode, ChargeOrder, Payment, PaymentState, RefundOrder
from services.payments.invariants import broken_invariants
from services.payments.provider import PaymentProvider
from services.payments.simulated_dashboard import Made, SimulatedDashboard
from services.payments.simulated_provider import SimulatedProvider
from services.payments.webhooks import sign

WEBHOOK_SECRET = b"a secret of the tests alone"


@dataclass
class Step:
    """One charge step of one saga, and the calls that its saga can make."""

    app: Payments
    order: ChargeOrder
    saga_id: UUID = field(default_factory=new_id)

    def call(self, request_hash: bytes) -> SagaCall:
        return SagaCall(self.saga_id, "payment", request_hash)

    async def charge(self, request_hash: bytes = b"charge") -> Payment:
        return await charge(self.app, self.call(request_hash), self.order)

    async def reverse(self) -> PaymentState | None:
        return await reverse(self.app, self.call(b"reverse"), self.order.payment_id)

    def later(self, app: Payments | None = None) -> Later:
        return Later(app or self.app, self.order.payment_id)


@dataclass
class Later:
    """One step of a saga that comes after the charge: a capture, a refund or a reversal."""

    app: Payments
    payment_id: UUID
    saga_id: UUID = field(default_factory=new_id)
    refund_id: UUID = field(default_factory=new_id)

    def call(self, request_hash: bytes) -> SagaCall:
        return SagaCall(self.saga_id, "later", request_hash)

    async def capture(self, request_hash: bytes = b"capture") -> Payment:
        return await capture(self.app, self.call(request_hash), self.payment_id)

    async def refund(self, amount_minor: int, currency_code: str = "EUR") -> Payment:
        order = RefundOrder(self.refund_id, self.payment_id, amount_minor, currency_code, "arrived broken")
        return await refund(self.app, self.call(f"{amount_minor} {currency_code}".encode()), order)

    async def reverse(self) -> PaymentState | None:
        return await reverse_as_step(self.app, self.call(b"reverse"), self.payment_id)

    async def undo(self) -> PaymentState | None:
        return await reverse(self.app, self.call(b"undo"), self.payment_id)


@dataclass
class World:
    """One payments database, and what tests ask of it."""

    app: Payments
    database: Database
    provider_database: Database
    provider: SimulatedProvider
    wakes: list[None]
    dsn: str

    def with_provider(self, provider: PaymentProvider, *, timeout_seconds: float = 5.0) -> Payments:
        return Payments(
            database=self.database,
            provider=provider,
            clock=SystemClock(),
            new_id=new_id,
            provider_timeout_seconds=timeout_seconds,
            published=lambda: self.wakes.append(None),
            webhook_secrets={"simulated": WEBHOOK_SECRET},
        )

    @property
    def dashboard(self) -> SimulatedDashboard:
        return SimulatedDashboard(self.provider_database, new_id)

    async def tell(self, made: Made, event_id: str = "", *, app: Payments | None = None) -> Outcome:
        """Sends the webhook that tells what was made at the dashboard; an event of its own without an id."""
        return await self.send(made.webhook(event_id or f"evt_{new_id().hex}"), app=app)

    async def send(self, body: bytes, *, app: Payments | None = None) -> Outcome:
        """Sends a webhook with this body, signed now."""
        signature = sign(WEBHOOK_SECRET, body, seconds=int(SystemClock().now().timestamp()))
        return await handle_webhook(app or self.app, "simulated", body, signature)

    async def step(
        self,
        token: str = "tok_success",  # noqa: S107 - a test token
        *,
        app: Payments | None = None,
        capture: CaptureMode | None = None,
    ) -> Step:
        user_id = new_id()
        method = await add_payment_method(self.app, user_id, new_id(), token)
        order = ChargeOrder(
            payment_id=new_id(),
            order_id=new_id(),
            user_id=user_id,
            payment_method_id=method.id,
            amount_minor=1234,
            currency_code="EUR",
            capture=capture or CaptureMode.AUTOMATIC,
        )
        return Step(app or self.app, order)

    async def rows(self, sql: str, **params: object) -> list[Row]:
        return await self.database.fetch(statement("test", sql), params)

    async def ledger(self, step: Step) -> list[tuple[str, int]]:
        rows = await self.rows(
            "SELECT kind, amount_minor FROM ledger_entry WHERE payment_id = %(id)s ORDER BY position",
            id=step.order.payment_id,
        )
        return [(row["kind"], row["amount_minor"]) for row in rows]

    async def provider_ledger(self, step: Step) -> list[tuple[str, int]]:
        rows = await self.provider_database.fetch(
            statement(
                "test",
                "SELECT kind, amount_minor FROM provider_simulation.ledger WHERE payment_id = %(id)s"
                " ORDER BY kind",
            ),
            {"id": step.order.payment_id},
        )
        return [(row["kind"], row["amount_minor"]) for row in rows]

    async def events(self, step: Step) -> list[tuple[str, int]]:
        rows = await self.rows(
            "SELECT type, sequence FROM outbox WHERE aggregateid = %(id)s ORDER BY position",
            id=str(step.order.payment_id),
        )
        return [(row["type"].rpartition(".")[2], row["sequence"]) for row in rows]

    async def stored(self, later: Later) -> str | None:
        """Returns the outcome in the barrier row of a later step."""
        rows = await self.rows("SELECT outcome FROM barrier WHERE saga_id = %(id)s", id=later.saga_id)
        return str(rows[0]["outcome"]) if rows else None

    async def authorised(self, token: str = "tok_success", *, app: Payments | None = None) -> Step:  # noqa: S107
        step = await self.step(token, app=app, capture=CaptureMode.MANUAL)
        await step.charge()
        return step

    async def captured(self, token: str = "tok_success", *, app: Payments | None = None) -> Step:  # noqa: S107
        step = await self.step(token, app=app)
        await step.charge()
        return step

    async def state(self, step: Step) -> str | None:
        rows = await self.rows("SELECT state FROM payment WHERE id = %(id)s", id=step.order.payment_id)
        return str(rows[0]["state"]) if rows else None

    async def deliver(self, step: Step) -> None:
        """Lets an authorisation that is on its way arrive."""
        for sql in (
            (
                "UPDATE provider_simulation.payment SET deliver_time = clock_timestamp()"
                " WHERE payment_id = %(id)s AND deliver_time > clock_timestamp()"
            ),
            (
                "UPDATE provider_simulation.operation SET effective_time = clock_timestamp()"
                " WHERE payment_id = %(id)s AND effective_time > clock_timestamp()"
            ),
        ):
            await self.provider_database.fetch(statement("test", sql), {"id": step.order.payment_id})

    async def broken(self) -> list[tuple[str, str]]:
        return await broken_invariants(self.database, self.provider_database)


@pytest_asyncio.fixture(loop_scope="session")
async def world(new_database: object) -> AsyncIterator[World]:
    assert callable(new_database)
    dsn = new_database("services.payments")
    database = await Database.open(dsn, application_name="payments-test", max_size=8)
    provider_database = await Database.open(dsn, application_name="provider-test", max_size=8)
    provider = SimulatedProvider(provider_database, slow_seconds=0.0, late_seconds=3600.0)
    wakes: list[None] = []
    app = Payments(
        database=database,
        provider=provider,
        clock=SystemClock(),
        new_id=new_id,
        provider_timeout_seconds=5.0,
        published=lambda: wakes.append(None),
        webhook_secrets={"simulated": WEBHOOK_SECRET},
    )
    yield World(app, database, provider_database, provider, wakes, dsn)
    assert await broken_invariants(database, provider_database) == []
    await database.close()
    await provider_database.close()
