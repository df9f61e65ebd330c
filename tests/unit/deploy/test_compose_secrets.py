from __future__ import annotations

import stat
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.compose.make_secrets import DATABASES, main, make_all


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
