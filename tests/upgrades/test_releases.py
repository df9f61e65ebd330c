"""A release's version is above the one before; what is released with the same one is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from chassis.version import VERSION
from deploy.release.versions import numbers, refusal
from tests.conftest import ENVIRONMENT
from tests.upgrades.previous_release import REPOSITORY, Release, this_code

SECONDS = 30
PROJECT = '[project]\nversion = "{}"\n'
NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")


def test_this_code_is_above_the_release_before_it(previous: Release) -> None:
    """Else a migration that says `contract` with the version of its own code would pass."""
    assert this_code().version == VERSION
    assert numbers(VERSION) > numbers(previous.version), "raise pyproject.toml and chassis/version.py"


@pytest.mark.parametrize(
    ("version", "before"), [("0.2.0", "0.1.0"), ("0.10.0", "0.9.0"), ("1.0.0", "0.99.9")]
)
def test_a_version_above_the_one_before_may_be_released(version: str, before: str) -> None:
    assert refusal(version, before) is None


@pytest.mark.parametrize(("version", "before"), [("0.1.0", "0.1.0"), ("0.9.0", "0.10.0"), ("0.1", "0.1.0")])
def test_a_version_that_is_not_above_the_one_before_is_refused(version: str, before: str) -> None:
    assert f"its version is {version}, and the release before is {before}: raise it" in str(
        refusal(version, before)
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose commit has the version 0.2.0, and whose release before is 0.1.0."""
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "0.2.0")
    (tmp_path / "releases").mkdir()
    with tarfile.open(tmp_path / "releases" / "previous.tar.xz", "w:xz") as archive:
        text = PROJECT.format("0.1.0").encode()
        file = tarfile.TarInfo("pyproject.toml")
        file.size = len(text)
        archive.addfile(file, io.BytesIO(text))
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *NOBODY, *arguments], cwd=folder, check=True, timeout=SECONDS)


def commit(folder: Path, version: str) -> None:
    (folder / "pyproject.toml").write_text(PROJECT.format(version))
    git(folder, "add", "pyproject.toml")
    git(folder, "commit", "--quiet", "--message", version)


def may_be_released(folder: Path, which: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.release.versions", which],
        cwd=folder,
        env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    return done.returncode, done.stderr


def test_make_release_asks_for_the_version_of_the_commit_that_it_releases(checkout: Path) -> None:
    commit(checkout, "0.1.0")
    assert may_be_released(checkout, "HEAD~1") == (0, "")
    code, said = may_be_released(checkout, "HEAD")
    assert (code, said.startswith("release: HEAD is not released: its version is 0.1.0, and")) == (1, True)
    code, said = may_be_released(checkout, "nothing")
    assert (code, said.splitlines()[-1]) == (
        1,
        "release: nothing is not released: there is no such commit with a pyproject.toml",
    )


def test_make_release_asks_before_it_replaces_anything() -> None:
    recipe = (REPOSITORY / "Makefile").read_text("utf-8").split("\nrelease:")[1].split("\n\n")[0]
    steps = ["-m deploy.release.versions $(COMMIT)", "release-protos", "> $(PREVIOUS)"]
    found = [recipe.index(step) for step in steps]
    assert found == sorted(found)
