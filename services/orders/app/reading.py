"""Use cases that only read; each is one statement."""

from dataclasses import dataclass
from uuid import UUID

from services.orders.app.parts import Parts
from services.orders.domain import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    Order,
    OrderNotFoundError,
    TimelineEntry,
)
from services.orders.history import listing
from services.orders.history.listing import Page
from services.orders.history.search import OrderSearch, Position, require_valid
from services.orders.store import reads, timelines


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

    async def list_orders(self, search: OrderSearch, after: Position | None, *, page_size: int) -> Page:
        """Reads a page of orders.

        Args:
            search: which orders, and how they are sorted.
            after: where the page before ended; None: the first page.
            page_size: orders at most; 0: DEFAULT_PAGE_SIZE; never more than MAX_PAGE_SIZE.

        Raises:
            InvalidSearchError: the filters do not go together.
            HistoryNotReadyError: the projection is being built for the first time.
        """
        require_valid(search)
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        return await listing.read_page(self.database, search, after, size=size)

    async def timeline(
        self, order_id: UUID, *, after: int, visible_to: UUID | None
    ) -> tuple[Order, int, tuple[TimelineEntry, ...]]:
        """Reads what became of an order, oldest first.

        Args:
            order_id: which order.
            after: only facts of a higher sequence.
            visible_to: the user whose orders may be seen; None: everybody's.

        Returns:
            The order, the sequence of its newest fact, and the facts, `timelines.MAX_TIMELINE` at most.

        Raises:
            OrderNotFoundError: there is none, or it is another user's.
        """
        order, sequence, entries = await timelines.timeline(self.database, order_id, after=after)
        if visible_to not in (None, order.user_id):
            raise OrderNotFoundError
        return order, sequence, entries
