"""Use cases that only read; each is one statement."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.orders.app.parts import Parts
from services.orders.domain import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    Order,
    OrderFilter,
    OrderNotFoundError,
)
from services.orders.store import reads


@dataclass(frozen=True, kw_only=True)
class Reading(Parts):
    """What people look at."""

    async def get_order(self, order_id: UUID, *, visible_to: UUID | None) -> Order:
        """Reads one order.

        Args:
            order_id: which order.
            visible_to: the user whose orders may be seen; None: everybody's.

        Raises:
            OrderNotFoundError: there is none, or it is another user's.
        """
        order = await reads.order_by_id(self.database, order_id)
        if visible_to not in (None, order.user_id):
            raise OrderNotFoundError
        return order

    async def list_orders(
        self, chosen: OrderFilter, after: tuple[datetime, UUID] | None, *, page_size: int
    ) -> tuple[list[Order], tuple[datetime, UUID] | None]:
        """Reads a page of orders, newest first.

        Args:
            chosen: which orders.
            after: where the page before ended; None: the first page.
            page_size: orders at most; 0: DEFAULT_PAGE_SIZE; never more than MAX_PAGE_SIZE.

        Returns:
            The page and where it ends; None where no order follows.
        """
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        # One more than the page has: whether there is a next one.
        found = await reads.orders_before(self.database, chosen, after or reads.NEWEST, limit=size + 1)
        page = found[:size]
        return page, (page[-1].create_time, page[-1].id) if len(found) > size else None
