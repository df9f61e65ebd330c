"""What the load's customers asked for and were told, and what must be true of it in the end.

Nothing but the standard library: it is imported by a locustfile in whatever environment that runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NO_ANSWER = 0
# 502 is a balancer's, whose gateway went away: the order may have been taken.
TOO_BUSY = frozenset({429, 502, 503, 504})
UNAUTHORIZED = 401
DECLINED_CODES = frozenset({"CARD_DECLINED", "INSUFFICIENT_FUNDS"})
SOLD_OUT_CODE = "INSUFFICIENT_STOCK"
ENDS = frozenset({"confirmed", "rejected", "cancelled"})


class Outcome(StrEnum):
    """What a customer knows of an order."""

    CONFIRMED = "confirmed"
    DECLINED = "declined"
    SOLD_OUT = "sold out"
    ACCEPTED = "accepted"  # it is on its way: its end is to be asked for
    UNKNOWN = "unknown"  # too busy, or no answer: the same key is to be sent again
    BROKEN = "broken"  # what the contract does not allow


@dataclass(frozen=True)
class Expectation:
    """What may become of an order: a good card is not declined, a bad one never paid with."""

    card_is_good: bool = True
    may_be_sold_out: bool = False


def judged(status: int, code: str, retry_after: str | None, expected: Expectation) -> Outcome:
    """What an answer to an order means.

    Args:
        status: HTTP's; 0 where there was no answer.
        code: The problem's, where the answer was one.
        retry_after: The header, where there was one.
        expected: Of this order.
    """
    if status == NO_ANSWER or (status in TOO_BUSY and retry_after is not None):
        return Outcome.UNKNOWN
    if status == 202:
        return Outcome.ACCEPTED
    allowed = {
        (201, ""): Outcome.CONFIRMED if expected.card_is_good else Outcome.BROKEN,
        (409, SOLD_OUT_CODE): Outcome.SOLD_OUT if expected.may_be_sold_out else Outcome.BROKEN,
        **{
            (402, each): Outcome.BROKEN if expected.card_is_good else Outcome.DECLINED
            for each in DECLINED_CODES
        },
    }
    return allowed.get((status, code), Outcome.BROKEN)


def judged_end(order: Mapping[str, Any], expected: Expectation) -> Outcome:
    """What a read of an order says of its end."""
    state = order.get("state")
    if state not in ENDS:
        return Outcome.ACCEPTED
    if state == "confirmed":
        return Outcome.CONFIRMED if expected.card_is_good else Outcome.BROKEN
    if not expected.card_is_good:
        return Outcome.DECLINED
    return Outcome.SOLD_OUT if expected.may_be_sold_out else Outcome.BROKEN


class Token:
    """A customer's access token. It lives for an hour, so it is refused in longer runs."""

    def __init__(self, log_in: Callable[[], str]) -> None:
        self._log_in = log_in
        self._one_at_a_time = threading.Lock()
        self.value = log_in()

    def renew(self, refused: str) -> None:
        """Log in again, unless that was done since this one was taken; what `log_in` raises goes through."""
        with self._one_at_a_time:
            if self.value == refused:
                self.value = self._log_in()


@dataclass
class Intent:
    """An order that a customer wants, written down before it is sent."""

    key: str
    token: Token
    body: dict[str, Any]
    expected: Expectation
    outcome: Outcome = Outcome.UNKNOWN
    order_id: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is known how it ended."""
        return self.outcome not in {Outcome.UNKNOWN, Outcome.ACCEPTED}


@dataclass
class Books:
    """All intents of a run, and the stock that they began with."""

    stock: dict[str, int] = field(default_factory=dict)
    nobody_else_buys: bool = False
    intents: list[Intent] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything: a new run begins."""
        self.stock, self.nobody_else_buys, self.intents = {}, False, []

    def write(self, intent: Intent) -> Intent:
        """Write an order down."""
        self.intents.append(intent)
        return intent

    def open(self) -> Iterator[Intent]:
        """Those whose end is not known."""
        return (intent for intent in self.intents if not intent.has_ended)

    def count(self, outcome: Outcome) -> int:
        """How many orders ended so."""
        return sum(intent.outcome is outcome for intent in self.intents)

    def sold(self, sku: str) -> int:
        """Units of the confirmed orders."""
        return sum(
            item["quantity"]
            for intent in self.intents
            if intent.outcome is Outcome.CONFIRMED
            for item in intent.body["items"]
            if item["sku"] == sku
        )

    def findings(self, left: Mapping[str, int]) -> list[str]:
        """What is wrong in the end, as sentences; none where all is well.

        Args:
            left: What is available of each SKU now.
        """
        if not self.intents:
            return ["no order was placed: the run was too short, or nobody could be set up"]
        wrong = [
            f"the order with the key {intent.key} has not ended: {intent.outcome}" for intent in self.open()
        ]
        wrong += [
            f"the order with the key {intent.key} broke the contract"
            for intent in self.intents
            if intent.outcome is Outcome.BROKEN
        ]
        for sku, stock in self.stock.items():
            sold, now = self.sold(sku), left.get(sku, 0)
            if sold > stock or now < 0:
                wrong.append(f"{sku} was oversold: {sold} of {stock} sold, {now} available")
            elif self.nobody_else_buys and stock - sold != now:
                wrong.append(f"{sku} does not add up: {stock} in stock, {sold} sold, {now} available")
        return wrong
