"""Customers for a running suite: `make load ARGS="--users 20 --run-time 30s"`.

Three scenarios: a normal checkout, a card that is declined, and many who want the same few units. Only what
breaks the contract is a failure. In the end every order must have ended, and nothing may be oversold; else
the exit code is 1. See deploy/load/README.md.
"""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, between, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner

# Locust puts this folder on the path, wherever it is mounted; the type checker knows the whole tree.
if TYPE_CHECKING:
    from deploy.load.books import (
        NO_ANSWER,
        TOO_BUSY,
        UNAUTHORIZED,
        Books,
        Expectation,
        Intent,
        Outcome,
        Token,
        judged,
        judged_end,
    )
    from deploy.load.calls import API, REQUEST_SECONDS, Calls, SetUpError, pause
else:
    from books import (
        NO_ANSWER,
        TOO_BUSY,
        UNAUTHORIZED,
        Books,
        Expectation,
        Intent,
        Outcome,
        Token,
        judged,
        judged_end,
    )
    from calls import API, REQUEST_SECONDS, Calls, SetUpError, pause

PASSWORD = "correct horse battery"  # noqa: S105 - of customers that this run makes
ADMIN_EMAIL = "SAGACITY_LOAD_ADMIN_EMAIL"
ADMIN_PASSWORD = "SAGACITY_LOAD_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
HOT_STOCK = "SAGACITY_LOAD_HOT_STOCK"
DEFAULT_HOT_STOCK = 50
ENOUGH_ORDERS = "SAGACITY_LOAD_ORDERS"
MAX_NUMBER = 1_000_000
PRODUCTS = 10
PRODUCT_STOCK = 1_000_000
LINES_MAX = 3
CURRENCY = "EUR"
WAIT_SECONDS = 20
# Together the bounds of an order: asked for, asked again, looked at, and once more after the end of the run.
ATTEMPTS_MAX = 5
LOOKS_MAX = 60
LOOK_SECONDS = 1.0
CLOSING_ROUNDS = 30
CLOSING_CONCURRENCY = 16
GOOD_CARD, BAD_CARD = "tok_success", "tok_declined"
ADDRESS = {
    "recipient": "Load",
    "line1": "Hauptstrasse 1",
    "city": "Berlin",
    "postal_code": "10827",
    "country_code": "DE",
}

BOOKS = Books()
SHOP: dict[str, Any] = {"skus": [], "hot": "", "enough": MAX_NUMBER, "ending": False}
PLACED: Counter[str] = Counter()


def setting(name: str) -> str:
    """An environment variable, or what the file holds that `<name>_FILE` names."""
    file = os.environ.get(f"{name}_FILE")  # noqa: TID251 - chassis.config is not where locust runs
    if file:
        return Path(file).read_text("utf-8").strip()
    return os.environ.get(name, "")  # noqa: TID251 - the same


# Before and after the run: not counted.


def make_shop(calls: Calls) -> None:
    """Products of this run alone where an administrator was named, else those that are there."""
    SHOP["enough"] = number_of(ENOUGH_ORDERS, MAX_NUMBER)
    email, password = setting(ADMIN_EMAIL), setting(ADMIN_PASSWORD)
    if email and password:
        token = calls.done("POST", "/sessions", body={"email": email, "password": password})["access_token"]
        run = uuid.uuid4().hex[:8].upper()  # noqa: TID251 - chassis.ids is not where locust runs
        stock = {f"LOAD-{run}-{number}": PRODUCT_STOCK for number in range(PRODUCTS)}
        stock[f"LOAD-{run}-HOT"] = number_of(HOT_STOCK, DEFAULT_HOT_STOCK)
        for sku, units in stock.items():
            make_product(calls, token, sku, units)
        BOOKS.stock, BOOKS.nobody_else_buys = stock, True
    else:
        products = calls.done("GET", "/products?page_size=200")["items"]
        BOOKS.stock = {each["sku"]: each["available"] for each in products if each["available"] > 0}
        if not BOOKS.stock:
            raise SetUpError(
                f"nothing is for sale; name an administrator by {ADMIN_EMAIL}, or stock products"
            )
    SHOP["hot"] = min(BOOKS.stock, key=lambda sku: BOOKS.stock[sku])
    SHOP["skus"] = [sku for sku in BOOKS.stock if sku != SHOP["hot"]] or [SHOP["hot"]]


def number_of(name: str, default: int) -> int:
    """A variable that is a number from 1 on."""
    text = setting(name) or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MAX_NUMBER):
        raise SetUpError(f"{name} must be 1 to {MAX_NUMBER}")
    return int(text)


