"""The definitions that this code can drive, and how a stored saga becomes one in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chassis.errors import Fault
from orchestrator.entries import INTENDED, Entry, Event, State
from orchestrator.progress import Progress
from orchestrator.saga import Saga
from orchestrator.saga_log import SagaRow


@dataclass(frozen=True)
class Definitions:
    """Every version that may have open sagas, by kind and version."""

    sagas: Mapping[tuple[str, int], Saga[Any]]

    @property
    def names(self) -> list[str]:
        """The definitions as the journal names them: kind, version and hash, with a blank between."""
        return [f"{saga.kind} {saga.version} {saga.hash}" for saga in self.sagas.values()]

    def find(self, kind: str, version: int, definition_hash: str) -> Saga[Any] | None:
        """The definition that a saga began with; None where this code does not have it."""
        definition = self.sagas.get((kind, version))
        return definition if definition is not None and definition.hash == definition_hash else None

    def progress(self, row: SagaRow, events: list[Event]) -> Progress | None:
        """Make the Progress of a stored saga; None where this code does not have its definition.

        Raises whatever the parameters or the events hold that this code cannot read.
        """
        definition = self.find(row.kind, row.version, row.definition_hash)
        if definition is None:
            return None
        refusal = dict(row.refusal) if row.refusal else None
        refused_step = str(refusal.pop("step")) if refusal else ""
        progress = Progress(
            definition=definition,
            saga_id=row.id,
            params=definition.params(**row.context),
            state=row.state,
            epoch=row.epoch,
            sequence=row.sequence,
            pivot_intended=row.pivot_intended,
            attempts=row.attempts,
            refusal=Fault.from_json(refusal) if refusal else None,
            refused_step=refused_step,
            fingerprint=row.error_fingerprint,
            last_error=row.last_error,
            step=row.step,
        )
        for event in events:
            progress.replay(event)
        return progress


def unloadable(row: SagaRow) -> Entry:
    """The entry that parks a saga whose definition this code does not have."""
    detail = f"no definition {row.kind} v{row.version} {row.definition_hash}"
    return Entry(
        saga_id=row.id,
        epoch=row.epoch,
        sequence=row.sequence,
        state=State.PARKED,
        attempts=0,
        pivot_intended=row.pivot_intended,
        refusal=row.refusal,
        events=(Event("", "parked", 0, INTENDED, detail=detail),),
        step=row.step,
        fingerprint=f"{row.kind}.v{row.version}",
        last_error=detail,
    )
