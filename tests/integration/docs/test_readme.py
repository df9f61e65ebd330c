"""What README and docs/ show is what happens: lines are run, answers compared, links followed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.local.suite import Suite

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_URL = "http://127.0.0.1:8080"
TOUR_SECONDS = 100
NEXT_STOP = "--- next stop ---"

_TOUR = re.compile(r"<!-- tested -->\n```bash\n(.*?)```\n```text\n(.*?)```\n", re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# In commands and in code spans; "make sure" in prose is not a target.
_MAKE = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
_TARGET = re.compile(r"^([a-z-]+):[^=\n]*## ", re.MULTILINE)
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"SG(?:-[0-9A-Z]{4}){2}"), "<order number>"),
)


class Stop(NamedTuple):
    """One block of the README's tour."""

    commands: str
    recorded: str


def tour() -> list[Stop]:
    return [Stop(commands, recorded) for commands, recorded in _TOUR.findall(README.read_text("utf-8"))]


def steady(output: str) -> list[str]:
    for pattern, placeholder in _VOLATILE:
        output = pattern.sub(placeholder, output)
    return [line.rstrip() for line in output.splitlines()]


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


@pytest.fixture
async def fresh_suite(tmp_path: Path) -> AsyncIterator[Suite]:
    # Under the name that the README's lines read the administrator's password from.
    suite = Suite(tmp_path / ".sagacity", fsync=False)
    await suite.start()
    try:
        yield suite
    finally:
        await suite.abort()


@pytest.mark.e2e
async def test_the_tour_of_the_readme_answers_what_the_readme_shows(fresh_suite: Suite) -> None:
    stops = tour()
    script = f"echo '{NEXT_STOP}'\n".join(stop.commands for stop in stops).replace(
        README_URL, fresh_suite.gateway_url
    )
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        cwd=fresh_suite.data_dir.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await asyncio.wait_for(shell.communicate(), timeout=TOUR_SECONDS)
    assert (shell.returncode, complaints.decode("utf-8")) == (0, "")
    answers = said.decode("utf-8").split(f"{NEXT_STOP}\n")
    assert [steady(answer) for answer in answers] == [steady(stop.recorded) for stop in stops]


def test_every_bash_block_of_the_readme_is_part_of_the_tested_tour() -> None:
    text = text_of(README)
    assert len(tour()) == text.count("```bash") == text.count("<!-- tested -->") >= 5
    outside = _TOUR.sub("", text)
    assert "curl" not in outside


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = _LINK.findall(_FENCED.sub("", text_of(page)))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not _leads_somewhere(page, link)] == []


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not heading or heading in {_anchor(line) for line in text_of(target).splitlines()}


def _anchor(line: str) -> str:
    """Return what a heading is linked to by."""
    title = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
    return title.replace(" ", "-") if line.startswith("#") else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    assert set(_MAKE.findall(text_of(page))) <= set(_TARGET.findall(text_of(ROOT / "Makefile")))


def test_the_page_for_contributors_lists_every_make_target() -> None:
    listed = re.findall(r"^\| `make ([a-z-]+)` \|", text_of(ROOT / "CONTRIBUTING.md"), re.MULTILINE)
    assert {*listed, "help"} == set(_TARGET.findall(text_of(ROOT / "Makefile")))


def test_the_index_leads_to_every_page_of_the_documentation() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / link).resolve() for link in _LINK.findall(text_of(index))}
    assert [
        page for page in PAGES if page.is_relative_to(index.parent) and page not in {*reached, index}
    ] == []
