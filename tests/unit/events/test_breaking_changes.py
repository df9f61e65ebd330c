"""What `make lint` runs refuses what breaks the released protos, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.events.proto_copies import ROOT, copied, replaced

BUF = Path(sys.executable).parent / "buf"
TIMEOUT_SECONDS = 60

EVENTS = "payments/v1/events.proto"
FIELD = "  // Why, as an UPPER_SNAKE code, for example CARD_DECLINED.\n  string reason = 4;\n"


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the line of the Makefile in a folder."""
    [line] = [line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if "buf breaking" in line]
    command = line.strip().removeprefix("$(BIN)/buf ").replace("$(RELEASED)", "protos/released.binpb").split()
    return subprocess.run(
        [BUF, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )


def test_the_protos_as_they_are_break_nothing(tmp_path: Path) -> None:
    copied(tmp_path)
    done = breaking(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_new_field_breaks_nothing(tmp_path: Path) -> None:
    replaced(copied(tmp_path), EVENTS, FIELD, f"{FIELD}  // New.\n  string extra = 77;\n")
    assert breaking(tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("", 'Previously present field "4"'),
        (FIELD.replace("= 4", "= 5"), 'Previously present field "4"'),
        (FIELD.replace("string", "int64"), 'changed type from "string"'),
        (FIELD.replace("reason", "cause"), 'changed name from "reason"'),
        (FIELD.replace("string", "repeated string"), "changed cardinality"),
    ],
    ids=["removed", "renumbered", "of another type", "renamed", "repeated"],
)
def test_a_field_of_an_event_that_does_not_stay_what_it_was_is_refused(
    tmp_path: Path, new: str, why: str
) -> None:
    replaced(copied(tmp_path), EVENTS, FIELD, new)
    done = breaking(tmp_path)
    assert done.returncode != 0
    assert why in done.stdout


def test_a_request_is_kept_like_an_event(tmp_path: Path) -> None:
    replaced(copied(tmp_path), "inventory/v1/inventory.proto", "  int64 delta = 2 [", "  int64 delta = 7 [")
    assert "AdjustStockRequest" in breaking(tmp_path).stdout
