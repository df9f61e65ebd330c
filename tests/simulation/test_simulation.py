"""The real engine on virtual time: P4, P5, P6, P8, F1, F2, F6, F13, F22, and known bugs that it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.simulation.branches import RARE_BRANCHES
from tests.simulation.planted_bugs import PLANTED, SEEDS_FOR_A_BUG, first_found
from tests.simulation.runner import Summary, run_seeds
from tests.simulation.seeds import run_seed

# Seconds on a quiet machine; a busy one may take long.
pytestmark = pytest.mark.timeout(300)

SEEDS = 1_000
CHAOS_SEEDS = 100_000
CHAOS_SECONDS = 2 * 3600
JOBS = 2
SEEDS_THAT_REPLAY = (0, 7, 19, 42, 1_000_003)


@pytest.fixture(scope="module")
def summary() -> Summary:
    return run_seeds(0, SEEDS, JOBS)[0]


def test_nothing_that_was_promised_is_broken_in_any_seed(summary: Summary) -> None:
    assert summary.failing == {}
    assert summary.seeds == SEEDS


@pytest.mark.parametrize("branch", RARE_BRANCHES)
def test_the_seeds_take_every_rare_branch(summary: Summary, branch: str) -> None:
    assert summary.counts[branch] > 0


@pytest.mark.parametrize("seed", SEEDS_THAT_REPLAY)
def test_a_seed_replays_to_the_last_entry_of_its_trace(seed: int) -> None:
    first, second = run_seed(seed), run_seed(seed)
    assert [str(entry) for entry in first.trace] == [str(entry) for entry in second.trace]
    assert first.counts == second.counts
    assert len(first.trace) > 10


def test_a_seed_is_the_same_in_every_process() -> None:
    traces = [command_line("--seed", "7", "--verbose", hash_seed=seed).stdout for seed in ("1", "2")]
    assert traces[0] == traces[1]
    assert "commit" in traces[0]


def test_the_command_tells_figures_to_programs() -> None:
    told = command_line("--seeds", "0:4", "--jobs", "1", "--json")
    figures = json.loads(told.stdout)
    assert (told.returncode, figures["seeds"], figures["failing"]) == (0, 4, {})
    assert figures["branches"]["saga accepted"] > 0


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_its_seed_replays(name: str) -> None:
    found = first_found(name)
    assert found is not None, f"not found in {SEEDS_FOR_A_BUG} seeds, or not again in the same one"
    # It is the bug that is found, and not something else in that seed.
    assert run_seed(found.seed).violations == []


@pytest.mark.chaos
@pytest.mark.timeout(CHAOS_SECONDS)
def test_a_hundred_thousand_seeds_break_nothing(seen: dict[str, Any]) -> None:
    total, seconds = run_seeds(0, CHAOS_SEEDS, JOBS)
    seen |= total.figures(seconds)
    assert total.failing == {}
    assert total.never_taken == []


def command_line(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}  # noqa: TID251 - handed on as it is
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
