"""What is typed behind `sagacity events` is checked before anybody is called; help says what is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chassis.config import ProcessSettings
from cli.__main__ import run
from cli.connection import CONTEXTS, Where
from cli.event_operator import context_of
from cli.events_options import ContextName, chosen
from cli.failures import CommandError

CONSUMER = "users.customer-statistics"
AGGREGATE = "sagacity.orders.v1/order/o1"
WHY = ("--reason", "because")
VERBS = {
    ("dead-letters", "replay"): (CONSUMER, AGGREGATE),
    ("dead-letters", "discard"): (CONSUMER, AGGREGATE, "3"),
    ("pause",): (CONSUMER,),
    ("resume",): (CONSUMER,),
    ("rebuild",): ("order-history",),
}
LOOKING = (("lag",), ("dead-letters", "list"), ("dead-letters", "show"), ("projections",), ("audit",))


@pytest.mark.parametrize("command", [(), ("dead-letters",), ("tail",), *LOOKING, *VERBS])
def test_every_command_explains_itself(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", *command, "--help"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Usage: sagacity events")
    assert said.err == ""


@pytest.mark.parametrize("command", [*LOOKING, *VERBS])
def test_the_options_for_how_are_the_same_everywhere(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run(["events", *command, "--help"])
    shown = capsys.readouterr().out
    wanted = ["--json", "--identity-key-file", "--context"]
    wanted += ["--reason", "--actor"] if command in VERBS else []
    wanted += ["--yes"] if command[-1] in {"replay", "discard"} else []
    assert [option for option in wanted if option not in shown] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["lag", "--context", "gateway"],
        ["tail", "--from-start", "--last", "3"],
        ["tail", "--last", "0"],
        ["tail", "--last", "10001"],
        ["tail", "--count", "0"],
        ["tail", "--no-follow"],
        ["tail", "--topic", "no topic"],
        ["tail", "--topic", "\x1b[2J"],
        ["tail", "--bootstrap-servers", "nowhere"],
        ["tail", "--bootstrap-servers", "here:1,there"],
        ["dead-letters", "list", "--limit", "0"],
        ["dead-letters", "list", "--consumer", "nobody's"],
        ["dead-letters", "show", CONSUMER],
        ["dead-letters", "show", CONSUMER, AGGREGATE, "0"],
        ["dead-letters", "show", CONSUMER, AGGREGATE, str(2**63)],
        ["dead-letters", "discard", CONSUMER, AGGREGATE, str(2**63), *WHY],
        ["dead-letters", "discard", CONSUMER, "\udcff", "1", *WHY],
        ["pause", "users.\udcff", *WHY],
        ["dead-letters", "show", "nobody's", AGGREGATE],
        ["dead-letters", "replay", CONSUMER, *WHY],
        ["dead-letters", "replay", CONSUMER, AGGREGATE, "--all", *WHY],
        ["dead-letters", "discard", CONSUMER, AGGREGATE, *WHY],
        ["dead-letters", "discard", CONSUMER, AGGREGATE, "many", *WHY],
        ["audit", "--limit", "10001"],
        ["pause", "nobody's", *WHY],
        *([*verb, *names] for verb, names in VERBS.items()),
        *([*verb, *names, "--reason", " "] for verb, names in VERBS.items()),
        *([*verb, *names, "--reason", "two\nlines"] for verb, names in VERBS.items()),
        *([*verb, *names, *WHY, "--actor", "a\x00b"] for verb, names in VERBS.items()),
    ],
    ids=lambda arguments: repr(" ".join(arguments))[:70],
)
def test_wrong_usage_is_one_sentence_and_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["events", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sagacity: ")
    assert said.err.endswith(" (USAGE)\n")
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err


def test_without_a_broker_tail_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAGACITY_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("SAGACITY_DATA_DIR", raising=False)
    assert run(["events", "tail"]) == 2
    said = capsys.readouterr().err
    assert "--bootstrap-servers" in said
    assert "SAGACITY_KAFKA_BOOTSTRAP_SERVERS" in said


@pytest.mark.parametrize(
    "name", ["SAGACITY_KAFKA_BOOTSTRAP_SERVERS", "SAGACITY_OPERATOR_KAFKA_BOOTSTRAP_SERVERS"]
)
@pytest.mark.parametrize("in_a_file", [False, True])
def test_tail_is_told_of_the_broker_as_every_process_is(
    *,
    name: str,
    in_a_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "told").write_text("told\n")
    # What `make run` left is asked last.
    (tmp_path / "kafka-bootstrap-servers").write_text("left")
    monkeypatch.setenv("SAGACITY_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SAGACITY_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv(f"{name}_FILE" if in_a_file else name, str(tmp_path / "told") if in_a_file else "told")
    assert run(["events", "tail"]) == 2
    assert "'told' does not name Kafka's servers" in capsys.readouterr().err
    assert run(["events", "tail", "--bootstrap-servers", "given"]) == 2
    assert "'given' does not name Kafka's servers" in capsys.readouterr().err


def test_each_context_is_where_its_variable_says_or_where_make_run_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(CONTEXTS) == [name.value for name in ContextName]
    for name, peer in CONTEXTS.items():
        variable = f"SAGACITY_{name.upper()}_ADDRESS"
        monkeypatch.delenv(variable, raising=False)
        default = ProcessSettings.model_fields[f"{name}_address"].default
        assert Where(peer=peer).target == default
        monkeypatch.setenv(variable, "there:1")
        assert (Where(peer=peer).target, Where(peer=peer).whom) == ("there:1", f"{name} at there:1")


def test_a_consumer_says_whose_it_is_by_the_first_part_of_its_name() -> None:
    assert context_of(CONSUMER, "consumer", None) == "users"
    assert context_of("odd", "consumer", "orders") == "orders"
    assert context_of(CONSUMER, "consumer", "orders") == "orders"
    with pytest.raises(CommandError, match="--context"):
        context_of("odd", "consumer", None)


def test_without_a_choice_all_contexts_are_asked_and_each_of_a_choice_once() -> None:
    assert chosen(None) == ["users", "inventory", "payments", "orders"]
    assert chosen([ContextName.ORDERS, ContextName.USERS, ContextName.ORDERS]) == ["orders", "users"]


def test_a_way_to_kafka_that_contradicts_itself_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGACITY_KAFKA_PASSWORD", "hunter2")
    assert run(["events", "tail", "--bootstrap-servers", "127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sagacity: SAGACITY_KAFKA_PASSWORD is set, and the security protocol has no SASL")
    assert said.endswith(" (USAGE)\n")
    assert "hunter2" not in said
