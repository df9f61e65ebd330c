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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import requests
from gevent.pool import Pool
from locust import FastHttpUser, between, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner

# Locust puts this folder on the path, wherever it is mounted; the type checker knows the whole tree.
if TYPE_CHECKING:
    from deploy.load.books import Books, Expectation, Intent, Outcome, judged, judged_end
else:
    from books import Books, Expectation, Intent, Outcome, judged, judged_end

API = "/api/v1"
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
REQUEST_SECONDS = 45.0
WAIT_SECONDS = 20
# Together the bounds of an order: asked for, asked again, looked at, and once more after the end of the run.
ATTEMPTS_MAX = 5
RETRY_SECONDS_MAX = 5.0
LOOKS_MAX = 60
LOOK_SECONDS = 1.0
SETUP_ATTEMPTS_MAX = 30
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


class SetUpError(Exception):
    """The run cannot begin; the message says why."""


def setting(name: str) -> str:
    """An environment variable, or what the file holds that `<name>_FILE` names."""
    file = os.environ.get(f"{name}_FILE")  # noqa: TID251 - chassis.config is not where locust runs
    if file:
        return Path(file).read_text("utf-8").strip()
    return os.environ.get(name, "")  # noqa: TID251 - the same


# Before and after the run: not counted.


class Calls:
    """A client of the gateway for what is no load."""

    def __init__(self, host: str) -> None:
        self._url = host.rstrip("/") + API
        self._session = requests.Session()
        # No proxy of the environment: nothing is asked but the host that was named.
        self._session.trust_env = False

    def ask(
        self, method: str, path: str, *, token: str = "", key: str = "", body: Any = None
    ) -> requests.Response:
        """One call, again while the gateway is too busy; SetUpError where it stays so or is not there."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if key:
            headers["Idempotency-Key"] = key
        for _ in range(SETUP_ATTEMPTS_MAX):
            try:
                answer = self._session.request(
                    method, self._url + path, headers=headers, json=body, timeout=REQUEST_SECONDS
                )
            except requests.RequestException as error:
                raise SetUpError(f"{method} {path} got no answer: {error!r}") from None
            if "Retry-After" not in answer.headers:
                return answer
            gevent.sleep(pause(answer.headers["Retry-After"]))
        raise SetUpError(f"{method} {path} was refused {SETUP_ATTEMPTS_MAX} times: too busy")

    def done(self, method: str, path: str, **more: Any) -> Any:
        """The body of an answer that is none of refusal; SetUpError otherwise."""
        answer = self.ask(method, path, **more)
        if not answer.ok:
            raise SetUpError(f"{method} {path} was answered with {answer.status_code}: {answer.text[:200]}")
        return answer.json()


def pause(retry_after: str | None) -> float:
    """How long to wait before asking again, in seconds."""
    asked_for = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
    return min(RETRY_SECONDS_MAX, asked_for)


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
        answer = calls.ask("GET", f"/orders/{intent.order_id}", token=intent.token)
        if answer.ok:
            intent.outcome = judged_end(answer.json(), intent.expected)
        return
    answer = calls.ask("POST", "/orders", token=intent.token, key=intent.key, body=intent.body)
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
    token = ""
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
            self.token = calls.done("POST", "/sessions", body=login)["access_token"]
            mine = {"token": self.token, "key": email}
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
        headers = self._headers() | {"Idempotency-Key": intent.key, "Prefer": f"wait={WAIT_SECONDS}"}
        name = f"POST /orders ({type(self).__name__})"
        path = f"{API}/orders"
        with self.client.post(
            path, json=intent.body, headers=headers, name=name, catch_response=True
        ) as answer:
            retry_after = answer.headers.get("Retry-After") if answer.headers else None
            outcome = note(intent, answer.status_code, json_of(answer), retry_after)
            told(answer, outcome)
        if outcome is Outcome.UNKNOWN:
            time.sleep(pause(retry_after))
        return outcome

    def _look(self, intent: Intent) -> None:
        path, name = f"{API}/orders/{intent.order_id}", "GET /orders/{id}"
        with self.client.get(path, headers=self._headers(), name=name, catch_response=True) as answer:
            # 404: accepted, and not written yet.
            if answer.status_code == 200:
                intent.outcome = judged_end(json_of(answer), intent.expected)
                told(answer, intent.outcome)
            else:
                passing = answer.status_code in {0, 404, 429, 503, 504}
                told(answer, Outcome.UNKNOWN if passing else Outcome.BROKEN)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


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
