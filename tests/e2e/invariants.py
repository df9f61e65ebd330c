"""The invariants of the design, provable at any moment: every check finds only what breaks one.

It reads the five databases, the provider's own ledger, Kafka's log and the clients' journal, and writes
nothing. What compares databases is meant for a quiet moment: `prove_everything` waits for it first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from deploy.local.kafka import ForeignBroker
from deploy.local.suite import Suite
from tests.e2e.books import Books, read_books, select
from tests.e2e.eventually import eventually
from tests.e2e.queries import QUERIES
from tests.e2e.shoppers import Journal, Outcome

SENT = {"SHIPPED", "DELIVERED"}
SOLD = {"CONFIRMED", *SENT}
UNDONE = {"REJECTED", "CANCELLED"}
OPEN = {"PENDING", "CONFIRMED"}
MAX_SHOWN = 20

# What orders have yet to do by themselves.
ASKED_FOR = """
    SELECT 'cancellation of ' || order_id FROM cancellation_request WHERE state = 'WAITING'
    UNION ALL SELECT 'refund ' || refund_id FROM provider_refund WHERE state = 'WAITING'"""
# By the consumers of choreographies; who follows their own context's facts is not waited for here.
APPLIED = """
    SELECT aggregate || ' ' || sequence FROM inbox WHERE NOT halted
        AND consumer IN
            ('users.customer-statistics', 'orders.customer-deactivations', 'orders.provider-refunds')"""
HAPPENED = {
    "orders": "SELECT 'sagacity.orders.v1/order/' || id || ' ' || sequence FROM orders",
    "users": "SELECT 'sagacity.users.v1/user/' || id || ' ' || version FROM users",
    "payments": """
        SELECT 'sagacity.payments.v1/payment/' || id || ' ' || sequence FROM payment WHERE sequence > 0""",
}


class Broken(NamedTuple):
    """An invariant, and what breaks it."""

    invariant: str
    subject: str


async def prove_everything(suite: Suite, journal: Journal) -> None:
    """Wait until nothing is under way any more (P8), then prove every invariant.

    Raises:
        AssertionError: naming what has not come to its end in time, or each invariant and what breaks it.
    """
    await eventually(lambda: unsettled(suite), until=lambda under_way: not under_way)
    broken = await broken_invariants(suite, journal)
    assert broken == [], f"{len(broken)} broken, the first: {broken[:MAX_SHOWN]}"


async def unsettled(suite: Suite) -> list[str]:
    """Return what only time can end: open sagas and requests, events not published or not applied."""
    under_way = await select(
        suite.dsn("sagas"),
        "SELECT 'saga ' || id FROM saga WHERE state IN ('RUNNING', 'COMPENSATING', 'WAITING')",
    )
    for database in ("orders", "inventory", "payments", "users"):
        under_way += await select(suite.dsn(database), "SELECT type || ' ' || aggregateid FROM outbox")
    under_way += await select(suite.dsn("orders"), ASKED_FOR)
    applied = {
        fact for database in ("users", "orders") for fact in await select(suite.dsn(database), APPLIED)
    }
    happened = [
        fact for database, facts in HAPPENED.items() for fact in await select(suite.dsn(database), facts)
    ]
    return under_way + [fact for fact in happened if fact not in applied]


async def broken_invariants(suite: Suite, journal: Journal) -> list[Broken]:
    """Return each invariant that does not hold now, with what breaks it; nothing where all is well."""
    broken = [
        Broken(invariant, subject)
        for database, queries in QUERIES.items()
        for invariant, query in queries.items()
        for subject in await select(suite.dsn(database), query)
    ]
    books = await read_books(suite)
    shared_broker = isinstance(suite.broker, ForeignBroker)
    for found in (
        _orders_and_their_sagas(books),
        _refunds(books),
        _money(books),
        _stock(books),
        _tombstones(books),
        _clients(books, journal),
        _requests(books, journal),
        _events(books, shared_broker=shared_broker),
        _statistics(books),
        _deactivated(books),
    ):
        broken += found
    return broken


def _orders_and_their_sagas(books: Books) -> Iterator[Broken]:
    by_saga = {order["saga_id"]: order for order in books.orders.values()}
    done: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for saga_id, saga in books.sagas.items():
        done[saga["key"]][saga["kind"]] += saga["state"] == "COMPLETED"
        if saga["kind"] == "place_order":
            state = by_saga.get(saga_id, {}).get("state")
            ends = {"COMPLETED": SOLD | {"CANCELLED"}, "COMPENSATED": {"REJECTED"}}
            if state not in ends.get(saga["state"], {"PENDING", None}):
                yield Broken("I5", f"saga {saga_id} is {saga['state']}, its order {state}")
    for order_id, order in books.orders.items():
        if books.sagas.get(order["saga_id"], {}).get("key") != order_id:
            yield Broken("I3", f"order {order_id} is not its saga's")
        expected = {"cancel_order": order["state"] == "CANCELLED", "fulfil_order": order["state"] in SENT}
        for kind, times in expected.items():
            if done[order_id][kind] != times:
                yield Broken(
                    "I5", f"order {order_id} is {order['state']}: {kind}, {done[order_id][kind]} done"
                )


def _refunds(books: Books) -> Iterator[Broken]:
    done = {
        saga_id
        for saga_id, saga in books.sagas.items()
        if (saga["kind"], saga["state"]) == ("refund_order", "COMPLETED")
    }
    # A refund of no saga is the provider's own.
    recorded = Counter(refund["saga_id"] for refund in books.refunds.values() if refund["saga_id"])
    for saga_id in done ^ recorded.keys():
        yield Broken("I5", f"saga {saga_id}: done, or a refund of it on record, but not both")
    kept = {refund_id: refund["amount_minor"] for refund_id, refund in books.refunds.items()}
    kept |= books.refunds_undone
    for refund_id in kept.keys() | books.refunds_made.keys():
        made = books.refunds_made.get(refund_id)
        if kept.get(refund_id) != made:
            yield Broken("I6", f"refund {refund_id}: {kept.get(refund_id)} on record, {made} was made")
    for refund_id, refund in books.refunds.items():
        saga_id = refund["saga_id"]
        if saga_id and books.sagas.get(saga_id, {}).get("key") != refund["order_id"]:
            yield Broken("I3", f"refund {refund_id} is not of its saga's order")


def _money(books: Books) -> Iterator[Broken]:
    for order_id, order in books.orders.items():
        money = books.money(order_id)
        net = money["CAPTURE"] - money["REFUND"]
        held = money["AUTHORIZATION"] - money["VOID"] - money["CAPTURE"]
        if order["state"] in SOLD:
            due = order["total_minor"] - order["refunded_minor"]
            # What is only authorised may be so until it is on its way.
            ways = {(due, 0)} if order["state"] in SENT else {(due, 0), (0, due)}
            if (net, held) not in ways:
                yield Broken("I6", f"order {order_id}: {due} due, {net} charged, {held} held")
        if order["state"] in UNDONE and (net, held) != (0, 0):
            yield Broken("I7", f"order {order_id} is undone: {net} charged, {held} held")


def _stock(books: Books) -> Iterator[Broken]:
    refunded: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for refund in books.refunds.values():
        refunded[refund["order_id"]].update(refund["units"])
    for order_id, order in books.orders.items():
        reservation = books.reservations.get(order_id, {"state": None, "lines": None, "returned": {}})
        if order["state"] in SOLD and reservation["state"] not in {"COMMITTED", "RETURNED"}:
            yield Broken("I6", f"order {order_id} is sold, its stock {reservation['state']}")
        if order["state"] in UNDONE and reservation["state"] in {"HELD", "COMMITTED"}:
            yield Broken("I7", f"order {order_id} is undone, its stock {reservation['state']}")
        if reservation["lines"] not in (None, order["items"]):
            yield Broken("I14", f"order {order_id}: ordered {order['items']}, held {reservation['lines']}")
        # Units come back only with a refund that was for them.
        if any(units > refunded[order_id][sku] for sku, units in reservation["returned"].items()):
            yield Broken(
                "I6", f"order {order_id}: {reservation['returned']} came back for {dict(refunded[order_id])}"
            )
    for order_id in (books.reservations.keys() | books.payments.keys()) - books.orders.keys():
        yield Broken("I3", f"stock or money of order {order_id}, which does not exist")


def _tombstones(books: Books) -> Iterator[Broken]:
    for database, saga_id, step in books.tombstones:
        order_id = books.sagas.get(saga_id, {}).get("key", "")
        money = books.money(order_id)
        effect = {
            "reservation": order_id in books.reservations,
            "stock": books.reservations.get(order_id, {}).get("state") == "COMMITTED",
            "payment": money["CAPTURE"] != money["REFUND"],
            "order": books.orders.get(order_id, {}).get("state") != "REJECTED",
        }
        if effect.get(step, True):
            yield Broken("I16", f"{database}: saga {saga_id}, {step} has a tombstone and an effect")


def _clients(books: Books, journal: Journal) -> Iterator[Broken]:
    wanted = {(intent.user_id, intent.key) for intent in journal.intents}
    for intent in journal.intents:
        name = f"key {intent.key} of {intent.user_id}"
        order_id = books.order_of_key.get((intent.user_id, intent.key))
        if intent.order_ids - {order_id}:
            yield Broken("I2", f"{name}: the client was told of {intent.order_ids}, the key has {order_id}")
        if intent.outcome is Outcome.OK and order_id not in books.orders:
            yield Broken("I1", f"{name}: acknowledged, and there is no order")
        state = books.orders.get(order_id or "", {}).get("state")
        for answer in intent.answers:
            told = {201: SOLD | {"CANCELLED"}, 402: {"REJECTED"}, 409: {"REJECTED"}}.get(answer.status)
            if told and answer.order_id and state not in told:
                yield Broken("P5", f"{name}: answered with {answer.status}, the order is {state}")
    key_of_order = {order_id: key for key, order_id in books.order_of_key.items()}
    for order_id, order in books.orders.items():
        if order["user_id"] in journal.users and key_of_order.get(order_id) not in wanted:
            yield Broken("I3", f"order {order_id}, which no client asked for")


def _requests(books: Books, journal: Journal) -> Iterator[Broken]:
    told = {
        "CancelOrder": {"CANCELLED", "REJECTED"},
        "RefundOrder": SOLD | {"CANCELLED"},
        "FulfilOrder": SENT,
    }
    for request in journal.requests:
        name = f"{request.rpc} with key {request.key} of {request.user_id}"
        saga_id = books.saga_of_request.get((request.user_id, request.rpc, request.key))
        saga = books.sagas.get(saga_id or "", {"key": request.order_id, "state": None})
        state = books.orders.get(request.order_id, {}).get("state")
        if saga["key"] != request.order_id:
            yield Broken("I2", f"{name}: of order {request.order_id}, the key has {saga['key']}")
        for answer in request.answers:
            if answer.outcome is Outcome.OK and saga_id is None:
                yield Broken("I1", f"{name}: acknowledged, and there is no saga")
            if answer.status == 200 and state not in told[request.rpc]:
                yield Broken("P5", f"{name}: answered with 200, the order is {state}")
            if answer.status == 409 and answer.order_id and saga["state"] != "COMPENSATED":
                yield Broken("P5", f"{name}: refused, its saga is {saga['state']}")
            refunds = answer.json["refunds"] if answer.status == 200 else ()
            for lost in {refund["id"] for refund in refunds} - books.refunds.keys():
                yield Broken("I1", f"{name}: told of refund {lost}, which is not on record")


def _events(books: Books, *, shared_broker: bool) -> Iterator[Broken]:
    seen: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    partitions: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for event in books.events:
        name = (event.topic, event.aggregate)
        partitions[name] |= {event.partition} if event.partition is not None else set()
        if event.sequence not in seen[name]:
            seen[name].append(event.sequence)
    for name, last in books.facts.items():
        if sorted(seen[name]) != list(range(1, last + 1)):
            yield Broken("I20", f"{name}: {last} facts, events {sorted(seen[name])}")
        elif seen[name] != sorted(seen[name]):
            yield Broken("I22", f"{name}: first occurrences {seen[name]}")
        if len(partitions[name]) > 1:
            yield Broken("I22", f"{name} is in partitions {partitions[name]}")
    # Of a broker that others use, too, nobody knows whose an unknown aggregate is.
    for name in () if shared_broker else seen.keys() - books.facts.keys():
        yield Broken("I20", f"{name}: events of what does not exist")


def _statistics(books: Books) -> Iterator[Broken]:
    expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for order in books.orders.values():
        counts = expected[order["user_id"]]
        counts["placed"] += 1
        counts["confirmed"] += order["state"] in SOLD | {"CANCELLED"}
        counts["rejected"] += order["state"] == "REJECTED"
        counts["cancelled"] += order["state"] == "CANCELLED"
        # What went back is not spent: refunds, and all of what was cancelled.
        if order["state"] in SOLD:
            counts[f"spent {order['currency_code']}"] += order["total_minor"] - order["refunded_minor"]
    for user_id, counts in expected.items():
        if +books.statistics[user_id] != +counts:
            yield Broken(
                "I23", f"user {user_id}: {dict(counts)} happened, {dict(books.statistics[user_id])} counted"
            )


def _deactivated(books: Books) -> Iterator[Broken]:
    for order_id, order in books.orders.items():
        if order["user_id"] in books.deactivated and order["state"] in OPEN:
            yield Broken("I28", f"order {order_id} of a deactivated user is {order['state']}")
