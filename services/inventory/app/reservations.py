"""Use cases about stock that is held, sold or given back for an order; each is called by the orchestrator."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid5

from chassis import barrier, outbox
from chassis.barrier import Json, SagaCall
from chassis.clock import Clock
from chassis.ids import NewId
from chassis.outbox import Event
from chassis.postgres import Database, Transaction
from services.inventory import events
from services.inventory.domain import (
    Hold,
    Reservation,
    ReservationNotFoundError,
    ReservationState,
    WantedLine,
    reservation_from_json,
)
from services.inventory.store import reservations as store
from services.inventory.store import returns

EXPIRY_BATCH = 50
# Who moves stock that comes back: only the orchestrator may ask for it.
RESTOCKER = "orchestrator"

ReleasedEvent = Callable[[UUID, UUID, UUID, datetime], Event]


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

        async def undo(tx: Transaction) -> Json:
            return await self._release(tx, reservation_id, events.stock_released_by_undo)

        return self._answered(await barrier.undo_once(self.database, call, undo))

    async def cancel_reservation(self, call: SagaCall, reservation_id: UUID) -> ReservationState | None:
        """Gives the stock of a cancelled order back, as a step of its own; else as `release_reservation`."""

        async def do(tx: Transaction) -> Json:
            return await self._release(tx, reservation_id, events.stock_released_by_cancellation)

        reply = await barrier.do_once(self.database, call, do, as_refusal=_unstored, store_refusals=False)
        return self._answered(reply)

    async def restock(
        self, call: SagaCall, reservation_id: UUID, lines: Collection[WantedLine]
    ) -> ReservationState | None:
        """Takes sold units back, once per saga step; what is refused is not stored and evaluated anew.

        Args:
            call: The step.
            reservation_id: Of the reservation that sold them.
            lines: One per SKU. None of them: nothing happens, whatever the reservation.

        Returns:
            The state now; None where there is no such reservation and nothing came back.

        Raises:
            ReservationNotFoundError: There is none.
            ReservationNotCommittedError: Nothing of it is sold, or no longer.
            ReturnTooLargeError: More would come back than is sold.
        """

        async def do(tx: Transaction) -> Json:
            if not lines:
                return await self._standing(tx, reservation_id)
            return await self._restock(tx, call, reservation_id, lines)

        reply = await barrier.do_once(self.database, call, do, as_refusal=_unstored, store_refusals=False)
        return self._answered(reply)

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

    async def _restock(
        self, tx: Transaction, call: SagaCall, reservation_id: UUID, lines: Collection[WantedLine]
    ) -> Json:
        before = await returns.lock_reservation(tx, reservation_id)
        change = returns.Return(
            reservation_id,
            before.state_after_return(lines),
            lines,
            reason=f"came back from order {before.order_id}",
            caller=RESTOCKER,
            movement_ids=[self.new_id() for _ in lines],
            # A movement's own name for the step: should the barrier ever fail, the movement does not.
            request_ids=[uuid5(call.saga_id, f"{call.step}/{line.sku}") for line in lines],
        )
        now = self.clock.now()
        sequence = await returns.restock(tx, change, now)
        event = events.stock_returned(self.new_id(), before, lines, now)
        await outbox.append(tx, event, sequence=sequence)
        return {"state": change.state.value}

    async def _standing(self, tx: Transaction, reservation_id: UUID) -> Json:
        try:
            return {"state": (await store.reservation(tx, reservation_id)).state.value}
        except ReservationNotFoundError:
            return {}

    def _answered(self, reply: Json) -> ReservationState | None:
        self.wake_relay()
        return ReservationState(reply["state"]) if reply.get("state") else None

    async def _release(self, tx: Transaction, reservation_id: UUID, new_event: ReleasedEvent) -> Json:
        released = await store.release(tx, reservation_id)
        if released is None:
            return {}
        order_id, state, sequence = released
        if sequence is not None:
            event = new_event(self.new_id(), reservation_id, order_id, self.clock.now())
            await outbox.append(tx, event, sequence=sequence)
        return {"state": state.value}


def _unstored(_: Exception) -> None:
    """Nothing that a step after the pivot raises is stored."""
