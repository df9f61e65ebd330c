"""Customers who order without a pause while something is done to the containers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chassis.ids import new_id
from tests.e2e.shoppers import NO_ANSWER, Answer, Intent, Market, Shopper

SHOPPERS = 3
MAX_ORDERS = 5_000
WAIT_SECONDS = 5
STOCK = 1_000_000
# Told again and again until it is known how an order ended; longer than the longest outage of these tests.
INSIST_SECONDS = 240.0
PAUSE_SECONDS = 0.2
# Of an outage: no connection, or one that was cut; no answer in time; accepted and under way.
RETRIABLE = {NO_ANSWER, 202, 502, 503, 504}
CONFIRMED, DECLINED = 201, 402
# What the proxy says when a gateway went away with a request in its hands.
CUT_OFF = "502 GATEWAY_AWAY"
ENDS = {CONFIRMED, DECLINED}


@dataclass
class Seen:
    """What the customers saw while something was done."""

    orders: Counter[int] = field(default_factory=Counter)  # how each order ended → how many
    on_the_way: Counter[str] = field(default_factory=Counter)  # each other answer → how often
    longest_seconds: float = 0.0  # from the first time of asking until it was known how the order ended
    seconds: float = 0.0

    def take(self, intent: Intent) -> None:
        """Take in every answer to one order."""
        *before, last = intent.answers
        self.orders[last.status] += 1
        for answer in before:
            self.on_the_way[_kind(answer)] += 1


def _kind(answer: Answer) -> str:
    if answer.status == NO_ANSWER:
        return "no answer"
    code = answer.json.get("code", answer.json.get("state", "")) if answer.content else ""
    return f"{answer.status} {code}".rstrip()


@asynccontextmanager
async def shopping(market: Market, sku: str) -> AsyncIterator[Seen]:
    """Have customers order `sku` until the block ends, one of them with a card that is declined."""
    seen = Seen()
    stop = asyncio.Event()
    tokens = ["tok_success"] * (SHOPPERS - 1) + ["tok_declined"]
    shoppers = [await market.shopper(token) for token in tokens]
    first = len(market.journal.intents)
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for shopper in shoppers:
            group.create_task(_shop(shopper, sku, stop, seen))
        try:
            yield seen
        finally:
            stop.set()
    seen.seconds = time.monotonic() - started
    for intent in market.journal.intents[first:]:
        seen.take(intent)


async def _shop(shopper: Shopper, sku: str, stop: asyncio.Event, seen: Seen) -> None:
    for _ in range(MAX_ORDERS):
        if stop.is_set():
            return
        asked_at = time.monotonic()
        await insist(shopper, sku)
        seen.longest_seconds = max(seen.longest_seconds, time.monotonic() - asked_at)
    raise AssertionError(f"{MAX_ORDERS} orders, and it did not stop")


async def insist(shopper: Shopper, sku: str) -> Answer:
    """Place one order, and ask with the same key until it is known how it ended."""
    key = str(new_id())
    async with asyncio.timeout(INSIST_SECONDS):
        while True:
            answer = await shopper.place({sku: 1}, key=key, wait_seconds=WAIT_SECONDS)
            if answer.status not in RETRIABLE:
                return answer
            await asyncio.sleep(PAUSE_SECONDS)
