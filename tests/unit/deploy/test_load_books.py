"""The books of the load: what an answer means, and what must be true of all orders in the end."""

from __future__ import annotations

import compileall
import itertools
from pathlib import Path

import pytest

from deploy.load.books import Books, Expectation, Intent, Outcome, Token, judged, judged_end

LOAD = Path(__file__).resolve().parents[3] / "deploy" / "load"
GOOD = Expectation()
BAD = Expectation(card_is_good=False)
SCARCE = Expectation(may_be_sold_out=True)


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "expected", "outcome"),
    [
        (201, "", None, GOOD, Outcome.CONFIRMED),
        (202, "", None, GOOD, Outcome.ACCEPTED),
        (402, "CARD_DECLINED", None, BAD, Outcome.DECLINED),
        (402, "INSUFFICIENT_FUNDS", None, BAD, Outcome.DECLINED),
        (409, "INSUFFICIENT_STOCK", None, SCARCE, Outcome.SOLD_OUT),
        (503, "OVERLOADED", "1", GOOD, Outcome.UNKNOWN),
        (504, "DEADLINE_EXCEEDED", "1", GOOD, Outcome.UNKNOWN),
        (429, "BUSY", "1", GOOD, Outcome.UNKNOWN),
        (502, "GATEWAY_AWAY", "1", GOOD, Outcome.UNKNOWN),  # the balancer's
        (0, "", None, GOOD, Outcome.UNKNOWN),
    ],
)
def test_an_answer_that_the_contract_allows_is_no_failure(
    status: int, code: str, retry_after: str | None, expected: Expectation, outcome: Outcome
) -> None:
    assert judged(status, code, retry_after, expected) is outcome


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "expected"),
    [
        (201, "", None, BAD),  # sold with a card that was declined
        (402, "CARD_DECLINED", None, GOOD),
        (409, "INSUFFICIENT_STOCK", None, GOOD),  # of what cannot run out
        (409, "ORDER_BUSY", None, SCARCE),
        (503, "OVERLOADED", None, GOOD),  # it must say when to come back
        (500, "INTERNAL", None, GOOD),
        (502, "", None, GOOD),
        (200, "", None, GOOD),
        (400, "INVALID", None, GOOD),
        (401, "", None, GOOD),
        (422, "IDEMPOTENCY_KEY_REUSED", None, GOOD),
    ],
)
def test_an_answer_that_breaks_the_contract_is_a_failure(
    status: int, code: str, retry_after: str | None, expected: Expectation
) -> None:
    assert judged(status, code, retry_after, expected) is Outcome.BROKEN


@pytest.mark.parametrize(
    ("state", "expected", "outcome"),
    [
        ("pending", GOOD, Outcome.ACCEPTED),
        ("confirmed", GOOD, Outcome.CONFIRMED),
        ("confirmed", BAD, Outcome.BROKEN),
        ("rejected", BAD, Outcome.DECLINED),
        ("rejected", SCARCE, Outcome.SOLD_OUT),
        ("rejected", GOOD, Outcome.BROKEN),
    ],
)
def test_the_end_of_an_order_that_was_accepted_is_judged_alike(
    state: str, expected: Expectation, outcome: Outcome
) -> None:
    assert judged_end({"state": state}, expected) is outcome


def written(*outcomes: Outcome, stock: int = 2, nobody_else_buys: bool = True) -> Books:
    books = Books(stock={"HOT": stock}, nobody_else_buys=nobody_else_buys)
    for number, outcome in enumerate(outcomes):
        body = {"items": [{"sku": "HOT", "quantity": 1}]}
        books.write(Intent(f"key-{number}", Token(lambda: "token"), body, SCARCE, outcome))
    return books


def test_books_in_which_everything_ended_and_adds_up_have_no_findings() -> None:
    books = written(Outcome.CONFIRMED, Outcome.CONFIRMED, Outcome.SOLD_OUT, Outcome.DECLINED)
    assert books.findings({"HOT": 0}) == []


def test_more_sold_than_there_was_is_found() -> None:
    (found,) = written(*[Outcome.CONFIRMED] * 3).findings({"HOT": 0})
    assert "oversold" in found


def test_stock_below_zero_is_found() -> None:
    (found,) = written(Outcome.CONFIRMED).findings({"HOT": -1})
    assert "oversold" in found


def test_units_that_a_declined_order_did_not_give_back_are_found() -> None:
    (found,) = written(Outcome.DECLINED).findings({"HOT": 1})
    assert "does not add up" in found


def test_what_others_buy_meanwhile_is_no_finding() -> None:
    assert written(Outcome.CONFIRMED, nobody_else_buys=False).findings({"HOT": 0}) == []


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.ACCEPTED])
def test_an_order_that_has_not_ended_is_found(outcome: Outcome) -> None:
    (found,) = written(outcome).findings({"HOT": 2})
    assert "has not ended" in found


def test_an_order_that_broke_the_contract_is_found() -> None:
    (found,) = written(Outcome.BROKEN).findings({"HOT": 2})
    assert "broke the contract" in found


def test_a_run_without_orders_proves_nothing_and_says_so() -> None:
    (found,) = written().findings({"HOT": 2})
    assert "no order" in found


def test_many_whose_token_was_refused_log_in_once() -> None:
    numbers = itertools.count()
    token = Token(lambda: f"token-{next(numbers)}")
    refused = token.value
    for _ in range(3):
        token.renew(refused)
    assert token.value == "token-1"
    token.renew(token.value)
    assert token.value == "token-2"


@pytest.mark.parametrize("name", ["locustfile.py", "calls.py"])
def test_what_needs_locust_compiles(name: str) -> None:
    assert compileall.compile_file(LOAD / name, quiet=2, force=True)
