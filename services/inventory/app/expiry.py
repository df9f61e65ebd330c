"""Ends holds whose time ran out, for as long as the process lives."""

import asyncio

import structlog

from chassis.errors import Fault
from services.inventory.app.reservations import EXPIRY_BATCH, Reservations

SWEEP_INTERVAL_SECONDS = 1.0

_log = structlog.get_logger()


class ExpirySweeper:
    """A background task; several processes may run one each, they skip what another one has in hand."""

    def __init__(
        self, reservations: Reservations, *, interval_seconds: float = SWEEP_INTERVAL_SECONDS
    ) -> None:
        self._reservations = reservations
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Sweeps until cancelled, without rest after a full batch; waits out an outage of the database."""
        while True:
            if await self._sweep() < EXPIRY_BATCH:
                await asyncio.sleep(self._interval_seconds)

    async def _sweep(self) -> int:
        try:
            count = await self._reservations.expire_due()
        except Fault as fault:
            _log.warning("expiry_sweep_failed", reason=fault.reason, message=fault.message)
            return 0
        if count:
            _log.info("holds_expired", count=count)
        return count
