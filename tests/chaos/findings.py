"""What the rounds saw: one row for each kind of fault, as a table and as JSON; a failed proof is in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.e2e.invariants import broken_invariants, prove_everything
from tests.e2e.shoppers import Market

LOST = {"I1", "I3", "P5"}
DOUBLE = {"I2", "I9", "I10", "I16"}
COLUMNS = ("rounds", "fired", "taken over", "median s", "worst s", "fences", "lost", "double")


@dataclass
class Findings:
    """What was seen of one kind of fault."""

    rounds: int = 0
    fired: int = 0
    taken_over: int = 0
    takeover_seconds: list[float] = field(default_factory=list)
    fence_refusals: int = 0
    lost: int = 0
    double: int = 0
    faults: list[str] = field(default_factory=list)

    def saw(self, fault: str, *, taken_over: int, seconds: float | None, fences: int = 0) -> None:
        """Note a fault that has fired, and what came of it."""
        self.fired += 1
        self.faults.append(fault)
        self.taken_over += taken_over
        self.fence_refusals += fences
        if seconds is not None and taken_over:
            self.takeover_seconds.append(round(seconds, 2))

    async def prove(self, market: Market) -> None:
        """Wait until nothing is under way, prove every invariant, and count what is lost or there twice.

        Raises:
            AssertionError: as `prove_everything`.
        """
        try:
            await prove_everything(market.suite, market.journal)
        except AssertionError:
            broken = [found.invariant for found in await broken_invariants(market.suite, market.journal)]
            self.lost += sum(invariant in LOST for invariant in broken)
            self.double += sum(invariant in DOUBLE for invariant in broken)
            raise

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        seconds = self.takeover_seconds
        return (
            *(str(number) for number in (self.rounds, self.fired, self.taken_over)),
            f"{median(seconds):.2f}" if seconds else "-",
            f"{max(seconds):.2f}" if seconds else "-",
            *(str(number) for number in (self.fence_refusals, self.lost, self.double)),
        )


class Report:
    """The findings of one run, by kind of fault."""

    def __init__(self) -> None:
        self._findings: dict[str, Findings] = {}

    def of(self, fault: str) -> Findings:
        """The findings of a kind of fault, empty at first."""
        return self._findings.setdefault(fault, Findings())

    def table(self) -> Iterable[str]:
        """The lines of the table; none where nothing was looked at."""
        if not self._findings:
            return
        yield f"{'fault':<28}" + "".join(f"{column:>12}" for column in COLUMNS)
        for fault, findings in self._findings.items():
            yield f"{fault:<28}" + "".join(f"{cell:>12}" for cell in findings.cells)

    def write(self, file: Path) -> None:
        """Write everything as JSON."""
        values = {fault: asdict(findings) for fault, findings in self._findings.items()}
        file.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
