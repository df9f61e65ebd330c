"""What every use case of this context needs."""

from collections.abc import Callable
from dataclasses import dataclass

from chassis.clock import Clock
from chassis.errors import Fault
from chassis.ids import NewId
from chassis.postgres import Database


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the use cases need.

    Attributes:
        as_refusal: the Fault that a domain error is stored as; None for an error that is no refusal.
        published: called after a commit that left something in the outbox; wakes the relay.
    """

    database: Database
    clock: Clock
    new_id: NewId
    as_refusal: Callable[[Exception], Fault | None]
    published: Callable[[], None]
