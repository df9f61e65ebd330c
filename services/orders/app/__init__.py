"""The use cases of this context; each opens at most one transaction."""

from dataclasses import dataclass

from services.orders.app.after_sale import AfterSale
from services.orders.app.placing import EXPONENTS, Placing, Wish, quote_order
from services.orders.app.reading import Reading

__all__ = ["EXPONENTS", "Orders", "Wish", "quote_order"]


@dataclass(frozen=True, kw_only=True)
class Orders(Placing, AfterSale, Reading):
    """All use cases."""
