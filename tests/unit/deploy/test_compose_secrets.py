from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.compose.make_secrets import DATABASES, DEPLOY, main, make_all
from tests.unit.deploy.noted_docker import PASSWORD, Docker


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_secrets_are_made_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "secrets"
    assert main([str(folder)]) == 0
    first = contents(folder)
    assert main([str(folder)]) == 0
    assert contents(folder) == first
    assert capsys.readouterr().out == f"the secrets are in {folder}\n" * 2


def test_secrets_differ_from_each_other_and_between_two_hosts(tmp_path: Path) -> None:
    here, there = (contents(make_all(tmp_path / name).folder) for name in ("here", "there"))
    passwords = [text for name, text in here.items() if name.endswith("-password")]
    assert len(set(passwords)) == len(passwords) == 3 + 3 * len(DATABASES)
    assert all(here[name] != there[name] for name in here)


def test_a_container_can_read_them_and_on_the_host_only_their_owner(tmp_path: Path) -> None:
    folder = make_all(tmp_path / "secrets").folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}


def test_a_folder_that_others_may_enter_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    make_all(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("database", DATABASES)
def test_the_connection_strings_have_the_passwords_of_their_roles(tmp_path: Path, database: str) -> None:
    made = contents(make_all(tmp_path / "secrets").folder)
    for role in ("owner", "service"):
        assert conninfo_to_dict(made[f"{database}_{role}-dsn"]) == {
            "host": f"{database}-database",
            "port": "5432",
            "dbname": database,
            "user": f"{database}_{role}",
            "password": made[f"{database}_{role}-password"],
        }


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("here already", "utf-8")
    assert main([str(blocked / "secrets")]) == 1
    assert capsys.readouterr().err == f"the folder {blocked / 'secrets'} cannot be made: Not a directory\n"


def test_a_folder_is_meant_from_deploy_as_compose_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secrets"
    assert main([os.path.relpath(folder, DEPLOY)]) == 0
    assert capsys.readouterr().out == f"the secrets are in {folder}\n"
    assert contents(folder)


def test_a_folder_without_a_name_is_one_sentence_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([""]) == 1
    assert capsys.readouterr().err == "the folder of the secrets has an empty name\n"
    assert list(tmp_path.iterdir()) == []


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    return said


def secrets_in(folder: Path, password: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / PASSWORD).write_text(password, "utf-8")
    return folder


@pytest.mark.parametrize("target", ["up", "roll", "roll-back"])
@pytest.mark.parametrize("password", [None, "another"])
def test_other_secrets_than_the_databases_have_are_refused_and_no_second_set_is_made(
    tmp_path: Path, target: str, password: str | None
) -> None:
    docker = Docker(tmp_path / "bin")
    theirs, other = secrets_in(tmp_path / "the one", "theirs"), tmp_path / "another"
    if password:
        secrets_in(other, password)
    done = docker.make(
        target, "TAG=there", RUNNING="orders-database", MOUNTED=str(theirs), SAGACITY_SECRETS=str(other)
    )
    assert done.returncode != 0
    assert f"from {theirs}, and {other} has others or none" in sentence(done)
    assert docker.calls("python") == docker.calls(" up ") == docker.calls(" run ") == []


def test_a_folder_of_secrets_that_is_gone_is_not_made_again_beside_databases(tmp_path: Path) -> None:
    docker = Docker(tmp_path / "bin")
    gone = str(tmp_path / "gone")
    done = docker.make("up", RUNNING="orders-database", MOUNTED=gone, SAGACITY_SECRETS=gone)
    assert done.returncode != 0
    assert "put that folder back" in sentence(done)
    assert docker.calls("python") == []


@pytest.mark.parametrize("where", ["/host_mnt{}/the one", "{}/the one", "{}/moved away", "/run/desktop/{}"])
def test_the_same_secrets_in_another_place_are_the_same(tmp_path: Path, where: str) -> None:
    docker = Docker(tmp_path / "bin")
    theirs, copied = secrets_in(tmp_path / "the one", "theirs"), secrets_in(tmp_path / "copied", "theirs")
    for given in (str(theirs), os.path.relpath(theirs, DEPLOY), str(copied)):
        done = docker.make(
            "up", RUNNING="orders-database", MOUNTED=where.format(tmp_path), SAGACITY_SECRETS=given
        )
        assert done.returncode == 0, done.stderr


def test_where_no_container_is_the_secrets_may_be_anywhere(tmp_path: Path) -> None:
    docker = Docker(tmp_path / "bin")
    done = docker.make("up", MOUNTED="/nowhere", SAGACITY_SECRETS=str(tmp_path / "first"))
    assert done.returncode == 0, done.stderr
    assert len(docker.calls("make_secrets")) == 1
