"""The commands and settings of docs/how-to/backup-and-restore.md, as the tests of backups run them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.upgrades.previous_release import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "backup-and-restore.md"
# Where the page keeps backups, and those who run it keep theirs elsewhere.
FOLDER = re.compile(r"/backup\b")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def blocks(heading: str, language: str, *, folder: Path) -> list[str]:
    """The blocks of one language below a heading of the page, in their order, for the backups in `folder`."""
    text = PAGE.read_text("utf-8")
    parts = _HEADING.split(text)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", sections[heading], re.DOTALL | re.MULTILINE)
    return [FOLDER.sub(str(folder), block) for block in found]


def block(heading: str, language: str, holds: str, *, folder: Path) -> str:
    """The one block below a heading that holds some text."""
    found = [each for each in blocks(heading, language, folder=folder) if holds in each]
    assert len(found) == 1, f"{len(found)} {language} blocks below {heading!r} hold {holds!r}"
    return found[0]
