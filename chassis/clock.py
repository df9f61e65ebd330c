"""Time is passed in, so that a test or a simulation can say what it is."""

from datetime import UTC, datetime
from typing import Protocol

from typing_extensions import override


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The present, aware, in UTC."""


class SystemClock(Clock):
    """The host's clock. What must agree between hosts uses the database's clock instead."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - the one place
