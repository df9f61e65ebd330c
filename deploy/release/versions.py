"""`python -m deploy.release.versions COMMIT`: whether a commit may be released, for `make release`.

A release has a version above the one before it. With the same one nobody could say by a version which of the
two needs a column no more, and a migration could take away what the release before still reads.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

PROJECT = "pyproject.toml"
PREVIOUS = Path("releases") / "previous.tar.xz"
GIT_SECONDS = 30


def numbers(version: str) -> tuple[int, ...]:
    """A version to compare: 0.10.0 is above 0.9.0."""
    return tuple(int(part) for part in version.split("."))


def version_of(project: str) -> str:
    """The version in the text of a pyproject.toml."""
    return str(tomllib.loads(project)["project"]["version"])


def previous_version(archive: Path = PREVIOUS) -> str:
    """The version of the release that an archive keeps."""
    with tarfile.open(archive) as release:
        file = release.extractfile(PROJECT)
        assert file is not None, "pyproject.toml is a file"
        return version_of(file.read().decode("utf-8"))


def committed_version(commit: str) -> str:
    """The version that a commit of this checkout has; CalledProcessError where there is none."""
    shown = subprocess.run(  # noqa: S603 - our own command
        ["git", "show", f"{commit}:{PROJECT}"],  # noqa: S607 - whichever git made the checkout
        check=True,
        stdout=subprocess.PIPE,
        timeout=GIT_SECONDS,
    )
    return version_of(shown.stdout.decode("utf-8"))


def refusal(version: str, before: str) -> str | None:
    """Why a version may not follow the one before; None where it may."""
    if numbers(version) > numbers(before):
        return None
    return (
        f"its version is {version}, and the release before is {before}: "
        "raise it in pyproject.toml and chassis/version.py, and commit that"
    )


def main() -> None:
    """Exit with 1 and one sentence where the commit may not be released."""
    commit = sys.argv[1]
    try:
        refused = refusal(committed_version(commit), previous_version())
    except subprocess.CalledProcessError:
        refused = "there is no such commit with a pyproject.toml"
    if refused:
        sys.exit(f"release: {commit} is not released: {refused}")


if __name__ == "__main__":
    main()
