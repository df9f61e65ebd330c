"""Use cases about products and how much of them there is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from chassis import outbox
from chassis.clock import Clock
from chassis.ids import NewId
from chassis.postgres import Database, Transaction
from services.inventory import events
from services.inventory.domain import (
    EtagMismatchError,
    Product,
    ProductChange,
    SkuTakenError,
    Stock,
    StockAdjustment,
    check_change,
    check_sku,
)
from services.inventory.store import products as store


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Products and stock.

    Attributes:
        known_currencies: ISO 4217 codes that a price may have.
        wake_relay: Called after a commit that left something to publish.
    """

    database: Database
    clock: Clock
    new_id: NewId
    known_currencies: frozenset[str]
    wake_relay: Callable[[], None]

    async def create_product(self, sku: str, change: ProductChange) -> Product:
        """Adds a product, on sale, with no stock.

        Args:
            sku: Its key, for ever.
            change: All values but `active`.

        Raises:
            InvalidFieldsError: Values that a product cannot have.
            SkuTakenError: There is such a product.
        """
        check_sku(sku, "sku")
        check_change(change, known_currencies=self.known_currencies)

        async def use_case(tx: Transaction) -> Product:
            now = self.clock.now()
            added = await store.insert_product(tx, sku, change, now)
            if added is None:
                raise SkuTakenError(sku)
            product, sequence = added
            await outbox.append(tx, events.product_created(self.new_id(), product, now), sequence=sequence)
            # Afterwards, so that StockLow follows: what begins with a threshold begins low.
            return await self._with_threshold(tx, product, change.low_stock_threshold)

        product = await self.database.run(use_case)
        self.wake_relay()
        return product

    async def update_product(self, sku: str, change: ProductChange, *, etag: str = "") -> Product:
        """Changes what is not None; a non-empty etag must be that of the product now.

        Raises:
            InvalidFieldsError: Values that a product cannot have.
            ProductNotFoundError: There is no such product.
            EtagMismatchError: It changed since the caller read it.
        """
        check_sku(sku, "product.sku")
        check_change(change, known_currencies=self.known_currencies, prefix="product.")

        async def use_case(tx: Transaction) -> Product:
            before = await store.lock_product(tx, sku)
            if etag and etag != before.etag:
                raise EtagMismatchError(sku)
            after = await store.update_product(tx, sku, change, self.clock.now())
            return await self._with_threshold(tx, after, change.low_stock_threshold)

        product = await self.database.run(use_case)
        self.wake_relay()
        return product

    async def archive_product(self, sku: str) -> Product:
        """Takes a product out of sale; one that is out of sale stays as it is.

        Raises:
            ProductNotFoundError: There is no such product.
        """

        async def use_case(tx: Transaction) -> Product:
            before = await store.lock_product(tx, sku)
            if not before.active:
                return before
            return await store.update_product(tx, sku, ProductChange(active=False), self.clock.now())

        return await self.database.run(use_case)

    async def product(self, sku: str) -> Product:
        """Reads one product.

        Raises:
            ProductNotFoundError: There is none.
        """
        return await store.product(self.database, sku)

    async def products(
        self, *, after: str, category: str, include_inactive: bool, page_size: int
    ) -> tuple[list[Product], bool]:
        """Reads a page of products behind a SKU, in SKU order, and whether there are more behind it."""
        # One more than is shown tells whether there is a next page.
        found = await store.products(
            self.database,
            after=after,
            category=category,
            include_inactive=include_inactive,
            limit=page_size + 1,
        )
        return found[:page_size], len(found) > page_size

    async def stock(self, sku: str) -> Stock:
        """Reads the stock of one product.

        Raises:
            ProductNotFoundError: There is no such product.
        """
        return await store.stock(self.database, sku)

    async def adjust_stock(self, adjustment: StockAdjustment) -> Stock:
        """Adds to the stock on hand, or takes from it, once per request id; returns the stock after that.

        Raises:
            ProductNotFoundError: There is no such product.
            StockWouldBeNegativeError: More would be taken than can be ordered.
            RequestIdReusedError: The caller gave the request id to another adjustment.
        """

        async def use_case(tx: Transaction) -> Stock:
            # The lock comes first: whoever waits for it sees, in the next statement, what the other one did.
            before = await store.lock_stock(tx, adjustment.sku)
            done = await store.stock_after(tx, adjustment)
            if done is not None:
                return done
            after = before.adjusted(adjustment.delta)
            await store.move_stock(tx, self.new_id(), adjustment, after, self.clock.now())
            return after

        stock = await self.database.run(use_case)
        self.wake_relay()
        return stock

    async def _with_threshold(self, tx: Transaction, product: Product, threshold: int | None) -> Product:
        if threshold is None or threshold == product.low_stock_threshold:
            return product
        await store.set_low_stock_threshold(tx, product.sku, threshold)
        return replace(product, low_stock_threshold=threshold)
