"""Every crash point of the programs, read from the code: a new step or a new point is a target by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from orchestrator.saga import Operation
from orchestrator.sagas import DEFINITIONS

ROOT = Path(__file__).resolve().parents[2]
ORCHESTRATOR = "orchestrator"
PLACE_ORDER = "place_order"
CANCEL_ORDER = "cancel_order"
FULFIL_ORDER = "fulfil_order"
DO, UNDO = Operation.DO, Operation.UNDO
# Which saga passes a journal's point, in which direction, and how many passages are hit. "Undone" is, of a
# request, that its order is still being placed and is undone for it. A point that is not here fails a test.
JOURNAL_POINTS: dict[str, tuple[str, Operation, int]] = {
    "journal.before_write": (PLACE_ORDER, DO, 8),
    "journal.after_write": (PLACE_ORDER, DO, 8),
    "journal.before_accept": (PLACE_ORDER, DO, 2),
    "journal.after_accept": (PLACE_ORDER, DO, 2),
    "journal.before_accept_behind": (CANCEL_ORDER, DO, 1),
    "journal.after_accept_behind": (CANCEL_ORDER, DO, 1),
    "journal.before_command": (CANCEL_ORDER, UNDO, 1),
    "journal.after_command": (CANCEL_ORDER, UNDO, 1),
}
# The same of the services' own points.
SERVICE_POINTS = {
    "payments.charge.after_provider": (PLACE_ORDER, DO),
    "payments.charge.after_commit": (PLACE_ORDER, DO),
    "payments.reverse.after_provider": (PLACE_ORDER, UNDO),
    "payments.refund.after_provider": ("refund_order", DO),
    "payments.capture.after_provider": (FULFIL_ORDER, DO),
}


@dataclass(frozen=True)
class Target:
    """A passage of a crash point, and the traffic that comes there: a saga going forward, or being undone."""

    process: str
    point: str
    passage: int
    kind: str
    operation: Operation

    @property
    def crash_at(self) -> str:
        """The value of SAGACITY_CRASH_AT."""
        return f"{self.point}:{self.passage}"

    @property
    def family(self) -> tuple[str, str, str]:
        """What a sample takes one of: the same moment of the same kind of saga, at any step."""
        moment = self.point if self.point in JOURNAL_POINTS else self.point.rsplit(".", 2)[0]
        return (self.kind, moment if self.process == ORCHESTRATOR else self.process, str(self.operation))


def all_targets() -> list[Target]:
    """Every crash point of orchestrator and services that traffic can come to."""
    return [*_journal(), *_calls(), *_services()]


def _journal() -> Iterable[Target]:
    for point, (kind, operation, passages) in JOURNAL_POINTS.items():
        for passage in range(1, passages + 1):
            yield Target(ORCHESTRATOR, point, passage, kind, operation)


def _calls() -> Iterable[Target]:
    newest = {kind: saga for (kind, _), saga in sorted(DEFINITIONS.sagas.items())}
    for kind, saga in newest.items():
        for step in saga.all_steps():
            for operation in (DO, UNDO) if step.undo else (DO,):
                for moment in ("before_call", "after_call"):
                    point = f"executor.{moment}.{step.name}.{operation}"
                    yield Target(ORCHESTRATOR, point, 1, kind, operation)


def _services() -> Iterable[Target]:
    kinds = {kind for kind, _ in DEFINITIONS.sagas}
    for point in points_in("services"):
        kind, operation = SERVICE_POINTS[point]
        if kind in kinds:
            yield Target(point.split(".")[0], point, 1, kind, operation)


def points_in(folder: str) -> list[str]:
    """The names of the crash points in the code below a folder; those of calls are made at run time."""
    code = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / folder).rglob("*.py")))
    return re.findall(r"crash_point\(\s*\"([^\"]+)\"", code)


def sample(targets: Iterable[Target], rotation: int) -> list[Target]:
    """One target of each family, another one with each rotation."""
    ordered = sorted(targets, key=lambda target: (target.family, target.crash_at))
    families = [list(members) for _, members in groupby(ordered, key=lambda target: target.family)]
    return [members[rotation % len(members)] for members in families]


def batches(targets: Iterable[Target], size: int) -> list[list[Target]]:
    """Targets that can be hit at once: of one kind of saga and direction, and no service twice.

    The points of calls do not name the saga: whoever waits for one kind must not meet another.
    """
    made: list[list[Target]] = []
    for target in sorted(targets, key=lambda target: (target.kind, target.operation, target.process)):
        last = made[-1] if made else []
        together = last and last[0].kind == target.kind and last[0].operation is target.operation
        own = target.process == ORCHESTRATOR or all(other.process != target.process for other in last)
        if together and own and len(last) < size:
            last.append(target)
        else:
            made.append([target])
    return made