def make_product(calls: Calls, token: str, sku: str, units: int) -> None:
    """One product with stock."""
    price = {"currency": CURRENCY, "amount_minor": 1_000}
    product = {"sku": sku, "name": sku, "description": "", "category": "load", "unit_price": price}
    calls.done("POST", "/products", token=token, key=sku, body=product)
    change = {"delta": units, "reason": "load"}
    calls.done("POST", f"/products/{sku}/stock-adjustments", token=token, key=f"{sku}-stock", body=change)


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Make the shop; a run that has none ends at once."""
    if isinstance(environment.runner, MasterRunner):
        return
    # Locust's web page starts one run after the other.
    BOOKS.clear()
    PLACED.clear()
    SHOP.update(skus=[], hot="", ending=False)
    try:
        make_shop(Calls(str(environment.host)))
    except SetUpError as error:
        # Who comes to buy finds no shop, and ends the run: from here it would go on to its beginning.
        say(environment, [str(error)])


@events.test_stop.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Ask for the end of every order that has none yet, and look at the stock."""
    if isinstance(environment.runner, MasterRunner) or not BOOKS.stock:
        return
    calls = Calls(str(environment.host))
    try:
        close_books(calls)
        left = {sku: calls.done("GET", f"/products/{sku}")["available"] for sku in BOOKS.stock}
    except SetUpError as error:
        say(environment, [str(error)])
        return
    counted = ", ".join(f"{BOOKS.count(each)} {each}" for each in Outcome if BOOKS.count(each))
    hot = f"units of the hot SKU sold: {BOOKS.sold(SHOP['hot'])} of {BOOKS.stock[SHOP['hot']]}"
    sys.stdout.write(f"load: orders: {len(BOOKS.intents)} ({counted}); {hot}\n")
    say(environment, BOOKS.findings(left))


def say(environment: Environment, wrong: list[str]) -> None:
    """Print what is wrong, and let the process end with 1."""
    for sentence in wrong:
        sys.stdout.write(f"load: {sentence}\n")
    if wrong:
        environment.process_exit_code = 1


def close_books(calls: Calls) -> None:
    """Send open orders again under their keys, until each has ended or the rounds are over."""
    for _ in range(CLOSING_ROUNDS):
        still_open = list(BOOKS.open())
        if not still_open:
            return
        Pool(CLOSING_CONCURRENCY).map(lambda intent: look_again(calls, intent), still_open)
        if any(BOOKS.open()):
            gevent.sleep(LOOK_SECONDS)


def look_again(calls: Calls, intent: Intent) -> None:
    """One more look at an order, or the same request once more."""
    if intent.order_id:
        answer = calls.ask_for(intent.token, "GET", f"/orders/{intent.order_id}")
        if answer.ok:
            intent.outcome = judged_end(answer.json(), intent.expected)
        return
    answer = calls.ask_for(intent.token, "POST", "/orders", key=intent.key, body=intent.body)
    note(intent, answer.status_code, answer.json(), answer.headers.get("Retry-After"))


def note(intent: Intent, status: int, body: dict[str, Any], retry_after: str | None) -> Outcome:
    """Write down what an answer to an order says."""
    intent.outcome = judged(status, str(body.get("code", "")), retry_after, intent.expected)
    intent.order_id = body.get("order_id") or body.get("id") or intent.order_id
    return intent.outcome


def end_run(environment: Environment) -> None:
    """End the run before its time."""
    if environment.runner is not None and not SHOP["ending"]:
        SHOP["ending"] = True
        # In a greenlet of its own: a customer that ends all others ends itself, and never sees the books.
        gevent.spawn(environment.runner.quit)


# The load.


