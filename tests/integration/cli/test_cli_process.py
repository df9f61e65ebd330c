"""The command as a process, against an orchestrator as a process: what it does, prints, and ends with."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from chassis.errors import Fault, FaultKind
from chassis.identity import new_key_pair
from chassis.ids import new_id

pytestmark = pytest.mark.integration

NO = Fault(FaultKind.FAILED_PRECONDITION, "RESTOCK_REFUSED", "the shelf is full")
WHY = ("--reason", "asked by phone", "--actor", "ops")
ANSI = re.compile(r"\x1b\[")


async def running(stage: Any) -> str:
    """A place_order saga whose charge hangs."""
    stage.hold("Charge")
    saga_id = (await stage.place()).saga_id
    await stage.asked_for("Charge")
    return str(saga_id)


async def parked(stage: Any) -> str:
    """A refund_order saga whose restocking was refused."""
    stage.participants.faults["Restock"] = NO
    saga_id = (await stage.refund()).saga_id
    await stage.until(saga_id, "parked")
    return str(saga_id)


# --- verbs ---


async def test_pause_and_resume_stop_a_saga_and_let_it_go_on(stage: Any) -> None:
    saga_id = await running(stage)
    paused = await stage.sagas("pause", saga_id, *WHY, "--json")
    assert (paused.code, paused.json["saga"]["state"], paused.err) == (0, "paused", "")
    stage.participants.reset()
    resumed = await stage.sagas("resume", saga_id, *WHY)
    assert (resumed.code, saga_id in resumed.out) == (0, True)
    assert (await stage.until(saga_id, "completed"))["id"] == saga_id


@pytest.mark.parametrize(
    ("verb", "reason"), [("compensate", "COMPENSATED_BY_OPERATOR"), ("cancel", "CANCELLED")]
)
async def test_what_unwinds_a_saga_unwinds_it_with_the_reason(stage: Any, verb: str, reason: str) -> None:
    saga_id = await running(stage)
    said = await stage.sagas(verb, saga_id, *WHY, "--json", "--preview")
    assert said.code == 0
    previewed = [(call["operation"], call["step"]) for call in said.json["preview"]["calls"]]
    assert previewed == [("undo", "payment"), ("undo", "reservation"), ("undo", "order")]
    assert said.json["preview"]["state"] == "compensated"
    saga = await stage.until(saga_id, "compensated")
    assert (saga["refusal"]["reason"], saga["refusal"]["message"]) == (reason, "asked by phone")
    assert [name for name in stage.participants.seen if name in {"Reverse", "RejectOrder"}] == [
        "Reverse",
        "RejectOrder",
    ]


async def test_a_parked_saga_is_retried_and_its_timeline_names_who_and_why(stage: Any) -> None:
    saga_id = await parked(stage)
    stage.participants.faults.clear()
    said = await stage.sagas("retry", saga_id, *WHY, "--json")
    assert (said.code, said.json["saga"]["id"]) == (0, saga_id)
    await stage.until(saga_id, "completed")
    timeline = (await stage.sagas("show", saga_id, "--json")).json["timeline"]
    asked = [(entry["operation"], entry["actor"], entry["reason"]) for entry in timeline if entry["actor"]]
    assert asked == [("retry", "ops", "asked by phone")]
    assert [entry["sequence"] for entry in timeline] == list(range(1, len(timeline) + 1))


async def test_a_parked_step_is_skipped_with_its_output_after_the_preview_said_what_follows(
    stage: Any,
) -> None:
    saga_id = await parked(stage)
    skip = ("--step", "restock", "--output", "{}")
    preview = await stage.sagas("preview", "skip", saga_id, *skip, "--json")
    assert [call["step"] for call in preview.json["calls"]] == ["record"]
    assert (await stage.until(saga_id, "parked"))["step"] == "restock"
    said = await stage.sagas("skip", saga_id, *skip, *WHY, "--json")
    assert said.code == 0
    assert (await stage.until(saga_id, "completed"))["id"] == saga_id


async def test_the_actor_is_who_is_logged_in_unless_told(stage: Any) -> None:
    from cli.options import logged_in

    saga_id = await running(stage)
    assert (await stage.sagas("pause", saga_id, "--reason", "lunch")).code == 0
    timeline = (await stage.sagas("show", saga_id, "--json")).json["timeline"]
    assert timeline[-1]["actor"] == logged_in()


async def test_a_saga_is_named_by_its_order_as_well(stage: Any) -> None:
    stage.hold("Charge")
    placed = await stage.place()
    await stage.asked_for("Charge")
    assert (await stage.sagas("pause", "--order", placed.order_id, *WHY)).code == 0
    stage.participants.reset()
    assert (await stage.sagas("resume", "--order", placed.order_id, *WHY)).code == 0
    await stage.until(placed.saga_id, "completed")
    shown = await stage.sagas("show", "--order", placed.order_id, "--json")
    assert shown.json["saga"]["id"] == placed.saga_id
    gone = await stage.sagas("retry", "--order", placed.order_id, *WHY)
    assert (gone.code, gone.err) == (3, "sagacity: no saga of this order is open (SAGA_NOT_FOUND)\n")
    unknown = await stage.sagas("show", "--order", str(new_id()))
    assert (unknown.code, unknown.err.count("\n")) == (3, 1)


# --- looking ---


async def test_list_filters_and_pages(stage: Any) -> None:
    saga_id = await parked(stage)
    for filters in (
        ("--state", "parked"),
        ("--open", "--step", "restock"),
        ("--kind", "refund_order", "--state", "parked", "--older-than", "0s"),
    ):
        found = (await stage.sagas("list", *filters, "--json")).json["sagas"]
        assert saga_id in [saga["id"] for saga in found], filters
    fingerprint = (await stage.until(saga_id, "parked"))["error_fingerprint"]
    found = (await stage.sagas("list", "--fingerprint", fingerprint, "--json")).json["sagas"]
    assert {saga["error_fingerprint"] for saga in found} == {fingerprint}
    await parked(stage)
    first = (await stage.sagas("list", "--limit", "1", "--json")).json
    token = first["next_page_token"]
    second = (await stage.sagas("list", "--limit", "1", "--page-token", token, "--json")).json
    assert first["sagas"][0]["id"] > second["sagas"][0]["id"]
    assert (await stage.sagas("list", "--older-than", "7d", "--json")).json == {
        "sagas": [],
        "next_page_token": None,
    }
    assert (await stage.sagas("list", "--archived")).out == "no sagas\n"


async def test_what_is_printed_for_people_has_no_colours_away_from_a_terminal(stage: Any) -> None:
    saga_id = await parked(stage)
    for command in (("list",), ("show", saga_id), ("preview", "retry", saga_id), ("check",)):
        said = await stage.sagas(*command, FORCE_COLOR="1")
        assert not ANSI.search(said.out + said.err), command
        assert "restock" in said.out or command == ("check",)
    code, shown = await stage.on_terminal("list")
    assert (code, bool(ANSI.search(shown)), "parked" in shown) == (0, True, True)
    code, shown = await stage.on_terminal("list", NO_COLOR="1")
    assert (code, ANSI.search(shown), "parked" in shown) == (0, None, True)


async def test_show_prints_durations_and_the_refusal(stage: Any) -> None:
    stage.participants.faults["Charge"] = Fault(
        FaultKind.FAILED_PRECONDITION, "CARD_DECLINED", "no \x1b[31mmoney\x07 left", recorded=True
    )
    saga_id = (await stage.place()).saga_id
    await stage.until(saga_id, "compensated")
    said = await stage.sagas("show", saga_id)
    assert said.code == 0
    assert "CARD_DECLINED at payment: no [31mmoney left" in said.out
    assert "\x07" not in said.out
    assert re.search(r"do payment +1 +refused +\d+ ms", said.out)
    assert re.search(r"undo reservation +1 +done +\d+ ms", said.out)


async def test_watching_a_saga_ends_with_it_and_is_one_document_a_line(stage: Any) -> None:
    saga_id = await running(stage)
    process = await stage.start("sagas", "watch", saga_id, "--json")
    assert process.stdout is not None
    first = json.loads(await process.stdout.readline())
    assert (first["saga"]["state"], first["timeline"][0]["sequence"]) == ("running", 1)
    stage.participants.reset()
    out, err = await process.communicate()
    documents = [first, *map(json.loads, out.decode().splitlines())]
    assert (process.returncode, err) == (0, b"")
    assert documents[-1]["saga"]["state"] == "completed"
    sequences = [entry["sequence"] for each in documents for entry in each["timeline"]]
    assert sequences == list(range(1, len(sequences) + 1))
    again = await stage.sagas("watch", saga_id)
    assert (again.code, "do payment done" in again.out) == (0, True)
    code, shown = await stage.on_terminal("watch", saga_id)
    assert (code, "completed" in shown) == (0, True)


async def test_watching_the_open_sagas_goes_on_until_it_is_interrupted(stage: Any) -> None:
    saga_id = await running(stage)
    for options in ((), ("--json",)):
        process = await stage.start("sagas", "watch", *options)
        assert process.stdout is not None
        line = b""
        while saga_id not in line.decode():
            line = await asyncio.wait_for(process.stdout.readline(), 20)
            assert line
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize("killed", [False, True])
async def test_a_watcher_outlives_the_orchestrator_that_it_asked(stage: Any, killed: bool) -> None:
    saga_id = await running(stage)
    one = await stage.start("sagas", "watch", saga_id, "--json")
    every = await stage.start("sagas", "watch", "--json")
    for process in (one, every):
        assert saga_id in (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    await stage.restart(killed=killed)
    while not json.loads(await asyncio.wait_for(every.stdout.readline(), 20))["sagas"]:
        pass
    every.send_signal(signal.SIGINT)
    await every.communicate()
    stage.participants.reset()
    out, err = await asyncio.wait_for(one.communicate(), 60)
    assert (one.returncode, err) == (0, b"")
    documents = [json.loads(line) for line in out.decode().splitlines()]
    assert documents[-1]["saga"]["state"] == "completed"
    sequences = [entry["sequence"] for each in documents for entry in each["timeline"]]
    # Nothing twice, nothing left out: the first document had the others.
    assert sequences == list(range(sequences[0], sequences[-1] + 1))


async def test_check_fails_while_a_saga_is_parked(stage: Any) -> None:
    await parked(stage)
    said = await stage.sagas("check", "--json")
    assert (said.code, said.json["ok"]) == (1, False)
    refund = next(use for use in said.json["definitions"] if use["kind"] == "refund_order")
    assert refund["parked"] >= 1
    assert refund["loadable"]
    assert said.err.endswith("(CHECK_FAILED)\n")
    stage.participants.faults.clear()
    for saga in (await stage.sagas("list", "--state", "parked", "--json")).json["sagas"]:
        await stage.sagas("retry", saga["id"], *WHY)
        await stage.until(saga["id"], "completed")
    passed = await stage.sagas("check")
    assert (passed.code, passed.err) == (0, "")
    assert "place_order" in passed.out


# --- asking back ---


async def test_on_a_terminal_what_cannot_be_taken_back_is_asked_twice(stage: Any) -> None:
    saga_id = await running(stage)
    code, shown = await stage.on_terminal("cancel", saga_id, *WHY, typed="n\n")
    assert (code, "cancel saga" in shown, "(NOT_CONFIRMED)" in shown) == (4, True, True)
    assert (await stage.until(saga_id, "running"))["epoch"] == 1
    code, _ = await stage.on_terminal("pause", saga_id, *WHY)
    assert code == 0
    code, shown = await stage.on_terminal("cancel", saga_id, *WHY, typed="y\n")
    assert (code, "cancel saga" in shown) == (0, True)
    await stage.until(saga_id, "compensated")


async def test_yes_is_not_asked_again(stage: Any) -> None:
    saga_id = await running(stage)
    code, shown = await stage.on_terminal("compensate", saga_id, *WHY, "--yes")
    assert (code, "[y/N]" in shown) == (0, False)
    await stage.until(saga_id, "compensated")


# --- what goes wrong ---


async def test_refusals_of_the_orchestrator_end_with_4_and_their_reason(stage: Any) -> None:
    saga_id = await parked(stage)
    for arguments, reason in (
        (("cancel", saga_id, *WHY), "PIVOT_PASSED"),
        (("resume", saga_id, *WHY), "VERB_NOT_POSSIBLE"),
        (("skip", saga_id, "--step", "refund", "--output", "{}", *WHY), "STEP_NOT_PENDING"),
        (("preview", "compensate", saga_id), "PIVOT_PASSED"),
    ):
        said = await stage.sagas(*arguments, "--json")
        assert (said.code, said.out) == (4, ""), arguments
        assert re.fullmatch(rf"sagacity: .+ \({reason}\)\n", said.err), arguments
    stage.participants.faults.clear()
    await stage.sagas("retry", saga_id, *WHY)
    await stage.until(saga_id, "completed")
    said = await stage.sagas("retry", saga_id, *WHY)
    assert (said.code, said.err) == (4, "sagacity: the saga is COMPLETED (SAGA_ENDED)\n")


async def test_what_is_not_there_ends_with_3(stage: Any) -> None:
    missing = str(new_id())
    for arguments in (
        ("show", missing),
        ("watch", missing),
        ("retry", missing, *WHY),
        ("preview", "retry", missing),
    ):
        said = await stage.sagas(*arguments)
        expected = (3, "", "sagacity: there is no such saga (SAGA_NOT_FOUND)\n")
        assert said == expected, arguments


async def test_an_output_or_token_that_the_orchestrator_cannot_read_ends_with_2(stage: Any) -> None:
    saga_id = await parked(stage)
    for arguments, field in (
        (("skip", saga_id, "--step", "restock", "--output", "garbage", *WHY), "output_json"),
        (("skip", saga_id, "--step", "restock", "--output", "", *WHY), "output_json"),
        (("skip", saga_id, "--step", "Not A Step", "--output", "{}", *WHY), "step"),
        (("list", "--page-token", "garbage"), "page_token"),
        (("list", "--kind", "k" * 64), "kind"),
    ):
        said = await stage.sagas(*arguments)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), arguments
        assert said.err.startswith(f"sagacity: {field}: ")


async def test_an_address_where_nobody_answers_ends_with_5_in_one_sentence(stage: Any) -> None:
    for arguments in (("list",), ("watch",), ("show", str(new_id())), ("check", "--json")):
        said = await stage.sagas(*arguments, "--address", "127.0.0.1:1")
        assert (said.code, said.out, said.err.count("\n")) == (5, "", 1), arguments
        assert "127.0.0.1:1" in said.err


async def test_a_wrong_key_is_refused_and_a_missing_one_is_named(stage: Any, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(new_key_pair("operator")[0])
    other = await stage.sagas("list", "--identity-key-file", str(tmp_path / "other.pem"))
    assert (other.code, "(BAD_SERVICE_TOKEN)" in other.err) == (4, True)
    (tmp_path / "garbage.pem").write_text("garbage")
    for name, problem in (("garbage.pem", "holds no Ed25519"), ("missing.pem", "No such file")):
        said = await stage.sagas("list", "--identity-key-file", str(tmp_path / name))
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert problem in said.err
    said = await stage.sagas("list", SAGACITY_OPERATOR_IDENTITY_KEY_FILE="", SAGACITY_DATA_DIR=str(tmp_path))
    assert (said.code, "SAGACITY_OPERATOR_IDENTITY_KEY_FILE" in said.err) == (2, True)


async def test_a_reader_that_has_seen_enough_is_no_failure(stage: Any) -> None:
    process = await stage.start("sagas", "list", "--json", stdout=asyncio.subprocess.PIPE)
    transport = process._transport.get_pipe_transport(1)
    transport.close()
    await process.wait()
    assert process.stderr is not None
    assert (process.returncode, await process.stderr.read()) == (0, b"")
