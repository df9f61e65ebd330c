"""Orders while processes are killed, stopped and cut off: nothing is lost, and nothing happens twice.

Each test sees to it that its fault has fired, and ends with the proof of all invariants.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import pytest

from chassis.crash_points import VARIABLE as CRASH_AT
from chassis.ids import new_id
from deploy.local.kafka import ApacheKafka
from tests.e2e.books import rows, select
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import NO_ANSWER, Answer, Market, Outcome, Shopper

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ORDERS_AT_ONCE = 8
WORKERS = 4
ENOUGH = 4
MAX_ORDERS_OF_A_WORKER = 400
REPLICA = "orchestrator"
OTHER_REPLICA = "orchestrator-2"


async def crash(market: Market, name: str) -> None:
    """Wait until the crash point in process `name` has fired."""

    async def exit_code() -> int | None:
        return market.suite.process(name).exit_code

    assert await eventually(exit_code, until=lambda code: code is not None) == -signal.SIGKILL


async def start_again(market: Market, name: str) -> None:
    market.suite.start_process(name)
    await market.suite.wait_ready(name)


async def sagas_of(market: Market, shopper: Shopper) -> list[dict[str, object]]:
    """The customer's sagas: order, state, epoch, and the steps whose call is intended."""
    return await rows(
        market.suite.dsn("sagas"),
        """SELECT key::text AS order_id, state, epoch, array(
               SELECT DISTINCT step FROM saga_event WHERE saga_id = id AND op = 'do') AS steps
           FROM saga WHERE context ->> 'user_id' = %(user_id)s""",
        user_id=shopper.user_id,
    )


async def movements(market: Market, shopper: Shopper) -> list[str]:
    """What the provider did for a customer, one entry an operation."""
    return await select(
        market.suite.dsn("payments"),
        "SELECT kind FROM provider_simulation.ledger JOIN payment ON payment.id = payment_id"
        " WHERE user_id = %(user_id)s ORDER BY kind",
        user_id=shopper.user_id,
    )


@pytest.mark.parametrize(
    ("crash_at", "token", "status"),
    [
        ("executor.before_call.payment.do:1", "tok_success", 201),
        ("executor.after_call.payment.do:1", "tok_success", 201),
        ("executor.after_call.confirmation.do:1", "tok_success", 201),
        ("executor.after_call.reservation.undo:1", "tok_declined", 402),
    ],
)
async def test_an_orchestrator_that_dies_within_an_order_finishes_it_after_its_restart(
    storm: Market, crash_at: str, token: str, status: int
) -> None:
    """P2, P5, P8, F1."""
    shopper, sku = await storm.shopper(token), await storm.product(stock=5)
    await storm.suite.stop_process(OTHER_REPLICA)  # nobody else may take the order over
    await storm.suite.restart(REPLICA, {CRASH_AT: crash_at})
    placing = asyncio.create_task(shopper.insist({sku: 2}, key=str(new_id())))
    await crash(storm, REPLICA)
    (saga,) = await sagas_of(storm, shopper)
    assert saga["state"] in {"RUNNING", "COMPENSATING"}
    if "before_call.payment" in crash_at:
        assert await storm.stock(sku) == (5, 2)
        assert await movements(storm, shopper) == []
    await start_again(storm, REPLICA)
    answer = await placing
    assert (answer.status, answer.order_id) == (status, saga["order_id"])
    assert await storm.stock(sku) == ((3, 0) if status == 201 else (5, 0))
    assert await movements(storm, shopper) == (["AUTHORIZATION", "CAPTURE"] if status == 201 else [])
    await prove_everything(storm.suite, storm.journal)


@pytest.mark.parametrize("crash_at", ["payments.charge.after_provider:1", "payments.charge.after_commit:1"])
async def test_payments_that_die_after_the_charge_have_charged_once(storm: Market, crash_at: str) -> None:
    """P1, P2, F2."""
    shopper, sku = await storm.shopper(), await storm.product(stock=5)
    await storm.suite.restart("payments", {CRASH_AT: crash_at})
    placing = asyncio.create_task(shopper.insist({sku: 1}, key=str(new_id())))
    await crash(storm, "payments")
    assert await movements(storm, shopper) == ["AUTHORIZATION", "CAPTURE"]
    await start_again(storm, "payments")
    assert (await placing).status == 201
    assert await movements(storm, shopper) == ["AUTHORIZATION", "CAPTURE"]
    await prove_everything(storm.suite, storm.journal)


@pytest.mark.kafka
async def test_orders_go_on_without_kafka_and_their_events_arrive_later(
    storm: Market, kafka_jars: object
) -> None:
    """P7, F18, I20, I22."""
    broker = storm.suite.broker
    assert isinstance(broker, ApacheKafka)
    shopper, sku = await storm.shopper(), await storm.product(stock=5)
    broker.kill()
    answers = [await shopper.insist({sku: 1}, key=str(new_id())) for _ in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 201]
    waiting = await select(storm.suite.dsn("orders"), "SELECT aggregateid FROM outbox ORDER BY position")
    assert waiting == [answer.order_id for answer in answers for _ in ("OrderPlaced", "OrderConfirmed")]
    assert (await shopper.get("/users/me/statistics"))["orders_placed"] == 0
    broker.launch()
    await asyncio.to_thread(broker.wait_ready)
    await eventually(
        lambda: shopper.get("/users/me/statistics"), until=lambda counted: counted["orders_confirmed"] == 3
    )
    await prove_everything(storm.suite, storm.journal)