class Customer(FastHttpUser):
    """Registers, logs in, and orders; what it orders is the scenario's."""

    abstract = True
    network_timeout = REQUEST_SECONDS
    connection_timeout = REQUEST_SECONDS
    card = GOOD_CARD
    wants_the_few = False
    token: Token
    address_id = ""
    payment_method_id = ""

    def on_start(self) -> None:
        """Become a customer with an address and a card."""
        if not SHOP["skus"]:
            end_run(self.environment)
            raise StopUser
        calls = Calls(str(self.host))
        email = f"load-{uuid.uuid4().hex}@sagacity.example"  # noqa: TID251 - as above
        registration = {"email": email, "password": PASSWORD, "display_name": "Load"}
        login = {"email": email, "password": PASSWORD}
        try:
            calls.done("POST", "/users", key=email, body=registration)
            self.token = Token(lambda: str(calls.done("POST", "/sessions", body=login)["access_token"]))
            mine = {"token": self.token.value, "key": email}
            self.address_id = calls.done("POST", "/users/me/addresses", body=ADDRESS, **mine)["id"]
            card = {"provider_token": self.card}
            self.payment_method_id = calls.done("POST", "/users/me/payment-methods", body=card, **mine)["id"]
        except SetUpError as error:
            say(self.environment, [f"a customer could not be set up: {error}"])
            raise StopUser from None

    def place(self, items: dict[str, int]) -> None:
        """Place one order and see to its end, within the bounds."""
        body = {
            "items": [{"sku": sku, "quantity": quantity} for sku, quantity in items.items()],
            "currency": CURRENCY,
            "address_id": self.address_id,
            "payment_method_id": self.payment_method_id,
        }
        key = f"load-{uuid.uuid4().hex}"  # noqa: TID251 - as above
        # Products that were there before are somebody else's too, and may run out.
        may_be_sold_out = self.wants_the_few or not BOOKS.nobody_else_buys
        expected = Expectation(card_is_good=self.card == GOOD_CARD, may_be_sold_out=may_be_sold_out)
        intent = BOOKS.write(Intent(key, self.token, body, expected))
        for _ in range(ATTEMPTS_MAX):
            if self._ask(intent) is not Outcome.UNKNOWN:
                break
        for _ in range(LOOKS_MAX):
            if intent.outcome is not Outcome.ACCEPTED:
                break
            time.sleep(LOOK_SECONDS)
            self._look(intent)
        PLACED[type(self).__name__] += 1
        scenarios = self.environment.user_classes
        if all(PLACED[each.__name__] >= SHOP["enough"] for each in scenarios):
            end_run(self.environment)

    def _ask(self, intent: Intent) -> Outcome:
        wait = [0.0]

        def judge(answer: Any) -> Outcome:
            retry_after = answer.headers.get("Retry-After") if answer.headers else None
            wait[0] = pause(retry_after)
            return note(intent, answer.status_code, json_of(answer), retry_after)

        headers = {"Idempotency-Key": intent.key, "Prefer": f"wait={WAIT_SECONDS}"}
        name = f"POST /orders ({type(self).__name__})"
        outcome = self._asked("POST", "/orders", name, judge, headers=headers, json=intent.body)
        if outcome is Outcome.UNKNOWN:
            time.sleep(wait[0])
        return outcome

    def _look(self, intent: Intent) -> None:
        def judge(answer: Any) -> Outcome:
            # 404: accepted, and not written yet.
            if answer.status_code == 200:
                intent.outcome = judged_end(json_of(answer), intent.expected)
                return intent.outcome
            passing = answer.status_code in {NO_ANSWER, 404, *TOO_BUSY}
            return Outcome.UNKNOWN if passing else Outcome.BROKEN

        self._asked("GET", f"/orders/{intent.order_id}", "GET /orders/{id}", judge)

    def _asked(
        self,
        method: str,
        path: str,
        name: str,
        judge: Callable[[Any], Outcome],
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> Outcome:
        """Ask and judge; a token that is refused is renewed, once."""
        for may_log_in in (True, False):
            used = self.token.value
            mine = (headers or {}) | {"Authorization": f"Bearer {used}"}
            with self.client.request(
                method, API + path, headers=mine, name=name, catch_response=True, **more
            ) as answer:
                if answer.status_code != UNAUTHORIZED or not may_log_in:
                    outcome = judge(answer)
                    told(answer, outcome)
                    return outcome
                answer.success()
            try:
                self.token.renew(used)
            except SetUpError:
                break
        # It could not log in now: the order stays open, and is asked for again.
        return Outcome.UNKNOWN


def json_of(answer: Any) -> dict[str, Any]:
    """The answer's body, empty where it is none."""
    try:
        body = answer.json()
    except (ValueError, TypeError, AttributeError):
        return {}
    return body if isinstance(body, dict) else {}


def told(answer: Any, outcome: Outcome) -> None:
    """Tell locust whether an answer kept the contract."""
    if outcome is Outcome.BROKEN:
        answer.failure(f"{answer.status_code} {json_of(answer).get('code', '')}".strip())
    else:
        answer.success()


def some() -> dict[str, int]:
    """One to three lines of the products that do not run out."""
    lines = random.randint(1, min(LINES_MAX, len(SHOP["skus"])))  # noqa: S311 - what is bought is no secret
    return {sku: random.randint(1, 2) for sku in random.sample(SHOP["skus"], lines)}  # noqa: S311


class Checkout(Customer):
    """Orders that are paid: one to three lines."""

    weight = 7
    wait_time = between(0.5, 2)

    @task
    def check_out(self) -> None:
        """Buy."""
        self.place(some())


class Declined(Customer):
    """Orders whose card is declined, after their stock was taken: they are undone."""

    weight = 2
    wait_time = between(0.5, 2)
    card = BAD_CARD

    @task
    def fail_to_pay(self) -> None:
        """Try to buy."""
        self.place(some())


class HotSku(Customer):
    """Many who want one of a few units, at the same time."""

    weight = 3
    wait_time = between(0, 0.2)
    wants_the_few = True

    @task
    def grab(self) -> None:
        """Buy one of the few."""
        self.place({SHOP["hot"]: 1})
