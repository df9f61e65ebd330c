"""What is typed is checked before anybody is called; help and failures say what is needed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from chassis.errors import Detail, Fault, FaultKind
from cli.__main__ import run
from cli.failures import CommandError, ExitCode, failure
from cli.options import age_of, line_of, uuid_of

ID = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
WHOM = "the orchestrator at here:1"
VERBS = ("retry", "skip", "compensate", "pause", "resume", "cancel")
COMMANDS = ("list", "show", "watch", "check", "preview", *VERBS)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["sagas", "--help"], *([["sagas", c, "--help"] for c in COMMANDS])]
)
def test_every_command_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Usage: sagacity")
    assert said.err == ""
    assert "--help" in said.out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    run(["sagas", "--help"])
    shown = capsys.readouterr().out
    assert [command for command in COMMANDS if f"\n  {command} " not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_for_where_and_how_are_the_same_everywhere(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["sagas", command, "--help"])
    shown = capsys.readouterr().out
    wanted = ["--json", "--address", "--identity-key-file"]
    wanted += ["--reason", "--actor", "--yes", "--preview", "--order"] if command in VERBS else []
    assert [option for option in wanted if option not in shown] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["sagas", "nonsense"],
        ["sagas", "list", "--nonsense"],
        ["sagas", "list", "--state", "nonsense"],
        ["sagas", "list", "--limit", "0"],
        ["sagas", "list", "--limit", "many"],
        ["sagas", "list", "--older-than", "yesterday"],
        ["sagas", "list", "--older-than", "-5m"],
        ["sagas", "list", "--order", "garbage"],
        ["sagas", "show"],
        ["sagas", "show", "garbage"],
        ["sagas", "show", "\x1b[31m"],
        ["sagas", "show", ID, ID],
        ["sagas", "show", ID, "--order", ID],
        ["sagas", "show", "--order", "garbage"],
        ["sagas", "watch", "garbage"],
        ["sagas", "preview", ID],
        ["sagas", "preview", "explode", ID],
        ["sagas", "skip", ID, "--reason", "because", "--step", "s"],
        ["sagas", "skip", ID, "--reason", "because", "--output", "{}"],
        *(["sagas", verb, ID] for verb in VERBS if verb != "skip"),
        *(["sagas", verb, "garbage", "--reason", "because"] for verb in VERBS if verb != "skip"),
        ["sagas", "retry", "--reason", "because"],
        ["sagas", "retry", ID, "--reason", ""],
        ["sagas", "retry", ID, "--reason", "   "],
        ["sagas", "retry", ID, "--reason", "two\nlines"],
        ["sagas", "retry", ID, "--reason", "bell\x07"],
        ["sagas", "retry", ID, "--reason", "\x1b[2J"],
        ["sagas", "retry", ID, "--reason", "half \udc80"],
        ["sagas", "retry", ID, "--reason", "r" * 501],
        ["sagas", "retry", ID, "--reason", "because", "--actor", ""],
        ["sagas", "retry", ID, "--reason", "because", "--actor", "a\x00b"],
        ["sagas", "retry", ID, "--reason", "because", "--actor", "a" * 201],
    ],
    ids=lambda arguments: repr(" ".join(arguments))[:60],
)
def test_wrong_usage_is_one_sentence_and_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sagacity: ")
    assert said.err.endswith(" (USAGE)\n")
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err


def test_without_a_key_the_command_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAGACITY_OPERATOR_IDENTITY_KEY_FILE", raising=False)
    monkeypatch.delenv("SAGACITY_DATA_DIR", raising=False)
    assert run(["sagas", "list"]) == 2
    said = capsys.readouterr().err
    assert ".sagacity/secrets/identity-operator.pem" in said
    assert "--identity-key-file" in said


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("0s", timedelta()),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("999999d", timedelta(days=999_999)),
        ("9999999d", None),
        ("1w", None),
        ("5", None),
        ("", None),
        ("٣m", None),
    ],
)
def test_an_age_is_a_number_and_a_unit(text: str, age: timedelta | None) -> None:
    if age is None:
        with pytest.raises(CommandError):
            age_of(text)
    else:
        assert age_of(text) == age


def test_ids_are_taken_as_people_write_them() -> None:
    assert uuid_of(ID.upper(), "saga") == uuid_of(ID.replace("-", ""), "saga") == ID


def test_a_reason_may_be_in_any_language() -> None:
    assert line_of("  déjà vu, 再試行  ", "reason", 500) == "déjà vu, 再試行"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.INVALID_ARGUMENT, ExitCode.USAGE),
        (FaultKind.NOT_FOUND, ExitCode.NOT_FOUND),
        (FaultKind.FAILED_PRECONDITION, ExitCode.REFUSED),
        (FaultKind.ABORTED, ExitCode.REFUSED),
        (FaultKind.PERMISSION_DENIED, ExitCode.REFUSED),
        (FaultKind.UNAUTHENTICATED, ExitCode.REFUSED),
        (FaultKind.UNAVAILABLE, ExitCode.UNAVAILABLE),
        (FaultKind.DEADLINE_EXCEEDED, ExitCode.UNAVAILABLE),
        (FaultKind.RESOURCE_EXHAUSTED, ExitCode.UNAVAILABLE),
        (FaultKind.INTERNAL, ExitCode.UNAVAILABLE),
    ],
)
def test_each_kind_of_fault_has_its_exit_code(kind: FaultKind, code: ExitCode) -> None:
    told = failure(Fault(kind, "REASON", "a sentence", domain="sagacity.sagas"), WHOM)
    assert (told.code, told.reason, told.message) == (code, "REASON", "a sentence")


def test_fields_that_are_wrong_are_named_and_silence_has_an_address() -> None:
    fields = (Detail("step", "is odd"), Detail("reason", "is empty"))
    told = failure(Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "bad", fields=fields), WHOM)
    assert told.message == "step: is odd; reason: is empty"
    silent = failure(Fault(FaultKind.UNAVAILABLE, "UNAVAILABLE", "no route"), WHOM)
    assert silent.message == "the orchestrator at here:1 does not answer: no route"


def test_a_bug_is_told_from_a_check_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_arguments: list[str], **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cli.__main__.app", broken)
    assert run(["sagas", "check"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err
