"""Customers and staff who order, change their minds and look at lists all the time, while processes change.

Every order and request insists with its key until it is known how it ended. What they are told on the way may
only be that they shall ask again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from chassis.ids import new_id
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import INSIST_SECONDS, NO_ANSWER, Answer, Client, Market, Outcome, Shopper

RETRIABLE = {NO_ANSWER, 202, 503, 504}
WAIT_SECONDS = 5
# Between two orders of one customer: the machine shall have something left for what is being started.
PAUSE_SECONDS = 0.3
STOCK = 1_000_000
MAX_ORDERS = 10_000
LISTS = ("/orders", "/users/me/statistics", "/products")


@dataclass
class Shopping:
    """What customers wanted, and what they were told."""

    market: Market
    ended: Counter[str] = field(default_factory=Counter)  # who → orders and requests that came to their end
    looked: Counter[int] = field(default_factory=Counter)  # status → how often a list was answered with it
    stopped: bool = False

    async def goes_on(self, orders: int = 2) -> None:
        """Wait until so many more orders have been placed and confirmed at once, and a list was shown."""
        ended, shown = self.ended["quick"], self.looked[200]

        async def more() -> tuple[int, int]:
            return self.ended["quick"] - ended, self.looked[200] - shown

        # The first may have been under way before.
        await eventually(more, until=lambda seen: seen[0] > orders and seen[1] > 0)

    def check(self) -> None:
        """Nobody was told anything on the way but to ask again, and everything came to the end that it has.

        Raises:
            AssertionError: naming the answers that should not have been.
        """
        journal = self.market.journal
        answers = [answer for asked in (*journal.intents, *journal.requests) for answer in asked.answers]
        strange = [answer for answer in answers if answer.status not in RETRIABLE | {200, 201, 402}]
        assert not strange, strange[:3]
        assert set(self.looked) <= (RETRIABLE - {202}) | {200}, self.looked
        assert all(self.ended[who] for who in ("quick", "slow", "declined", "changed")), self.ended


@asynccontextmanager
async def shopping(market: Market) -> AsyncIterator[Shopping]:
    """Let customers order while the block lasts; then they finish what they began, and it is checked."""
    sku = await market.product(stock=STOCK)
    quick, fickle = await market.shopper(), await market.shopper()
    slow, declined = await market.shopper("tok_slow"), await market.shopper("tok_declined")
    clerk = await market.clerk()
    shop = Shopping(market)
    async with asyncio.TaskGroup() as group:
        group.create_task(_order(shop, quick, sku, "quick", 201))
        # Enough of them that each of two orchestrators always has one in hand.
        for _ in range(3):
            group.create_task(_order(shop, slow, sku, "slow", 201))
        group.create_task(_order(shop, declined, sku, "declined", 402))
        group.create_task(_order_and_change(shop, fickle, clerk, sku))
        group.create_task(_look(shop, quick))
        try:
            yield shop
        finally:
            shop.stopped = True
    shop.check()


async def _order(shop: Shopping, shopper: Shopper, sku: str, who: str, status: int) -> None:
    for _ in range(MAX_ORDERS):
        if shop.stopped:
            return
        answer = await shopper.insist({sku: 1}, key=str(new_id()), wait_seconds=WAIT_SECONDS)
        assert answer.status == status, answer
        shop.ended[who] += 1
        await asyncio.sleep(PAUSE_SECONDS)


async def _order_and_change(shop: Shopping, shopper: Shopper, clerk: Client, sku: str) -> None:
    """Orders that are cancelled, refunded in part, and shipped, in turn."""
    for number in range(MAX_ORDERS):
        if shop.stopped:
            return
        placed = await shopper.insist({sku: 2}, key=str(new_id()), wait_seconds=WAIT_SECONDS)
        assert placed.status == 201, placed
        order_id, key = str(placed.order_id), str(new_id())

        async def ask(number: int = number, order_id: str = order_id, key: str = key) -> Answer:
            if number % 3 == 0:
                return await shopper.cancel(order_id, key=key, wait_seconds=WAIT_SECONDS)
            if number % 3 == 1:
                lines = [{"sku": sku, "quantity": 1}]
                return await clerk.refund(order_id, key=key, wait_seconds=WAIT_SECONDS, lines=lines)
            return await clerk.ship(order_id, key=key, wait_seconds=WAIT_SECONDS)

        answer = await _insist(ask)
        assert answer.status == 200, answer
        shop.ended["changed"] += 1
        await asyncio.sleep(PAUSE_SECONDS)


async def _insist(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    async with asyncio.timeout(INSIST_SECONDS):
        while True:
            answer = await ask()
            if answer.status != 202 and answer.outcome is not Outcome.UNKNOWN:
                return answer
            await asyncio.sleep(PAUSE_SECONDS)


async def _look(shop: Shopping, shopper: Shopper) -> None:
    for number in range(MAX_ORDERS):
        if shop.stopped:
            return
        try:
            status = (await shopper._client.get(LISTS[number % len(LISTS)])).status_code
        except httpx2.TransportError:
            status = NO_ANSWER
        shop.looked[status] += 1
        await asyncio.sleep(PAUSE_SECONDS)
