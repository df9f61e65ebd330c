"""`sagacity events` against the whole suite as processes: a dead letter from its cause to its end."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx2
import pytest

from chassis.identity import new_key_pair
from tests.integration.cli.conftest import CONSUMER, CONTEXTS, PATIENCE_SECONDS, Deployment, Said

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# More than a page has, and than one call replays.
MANY = 230
WHY = ("--reason", "asked by phone", "--actor", "ops")


async def events(deployment: Deployment, *arguments: str, **variables: str) -> Said:
    return await deployment.run("events", *arguments, **variables)


async def letters(deployment: Deployment, *arguments: str) -> Said:
    return await deployment.run("events", "dead-letters", *arguments)


async def clear(deployment: Deployment, aggregate: str) -> None:
    assert (await letters(deployment, "discard", CONSUMER, aggregate, "2", *WHY)).code == 0
    assert (await letters(deployment, "replay", CONSUMER, aggregate, *WHY)).code == 0


# --- dead letters ---


async def test_a_poison_event_is_shown_replayed_in_vain_discarded_and_over(deployment: Deployment) -> None:
    aggregate = await deployment.poison()
    before = await deployment.caught_up()
    assert (before["dead_letters"], before["halted_keys"], before["state"]) == (2, 1, "running")
    listed = await deployment.letters(aggregate)
    assert [(each["sequence"], each["context"], each["replays"]) for each in listed] == [
        (2, "orders", 0),
        (3, "orders", 0),
    ]
    shown = (await letters(deployment, "show", CONSUMER, aggregate, "--json")).json
    assert shown["payload"] == {"user_id": aggregate.rpartition("/")[2]}
    assert (shown["dead_letter"]["sequence"], shown["dead_letter"]["topic"]) == (2, "sagacity.users.v1")
    third = (await letters(deployment, "show", CONSUMER, aggregate, "3", "--json")).json["dead_letter"]
    assert third["type"] == "sagacity.users.v1.UserRegistered"

    vain = await letters(deployment, "replay", CONSUMER, aggregate, *WHY, "--json")
    assert (vain.code, vain.json["applied"], vain.json["left"]) == (1, 0, 2)
    assert vain.json["error"]
    assert vain.err.endswith("(REPLAY_FAILED)\n")
    assert [each["replays"] for each in await deployment.letters(aggregate)] == [1, 0]

    behind = await letters(deployment, "discard", CONSUMER, aggregate, "3", *WHY)
    assert (behind.code, "(NOT_THE_FIRST)" in behind.err) == (4, True)
    given_up = await letters(deployment, "discard", CONSUMER, aggregate, "2", *WHY, "--json")
    assert (given_up.code, given_up.json) == (0, {"left": 1})
    applied = await letters(deployment, "replay", CONSUMER, aggregate, *WHY, "--json")
    assert (applied.code, applied.json) == (0, {"applied": 1, "left": 0, "error": None})
    after = await deployment.caught_up()
    assert (after["dead_letters"], after["halted_keys"]) == (0, 0)

    said = await events(deployment, "audit", "--context", "orders", "--limit", "3", "--json")
    done = said.json["entries"]
    assert [each["action"] for each in done] == ["replay", "discard", "replay"]
    assert {(each["actor"], each["reason"], each["context"]) for each in done} == {
        ("ops", "asked by phone", "orders")
    }
    assert all(aggregate in each["target"] and each["outcome"] for each in done)


async def test_what_flows_again_is_applied_as_it_comes(deployment: Deployment) -> None:
    aggregate = await deployment.poison()
    await clear(deployment, aggregate)
    await deployment.publish(aggregate.rpartition("/")[2], 4)
    assert (await deployment.caught_up())["dead_letters"] == 0
    assert await deployment.letters(aggregate) == []


async def test_all_replays_every_halted_aggregate_of_a_consumer(deployment: Deployment) -> None:
    aggregates = [await deployment.poison() for _ in range(2)]
    vain = await letters(deployment, "replay", CONSUMER, "--all", *WHY, "--json")
    assert (vain.code, vain.json["applied"], vain.json["left"]) == (1, 0, 4)
    for aggregate in aggregates:
        await letters(deployment, "discard", CONSUMER, aggregate, "2", *WHY)
    done = await letters(deployment, "replay", CONSUMER, "--all", *WHY, "--json")
    assert (done.code, done.json) == (0, {"applied": 2, "left": 0, "error": None})


async def test_more_than_one_call_may_do_is_listed_and_replayed_to_the_end(deployment: Deployment) -> None:
    aggregate = await deployment.poison()
    for sequence in range(4, MANY + 1):
        await deployment.publish(aggregate.rpartition("/")[2], sequence)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await deployment.letters(aggregate)) < MANY - 1:
            pass
    few = await letters(deployment, "list", "--consumer", CONSUMER, "--limit", "3", "--json")
    assert [each["sequence"] for each in few.json["dead_letters"]] == [2, 3, 4]
    assert few.json["more"]
    assert "more: raise --limit" in (await letters(deployment, "list", "--limit", "3")).out
    assert (await letters(deployment, "discard", CONSUMER, aggregate, "2", *WHY)).code == 0
    done = await letters(deployment, "replay", CONSUMER, aggregate, *WHY, "--json")
    assert (done.code, done.json) == (0, {"applied": MANY - 2, "left": 0, "error": None})
    said = await events(deployment, "audit", "--limit", str(MANY - 1), "--context", "orders", "--json")
    assert said.json["more"]
    acts = [(each["action"], each["target"].rpartition(" ")[2]) for each in said.json["entries"]]
    expected = [("replay", str(sequence)) for sequence in range(MANY, 2, -1)]
    assert acts == [*expected, ("discard", "2")]


async def test_on_a_terminal_replays_and_discards_are_asked_twice(deployment: Deployment) -> None:
    aggregate = await deployment.poison()
    for verb, rest in (("replay", ()), ("discard", ("2",))):
        words = ("events", "dead-letters", verb, CONSUMER, aggregate, *rest, *WHY)
        code, shown = await deployment.at_terminal(*words, typed="n\n")
        assert (code, "[y/N]" in shown, "(NOT_CONFIRMED)" in shown) == (4, True, True)
    assert [each["replays"] for each in await deployment.letters(aggregate)] == [0, 0]
    words = ("events", "dead-letters", "discard", CONSUMER, aggregate, "2", *WHY)
    assert (await deployment.at_terminal(*words, "--yes"))[0] == 0
    words = ("events", "dead-letters", "replay", CONSUMER, aggregate, *WHY)
    code, shown = await deployment.at_terminal(*words, typed="y\n")
    assert (code, "applied: 1, left: 0" in shown) == (0, True)


async def test_an_admin_does_the_same_by_rest(deployment: Deployment) -> None:
    aggregate = await deployment.poison()
    suite = deployment.suite
    async with httpx2.AsyncClient(base_url=f"{suite.gateway_url}/api/v1", timeout=20) as client:
        login = {"email": "admin@sagacity.example", "password": suite.password("admin")}
        session = (await client.post("/sessions", json=login)).json()
        client.headers["Authorization"] = f"Bearer {session['access_token']}"
        base = "/admin/contexts/orders"
        lag = (await client.get(f"{base}/lag")).json()
        assert lag["outbox"]["topic"] == "sagacity.orders.v1"
        listed = await client.get(f"{base}/dead-letters", params={"aggregate": aggregate})
        assert [item["sequence"] for item in listed.json()["items"]] == [2, 3]
        one = {"consumer": CONSUMER, "aggregate": aggregate}
        detail = await client.get(f"{base}/dead-letters/detail", params={**one, "sequence": "2"})
        assert detail.json()["payload"] == {"user_id": aggregate.rpartition("/")[2]}
        why = {"reason": "by REST"}
        vain = (await client.post(f"{base}/dead-letters/replay", json={**one, **why})).json()
        assert (vain["applied"], vain["left"], bool(vain["error"])) == (0, 2, True)
        gone = await client.post(f"{base}/dead-letters/discard", json={**one, **why, "sequence": 2})
        assert gone.json() == {"left": 1}
        again = await client.post(f"{base}/dead-letters/discard", json={**one, **why, "sequence": 2})
        assert (again.status_code, again.json()["code"]) == (404, "DEAD_LETTER_NOT_FOUND")
        applied = (await client.post(f"{base}/dead-letters/replay", json={**one, **why})).json()
        assert (applied["applied"], applied["left"]) == (1, 0)
        entries = (await client.get(f"{base}/audit", params={"page_size": "3"})).json()["items"]
        assert {(entry["actor"], entry["reason"]) for entry in entries} == {
            (session["user"]["id"], "by REST")
        }
        for verb, state in (("pause", "paused"), ("resume", "running")):
            answer = await client.post(f"{base}/consumers/{CONSUMER}/{verb}", json=why)
            assert answer.json() == {"consumer": CONSUMER, "state": state}
        names = [item["name"] for item in (await client.get(f"{base}/projections")).json()["items"]]
        assert names == ["order-history"]


# --- consumers and projections ---


async def test_a_paused_consumer_lets_events_wait_until_it_is_resumed(deployment: Deployment) -> None:
    paused = await events(deployment, "pause", CONSUMER, *WHY, "--json")
    assert (paused.code, paused.json) == (0, {"consumer": CONSUMER, "state": "paused"})
    for sequence in (1, 2):
        await deployment.publish("somebody-else", sequence)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum(each["lag"] for each in (await deployment.lag())["partitions"]) != 2:
            pass
    assert (await deployment.lag())["state"] == "paused"
    resumed = await events(deployment, "resume", CONSUMER, *WHY)
    assert (resumed.code, resumed.out) == (0, f"{CONSUMER} is running\n")
    assert (await deployment.caught_up())["state"] == "running"


async def test_a_projection_is_rebuilt_while_one_waits_for_it(deployment: Deployment) -> None:
    def serves(said: Said) -> int:
        return int(said.json["projections"][0]["active_generation"])

    before = serves(await events(deployment, "projections", "--context", "orders", "--json"))
    said = await events(deployment, "rebuild", "order-history", "--wait", "--json", *WHY)
    assert said.code == 0, said.err
    last = json.loads(said.out.splitlines()[-1])["projection"]
    assert (last["context"], last["state"], last["active_generation"]) == ("orders", "serving", before + 1)
    assert serves(await events(deployment, "projections", "--json")) == before + 1
    shown = await events(deployment, "rebuild", "order-history", "--context", "orders", *WHY)
    assert (shown.code, "order-history is " in shown.out) == (0, True)
    waited = await events(deployment, "rebuild", "order-history", "--wait", *WHY)
    last_line = waited.out.splitlines()[-1]
    assert (waited.code, last_line.startswith("order-history is serving: generation ")) == (0, True)
    code, seen = await deployment.at_terminal("events", "rebuild", "order-history", "--wait", *WHY)
    assert (code, "serving" in seen) == (0, True)


# --- lag ---


async def test_lag_shows_the_others_while_one_context_is_away(deployment: Deployment) -> None:
    nobody = {f"SAGACITY_{name.upper()}_ADDRESS": "127.0.0.1:1" for name in CONTEXTS}
    one_away = {"SAGACITY_INVENTORY_ADDRESS": "127.0.0.1:1"}
    said = await events(deployment, "lag", **one_away)
    assert (said.code, CONSUMER in said.out, "unreachable" in said.out) == (6, True, True)
    assert "inventory at 127.0.0.1:1 does not answer" in said.err
    shown = (await events(deployment, "lag", "--json", **one_away)).json["contexts"]
    assert [(each["context"], each["reachable"]) for each in shown] == [
        ("users", True),
        ("inventory", False),
        ("payments", True),
        ("orders", True),
    ]
    for arguments in (("lag",), ("projections",), ("audit",), ("dead-letters", "list")):
        said = await events(deployment, *arguments, "--json", **one_away)
        assert (said.code, said.err.count("\n"), said.err[:21]) == (6, 1, "sagacity: inventory: "), arguments
        assert said.json
        said = await events(deployment, *arguments, **nobody)
        assert (said.code, said.out, said.err.count("\n")) == (5, "", 1), arguments
    assert (await events(deployment, "lag", "--context", "inventory", **one_away)).code == 5


async def test_a_context_that_hangs_does_not_keep_the_others_from_being_shown(deployment: Deployment) -> None:
    deployment.suite.pause("inventory")
    try:
        said = await events(deployment, "lag", "--json")
    finally:
        deployment.suite.resume("inventory")
    shown = {each["context"]: each["reachable"] for each in said.json["contexts"]}
    assert (said.code, shown["inventory"], shown["orders"]) == (6, False, True)


@pytest.mark.parametrize("options", [("--json",), ()])
async def test_lag_is_watched_until_it_is_interrupted(
    deployment: Deployment, options: tuple[str, ...]
) -> None:
    process = await deployment.start("events", "lag", "--watch", *options)
    assert process.stdout is not None
    for _ in range(2):
        line = b""
        while b"payments" not in line:
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS)
            assert line
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert (process.returncode, err) == (130, b"")


# --- what goes wrong ---


async def test_what_is_not_there_ends_with_3(deployment: Deployment) -> None:
    aggregate = "sagacity.users.v1/user/nobody"
    for arguments, reason in (
        (("dead-letters", "list", "--consumer", "orders.nobody"), "CONSUMER_NOT_FOUND"),
        (("dead-letters", "show", CONSUMER, aggregate), "DEAD_LETTER_NOT_FOUND"),
        (("dead-letters", "show", CONSUMER, aggregate, "1"), "DEAD_LETTER_NOT_FOUND"),
        (("dead-letters", "replay", CONSUMER, aggregate, *WHY), "DEAD_LETTER_NOT_FOUND"),
        (("dead-letters", "discard", CONSUMER, aggregate, "1", *WHY), "DEAD_LETTER_NOT_FOUND"),
        (("pause", "orders.nobody", *WHY), "CONSUMER_NOT_FOUND"),
        (("resume", "orders.nobody", *WHY), "CONSUMER_NOT_FOUND"),
        (("rebuild", "nothing", *WHY), "PROJECTION_NOT_FOUND"),
        (("rebuild", "nothing", "--context", "orders", *WHY), "PROJECTION_NOT_FOUND"),
    ):
        said = await events(deployment, *arguments)
        assert (said.code, said.out, said.err.count("\n")) == (3, "", 1), (arguments, said)
        assert said.err.endswith(f"({reason})\n")


async def test_a_wrong_key_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(new_key_pair("operator")[0])
    for arguments in (("lag",), ("pause", CONSUMER, *WHY)):
        said = await events(deployment, *arguments, "--identity-key-file", str(tmp_path / "other.pem"))
        assert (said.code, said.out, "(BAD_SERVICE_TOKEN)" in said.err) == (4, "", True)


async def test_tail_finds_the_broker_of_make_run(deployment: Deployment) -> None:
    await deployment.publish("a-user", 1)
    said = await events(
        deployment, "tail", "--context", "users", "--key", "a-user", "--last", "1", "--no-follow"
    )
    assert (said.code, "UserRegistered  user/a-user #1" in said.out) == (0, True)
