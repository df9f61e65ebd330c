"""What an operator may do with a projection: look at it, and rebuild it as a generation beside the old one.

A service that keeps a projection hands an object of this shape to the operator's surface; how it copies,
follows and switches is its own business.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from chassis.postgres import Database, Transaction


class ProjectionState(StrEnum):
    """What a projection is doing."""

    SERVING = "SERVING"
    """Nothing is being built."""
    COPYING = "COPYING"
    """A new generation gets what there is."""
    CATCHING_UP = "CATCHING_UP"
    """A new generation follows the events, and is switched to once it has caught up."""


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """Where a projection stands.

    Attributes:
        name: as an operator calls it, such as "order-history".
        active_generation: what is read; 0: there is none yet.
        building_generation: what is being built; None: nothing.
        copied: aggregates that were copied into what is being built; into the active one where nothing is.
        begin_time: when the building of that generation began.
        switch_time: when the active generation became it; None where it was the first of an empty database.
    """

    name: str
    state: ProjectionState
    active_generation: int
    building_generation: int | None
    copied: int
    begin_time: datetime | None
    switch_time: datetime | None


class Projection(Protocol):
    """A projection that can be rebuilt."""

    @property
    def name(self) -> str:
        """As an operator calls it; lower-case words with hyphens."""
        ...

    async def rebuild(self, tx: Transaction) -> ProjectionStatus:
        """Begins a new generation in the caller's transaction; one that is being built goes on instead."""
        ...

    async def status(self, source: Database | Transaction) -> ProjectionStatus:
        """Tells where it stands.

        Raises:
            Fault: UNAVAILABLE.
        """
        ...