async def both_replicas_take_orders(storm: Market) -> None:
    """Wait until the gateway is connected again with the one that was away: it hands orders out in turn."""
    shopper, sku = await storm.shopper(), await storm.product(stock=10_000)

    async def owners_of_two_orders() -> int:
        answers = [await shopper.insist({sku: 1}, key=str(new_id())) for _ in range(2)]
        owners = await select(
            storm.suite.dsn("sagas"),
            "SELECT DISTINCT owner FROM saga WHERE key = ANY (%(orders)s::uuid[])",
            orders=[answer.order_id for answer in answers],
        )
        return len(owners)

    await eventually(owners_of_two_orders, until=lambda owners: owners == 2)


async def orders_under_way(storm: Market) -> tuple[Shopper, str, list[asyncio.Task[Answer]]]:
    """Place a handful of orders at once, and wait until both replicas drive some that are being paid."""
    shopper, sku = await storm.shopper("tok_slow"), await storm.product(stock=100)
    await both_replicas_take_orders(storm)
    placing = [
        asyncio.create_task(shopper.insist({sku: 1}, key=str(new_id()))) for _ in range(ORDERS_AT_ONCE)
    ]
    await eventually(
        lambda: select(
            storm.suite.dsn("sagas"), "SELECT DISTINCT owner FROM saga WHERE state = 'RUNNING' AND seq > 6"
        ),
        until=lambda owners: len(owners) == 2,
    )
    return shopper, sku, placing


async def check_that_all_were_finished_once(
    storm: Market, shopper: Shopper, sku: str, answers: Sequence[Answer]
) -> None:
    assert [answer.status for answer in answers] == [201] * ORDERS_AT_ONCE
    sagas = await sagas_of(storm, shopper)
    assert len(sagas) == ORDERS_AT_ONCE
    assert any(saga["epoch"] != 1 for saga in sagas), "nothing was taken over: the fault did not fire"
    assert await storm.stock(sku) == (100 - ORDERS_AT_ONCE, 0)
    assert (await movements(storm, shopper)).count("CAPTURE") == ORDERS_AT_ONCE
    await prove_everything(storm.suite, storm.journal)


async def test_a_killed_orchestrators_orders_are_finished_by_the_other(storm: Market) -> None:
    """P5, P6, P8, F1, I17."""
    shopper, sku, placing = await orders_under_way(storm)
    storm.suite.kill(REPLICA)
    await check_that_all_were_finished_once(storm, shopper, sku, await asyncio.gather(*placing))
    assert storm.suite.process(REPLICA).exit_code == -signal.SIGKILL


async def test_a_stopped_orchestrator_hands_its_orders_over(storm: Market) -> None:
    """P9, F22, I17."""
    shopper, sku, placing = await orders_under_way(storm)
    await storm.suite.stop_process(REPLICA)
    assert storm.suite.process(REPLICA).exit_code == 0
    await check_that_all_were_finished_once(storm, shopper, sku, await asyncio.gather(*placing))


async def test_a_client_whose_gateway_died_finds_its_order_by_its_key(storm: Market) -> None:
    """P2, P5, F3."""
    shopper, sku, key = await storm.shopper("tok_slow"), await storm.product(stock=5), str(new_id())
    placing = asyncio.create_task(shopper.place({sku: 1}, key=key))
    (saga,) = await eventually(lambda: sagas_of(storm, shopper))
    storm.suite.kill("gateway")
    assert (await placing).status == NO_ANSWER
    await start_again(storm, "gateway")
    answer = await shopper.insist({sku: 1}, key=key)
    assert (answer.status, answer.order_id) == (201, saga["order_id"])
    assert len((await shopper.get("/orders"))["items"]) == 1
    await prove_everything(storm.suite, storm.journal)


async def order_until(stop: asyncio.Event, shopper: Shopper, sku: str, said: list[int]) -> None:
    for _ in range(MAX_ORDERS_OF_A_WORKER):
        if stop.is_set():
            return
        answer = await shopper.place({sku: 1}, wait_seconds=10)
        said.append(answer.status)
        if answer.outcome is Outcome.UNKNOWN:
            await asyncio.sleep(0.2)  # as its Retry-After asks, only sooner


async def test_a_database_that_crashes_under_load_makes_nobody_believe_what_is_not(storm: Market) -> None:
    """P5, P8, F8: 503 and 504 only, and whoever was told of an order has it."""
    shopper, sku = await storm.shopper(), await storm.product(stock=10_000)
    stop, said = asyncio.Event(), list[int]()

    async def enough_since(mark: int, statuses: set[int]) -> bool:
        return sum(status in statuses for status in said[mark:]) >= ENOUGH

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(order_until(stop, shopper, sku, said))
        await eventually(lambda: enough_since(0, {201}))
        storm.suite.postgres.kill()
        crashed = len(said)
        await eventually(lambda: enough_since(crashed, {503, 504}))
        storm.suite.postgres.launch()
        await asyncio.to_thread(storm.suite.postgres.wait_ready)
        healed = len(said)
        await eventually(lambda: enough_since(healed, {201}))
        stop.set()
    assert set(said) <= {201, 202, 503, 504}
    mine = [intent for intent in storm.journal.intents if intent.user_id == shopper.user_id]
    unknown = [intent for intent in mine if intent.answers[-1].status != 201]
    ends = await asyncio.gather(*(shopper.insist({sku: 1}, key=intent.key) for intent in unknown))
    assert {answer.status for answer in ends} == {201}
    assert await storm.stock(sku) == (10_000 - len(mine), 0)
    await prove_everything(storm.suite, storm.journal)
