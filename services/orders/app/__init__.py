"""The use cases of this context; each opens at most one transaction."""

from dataclasses import dataclass

from services.orders.app.choreographies import Choreographies
from services.orders.app.placing import EXPONENTS, Placing, Wish, quote_order
from services.orders.app.reading import Reading

__all__ = ["EXPONENTS", "Orders", "Wish", "quote_order"]


@dataclass(frozen=True, kw_only=True)
class Orders(Placing, Choreographies, Reading):
    """All use cases."""
