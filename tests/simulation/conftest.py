"""What a long run of seeds saw is written down: in the summary, and beside the JSON of `make chaos`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ENVIRONMENT

JSON_FILE = "SAGACITY_CHAOS_JSON"
FIGURES = pytest.StashKey[dict[str, Any]]()


@pytest.fixture
def seen(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The figures to be written down."""
    return pytestconfig.stash.setdefault(FIGURES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, None)
    if not figures:
        return
    terminalreporter.section("what the seeds saw")
    for name in ("seeds", "seconds", "seeds_per_second", "failing", "never_taken"):
        terminalreporter.write_line(f"{name}: {figures[name]}")
    for branch, times in figures["branches"].items():
        terminalreporter.write_line(f"{times:>12,}  {branch}")
    if file := ENVIRONMENT.get(JSON_FILE):
        Path(file).with_suffix(".simulation.json").write_text(json.dumps(figures, indent=2), "utf-8")
