"""Customers over REST who write down what they are about to ask, and what came of it.

A request without an answer, or with a 5xx, is unknown: it may have been accepted. It is never a failure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import httpx2

from chassis.ids import new_id
from deploy.local.programs import ADMIN_EMAIL
from deploy.local.rest import Rest
from deploy.local.sample_data import ADDRESS, CURRENCY
from deploy.local.suite import Suite

ANSWER_SECONDS = 45.0
INSIST_SECONDS = 75.0
PAUSE_SECONDS = 0.1
PASSWORD = "correct horse battery staple"
PRICE_MINOR = 1_000
NO_ANSWER = 0

Json = dict[str, Any]
Cart = Mapping[str, int]  # SKU → quantity


class Outcome(StrEnum):
    """What a client knows of one of its requests."""

    OK = "ok"  # done: 200, 201; or accepted: 202, with the order's id
    FAILED = "failed"  # refused
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; status 0 is none at all."""

    status: int
    content: bytes = b""

    @property
    def outcome(self) -> Outcome:
        """What the client knows now."""
        if self.status in {200, 201, 202}:
            return Outcome.OK
        return Outcome.UNKNOWN if self.status == NO_ANSWER or self.status >= 500 else Outcome.FAILED

    @property
    def json(self) -> Json:
        """The body."""
        return dict(json.loads(self.content))

    @property
    def order_id(self) -> str | None:
        """The order that the answer tells of, also a rejected one."""
        if not self.content:
            return None
        return self.json.get("order_id") or (self.json.get("id") if self.status == 201 else None)


@dataclass
class Intent:
    """An order that a client wants, written down before it is sent, with every answer to it."""

    user_id: str
    key: str
    body: Json
    answers: list[Answer] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """What the client knows now: once it was told, it knows."""
        known = [answer.outcome for answer in self.answers if answer.outcome is not Outcome.UNKNOWN]
        return known[-1] if known else Outcome.UNKNOWN

    @property
    def order_ids(self) -> set[str]:
        """The orders that the answers tell of: at most one."""
        return {answer.order_id for answer in self.answers if answer.order_id}


@dataclass
class Request:
    """What a client wants of an order that exists, written down before it is sent, with every answer to it.

    `rpc` is the orchestrator's: CancelOrder, RefundOrder or FulfilOrder.
    """

    user_id: str
    rpc: str
    key: str
    order_id: str
    body: Json
    answers: list[Answer] = field(default_factory=list)


@dataclass
class Journal:
    """What all clients of one suite asked for."""

    intents: list[Intent] = field(default_factory=list)
    users: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)

    def write(self, user_id: str, key: str, body: Json) -> Intent:
        """Write an intent down, or find the one that the key has already with the same body."""
        for intent in self.intents:
            if (intent.user_id, intent.key, intent.body) == (user_id, key, body):
                return intent
        intent = Intent(user_id, key, body)
        self.intents.append(intent)
        return intent

    def write_request(self, wanted: Request) -> Request:
        """Write a request down, or find the one that the key has already with the same content."""
        for known in self.requests:
            if dataclasses.replace(known, answers=[]) == wanted:
                return known
        self.requests.append(wanted)
        return wanted


