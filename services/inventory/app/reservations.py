"""Use cases about stock that is held, sold or given back for an order; each is called by the orchestrator."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from chassis import barrier, outbox
from chassis.barrier import Json, SagaCall
from chassis.clock import Clock
from chassis.ids import NewId
from chassis.postgres import Database, Transaction
from services.inventory import events
from services.inventory.domain import Hold, Reservation, ReservationState, reservation_from_json
from services.inventory.store import reservations as store

EXPIRY_BATCH = 50


@dataclass(frozen=True, slots=True)
class Reservations:
    """Reservations.

    Attributes:
        wake_relay: Called after a commit that left something to publish.
    """

    database: Database
    clock: Clock
    new_id: NewId
    wake_relay: Callable[[], None]

    async def reserve(self, call: SagaCall, hold: Hold) -> Reservation:
        """Holds all lines for an order or none, once per saga step.

        Raises:
            Fault: The refusal, recorded: PRODUCT_NOT_FOUND, CURRENCY_MISMATCH or INSUFFICIENT_STOCK, with
                every SKU that it is about; or as `barrier.replay`.
            ReservationExistsError: The reservation or the order is taken by another call.
        """
        event = events.stock_reserved(self.new_id(), hold, self.clock.now())
        row = await store.reserve(self.database, call, hold, event)
        return reservation_from_json(await self._settled(call, row))

    async def commit_reservation(self, call: SagaCall, reservation_id: UUID) -> ReservationState:
        """Makes held stock sold stock, once per saga step; what is sold already stays so.

        Raises:
            Fault: The refusal, recorded: RESERVATION_EXPIRED, RESERVATION_RELEASED or RESERVATION_NOT_FOUND;
                or as `barrier.replay`.
        """
        event = events.stock_committed_up_to_order_id(self.new_id(), reservation_id, self.clock.now())
        row = await store.commit_reservation(self.database, call, reservation_id, event)
        return ReservationState((await self._settled(call, row))["state"])

    async def release_reservation(self, call: SagaCall, reservation_id: UUID) -> ReservationState | None:
        """Gives the stock of a reservation back, whatever its state; it has no refusals.

        Args:
            call: The step that is undone; several steps of a saga may release one reservation.
            reservation_id: Of a reservation that may never have come to be.

        Returns:
            The state now; None where there never was a reservation, or nothing of this step.
        """
        reply = await barrier.undo_once(self.database, call, lambda tx: self._release(tx, reservation_id))
        self.wake_relay()
        return ReservationState(reply["state"]) if reply.get("state") else None

    async def reservation(self, reservation_id: UUID) -> Reservation:
        """Reads one reservation.

        Raises:
            ReservationNotFoundError: There is none.
        """
        return await store.reservation(self.database, reservation_id)

    async def expire_due(self) -> int:
        """Expires at most EXPIRY_BATCH holds, due by the database's clock; returns how many it were."""

        async def use_case(tx: Transaction) -> int:
            now = self.clock.now()
            expired = await store.expire_due(tx, EXPIRY_BATCH)
            for row in expired:
                event = events.stock_released_by_expiry(self.new_id(), row["id"], row["order_id"], now)
                await outbox.append(tx, event, sequence=row["sequence"])
            return len(expired)

        count = await self.database.run(use_case)
        if count:
            self.wake_relay()
        return count

    async def _settled(self, call: SagaCall, row: dict[str, object] | None) -> Json:
        if row is None:
            return await barrier.settle_duplicate(self.database, call)
        reply = barrier.outcome(row)
        self.wake_relay()
        return reply

    async def _release(self, tx: Transaction, reservation_id: UUID) -> Json:
        released = await store.release(tx, reservation_id)
        if released is None:
            return {}
        order_id, state, sequence = released
        if sequence is not None:
            event = events.stock_released_by_undo(self.new_id(), reservation_id, order_id, self.clock.now())
            await outbox.append(tx, event, sequence=sequence)
        return {"state": state.value}
