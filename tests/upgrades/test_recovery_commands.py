"""What the commands of recovery say where they cannot work, and where all is well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, NewDatabase
from tests.upgrades.previous_release import PACKAGES, REPOSITORY

COMMAND_SECONDS = 60
NOWHERE = "127.0.0.1:1"
USERS = "SAGACITY_USERS_DATABASE_DSN"


def run(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )


def variable(package: str) -> str:
    return f"SAGACITY_{package.rpartition('.')[2].upper()}_DATABASE_DSN"


@pytest.mark.parametrize("module", ["deploy.recovery.invariants", "deploy.recovery.topics"])
def test_a_setting_that_is_missing_is_named(module: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path)] if module.endswith("topics") else []
    said = run(module, *arguments, SAGACITY_KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    assert (said.returncode, said.stderr) == (1, f"recovery: SettingsError: {USERS} is not set\n")


@pytest.mark.integration
def test_databases_without_orders_break_nothing(new_database: NewDatabase) -> None:
    said = run("deploy.recovery.invariants", **{variable(each): new_database(each) for each in PACKAGES})
    assert (said.returncode, said.stdout) == (0, "0 broken\n")


@pytest.mark.integration
def test_a_broker_that_does_not_answer_is_told_in_one_line(new_database: NewDatabase, tmp_path: Path) -> None:
    dsns = {variable(each): new_database(each) for each in PACKAGES}
    said = run("deploy.recovery.topics", str(tmp_path), SAGACITY_KAFKA_BOOTSTRAP_SERVERS=NOWHERE, **dsns)
    assert said.returncode == 1
    assert said.stderr.startswith("recovery: KafkaConnectionError: ")
    assert said.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.done"))


@pytest.mark.integration
def test_a_password_that_is_wrong_is_told_without_it(new_database: NewDatabase) -> None:
    dsns = {variable(each): new_database(each) for each in PACKAGES}
    said = run("deploy.recovery.invariants", **{**dsns, USERS: "host=127.0.0.1 port=1 password=hidden"})
    assert said.returncode == 1
    assert said.stderr.startswith("recovery: OperationalError: ")
    assert "hidden" not in said.stderr


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """It may be of an earlier recovery: of that one, --resume would tell which."""
    leftover = tmp_path / "users.done"
    leftover.touch()
    said = run("deploy.recovery.topics", str(tmp_path))
    assert said.returncode == 1
    assert said.stderr == (
        f"recovery: {tmp_path} is not empty: take another, "
        "or --resume where a run of this recovery has ended in it\n"
    )
    assert list(tmp_path.iterdir()) == [leftover]