class Client:
    """Somebody with an account, who writes down what they ask of orders."""

    def __init__(self, client: httpx2.AsyncClient, journal: Journal) -> None:
        self._client = client
        self._journal = journal
        self.user_id = ""

    async def log_in(self, login: Json) -> None:
        """Send every later request as this user."""
        session = await self._made("/sessions", login)
        self._client.headers["Authorization"] = f"Bearer {session['access_token']}"
        self.user_id = session["user"]["id"]

    def trace(self, traceparent: str) -> None:
        """Send every later request as a part of this trace."""
        self._client.headers["traceparent"] = traceparent

    async def _made(self, path: str, body: Json) -> Json:
        answer = await self._client.post(path, json=body, headers={"Idempotency-Key": str(new_id())})
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def get(self, path: str) -> Json:
        """Read `path` below /api/v1."""
        answer = await self._client.get(path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def close_account(self) -> None:
        """Deactivate this account, for good."""
        answer = await self._client.delete("/users/me")
        assert answer.is_success, answer.text

    async def cancel(
        self, order_id: str, *, key: str = "", reason: str = "ordered twice", wait_seconds: int = 20
    ) -> Answer:
        """Cancel an order, once."""
        wanted = Request(self.user_id, "CancelOrder", key or str(new_id()), order_id, {"reason": reason})
        return await self._ask(wanted, "cancellation", wait_seconds)

    async def refund(self, order_id: str, *, key: str = "", wait_seconds: int = 20, **what: Any) -> Answer:
        """Refund `lines`, an `amount`, or all that is left of an order, once."""
        body = {"reason": "broken", **what}
        wanted = Request(self.user_id, "RefundOrder", key or str(new_id()), order_id, body)
        return await self._ask(wanted, "refunds", wait_seconds)

    async def ship(self, order_id: str, *, key: str = "", wait_seconds: int = 20) -> Answer:
        """Ship an order, once."""
        body = {"carrier": "DHL", "tracking_number": "42"}
        wanted = Request(self.user_id, "FulfilOrder", key or str(new_id()), order_id, body)
        return await self._ask(wanted, "shipment", wait_seconds)

    async def _ask(self, wanted: Request, what: str, wait_seconds: int) -> Answer:
        request = self._journal.write_request(wanted)
        path = f"/orders/{request.order_id}/{what}"
        answer = await self._send(path, request.body, request.key, wait_seconds)
        request.answers.append(answer)
        return answer

    async def _send(self, path: str, body: Json, key: str, wait_seconds: int) -> Answer:
        headers = {"Idempotency-Key": key, "Prefer": f"wait={wait_seconds}"}
        try:
            response = await self._client.post(path, json=body, headers=headers)
        except httpx2.TransportError:
            return Answer(NO_ANSWER)
        return Answer(response.status_code, response.content)


class Shopper(Client):
    """One customer with an address and a payment method."""

    def __init__(self, client: httpx2.AsyncClient, journal: Journal) -> None:
        super().__init__(client, journal)
        self._address_id = ""
        self._method_id = ""

    async def settle_in(self, token: str) -> None:
        """Register, log in, add an address and the payment method behind the provider's `token`."""
        login = {"email": f"{new_id()}@example.com", "password": PASSWORD}
        await self._made("/users", {**login, "display_name": "Grace"})
        await self.log_in(login)
        self._address_id = (await self._made("/users/me/addresses", ADDRESS))["id"]
        method = await self._made("/users/me/payment-methods", {"provider_token": token})
        self._method_id = method["id"]
        self._journal.users.add(self.user_id)

    async def place(
        self,
        cart: Cart,
        *,
        key: str | None = None,
        wait_seconds: int = 20,
        expected_total_minor: int | None = None,
    ) -> Answer:
        """Send an order once; the intent is in the journal before, the answer after."""
        body: Json = {
            "items": [{"sku": sku, "quantity": quantity} for sku, quantity in cart.items()],
            "currency": CURRENCY,
            "address_id": self._address_id,
            "payment_method_id": self._method_id,
        }
        if expected_total_minor is not None:
            body["expected_total"] = {"currency": CURRENCY, "amount_minor": expected_total_minor}
        intent = self._journal.write(self.user_id, key or str(new_id()), body)
        answer = await self._send("/orders", body, intent.key, wait_seconds)
        intent.answers.append(answer)
        return answer

    async def insist(self, cart: Cart, *, key: str, wait_seconds: int = 20) -> Answer:
        """Send an order with the same key again and again until it is known how it ended."""
        async with asyncio.timeout(INSIST_SECONDS):
            while True:
                answer = await self.place(cart, key=key, wait_seconds=wait_seconds)
                if answer.status != 202 and answer.outcome is not Outcome.UNKNOWN:
                    return answer
                await asyncio.sleep(PAUSE_SECONDS)


class Market:
    """A suite with its customers and its admin. Use it with `async with`."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.journal = Journal()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def shopper(self, token: str = "tok_success") -> Shopper:  # noqa: S107 - a test token
        """Return a new customer who pays with the provider's test `token`."""
        shopper = Shopper(await self._client(), self.journal)
        await shopper.settle_in(token)
        return shopper

    async def clerk(self) -> Client:
        """Return one of the staff: the admin."""
        clerk = Client(await self._client(), self.journal)
        await clerk.log_in({"email": ADMIN_EMAIL, "password": self.suite.password("admin")})
        return clerk

    async def _client(self) -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(
            base_url=f"{self.suite.gateway_url}/api/v1", timeout=ANSWER_SECONDS, trust_env=False
        )
        return await self._stack.enter_async_context(client)

    async def product(self, stock: int, *, low_below: int = 0) -> str:
        """Return the SKU of a new product with so many units, of `PRICE_MINOR` each."""
        sku = f"E2E-{new_id()}".upper()
        async with Rest(self.suite.gateway_url) as admin:
            await admin.log_in(ADMIN_EMAIL, self.suite.password("admin"))
            price = {"currency": CURRENCY, "amount_minor": PRICE_MINOR}
            product = {"sku": sku, "name": "Thing", "unit_price": price, "low_stock_threshold": low_below}
            await admin.post("/products", product, key=f"new-{sku}")
            delta = {"delta": stock, "reason": "test"}
            await admin.post(f"/products/{sku}/stock-adjustments", delta, key=f"stock-{sku}")
        return sku

    async def stock(self, sku: str) -> tuple[int, int]:
        """Return a product's units on hand and reserved, as REST tells them."""
        async with Rest(self.suite.gateway_url) as admin:
            await admin.log_in(ADMIN_EMAIL, self.suite.password("admin"))
            stock = await admin.get(f"/products/{sku}/stock")
        return stock["on_hand"], stock["reserved"]
