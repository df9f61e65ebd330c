"""Background tasks that end what facts of others began here; several replicas may run them at once.

The requester asks the orchestrator for the cancellation of orders, in the name of this context. It asks until
the order is open no more, for only that is the end: an answer may be lost, or be about a moment that is past.
"""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import structlog

from chassis import tracing
from chassis.cloud_events import full_jitter
from chassis.errors import REFUSALS, Fault
from chassis.grpc_client import Connection
from chassis.metric_catalogue import ORDERS
from chassis.postgres import Database
from chassis.telemetry import counter, gauge
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc
from services.orders.app import Orders
from services.orders.cancellations import REASONS, CancellationRequest
from services.orders.provider_refunds import ProviderRefund, ProviderRefundState
from services.orders.store import cancellations, provider_refunds

BATCH = 16
POLL_SECONDS = 1.0
CALL_SECONDS = 5.0
# Longer than a batch takes: its calls are made at the same time.
LEASE_SECONDS = 15.0
BACKOFF_BASE_SECONDS = 0.25
BACKOFF_CAP_SECONDS = 30.0

WAITING = gauge(
    "sagacity_cancellations_waiting",
    "Orders that are to be cancelled and are not yet. The same at all replicas.",
    of=ORDERS,
    look="growing: is the orchestrator there?",
)
OLDEST_SECONDS = gauge(
    "sagacity_cancellations_oldest_seconds",
    "Age of the oldest of them.",
    of=ORDERS,
    look="above a few minutes: its `answer` in `cancellation_request` says what holds it up",
)
ANSWERS = counter(
    "sagacity_cancellations_asked_total",
    "What the orchestrator answered to them.",
    "answer",
    of=ORDERS,
    look="PENDING is as it should be; `cancellation_not_accepted` in the log names the orders of the others",
)
FINISHED = counter(
    "sagacity_cancellations_finished_total",
    "What became of orders to be cancelled.",
    "outcome",
    of=ORDERS,
    look="SHIPPED, DELIVERED: they went out; decide with the customer",
)
REFUNDS_WAITING = gauge(
    "sagacity_provider_refunds_waiting",
    "Refunds of the provider whose order is PENDING. The same at all replicas.",
    of=ORDERS,
    look="for long: the order's saga is stuck",
)
REFUNDS_REFUSED = gauge(
    "sagacity_provider_refunds_refused",
    "Refunds of the provider that do not fit what their order became. The same at all replicas.",
    of=ORDERS,
    look="alarm: `provider_refund` has the `error`; compare order, payment and the provider's dashboard",
)
# The order is as it must be, or a saga is at work that makes it so.
_ACCEPTED = frozenset({"DONE", "PENDING"})

_log = structlog.get_logger(__name__)


class CancellationRequester:
    """Asks for the cancellation of the orders of `cancellation_request`."""

    def __init__(self, database: Database, orchestrator: Connection) -> None:
        self._database = database
        self._orchestrator = orchestrator
        self._cancel_order = sagas_pb2_grpc.OrderSagasStub(orchestrator.channel).CancelOrder

    async def run(self) -> None:
        """Asks until cancelled, without rest after a full batch."""
        await _for_ever(self.ask_some, name="cancellation_requests_failed")

    async def ask_some(self) -> bool:
        """Takes a batch of requests in hand, and asks for those whose orders are open still.

        Returns:
            Whether the batch was full: there may be more.

        Raises:
            Fault: UNAVAILABLE, of the database.
        """
        requests = await cancellations.claim(self._database, limit=BATCH, lease_seconds=LEASE_SECONDS)
        closed = await cancellations.finish(self._database, [request.order_id for request in requests])
        for order_id, state in closed.items():
            FINISHED.labels(state).inc()
            _log.info("cancellation_request_done", order_id=str(order_id), outcome=state)
        asks = [self._ask_traced(request) for request in requests if request.order_id not in closed]
        # All of them come to their end before one that failed is told of.
        failures = await asyncio.gather(*asks, return_exceptions=True)
        waiting, oldest_seconds = await cancellations.census(self._database)
        WAITING.set(waiting)
        OLDEST_SECONDS.set(oldest_seconds)
        for failure in filter(None, failures):
            raise failure
        return len(requests) == BATCH

    async def _ask_traced(self, request: CancellationRequest) -> None:
        with tracing.handed_on(request.traceparent):
            await self._ask(request)

    async def _ask(self, request: CancellationRequest) -> None:
        answer, refused = await self._answer(request)
        ANSWERS.labels(answer).inc()
        if answer not in _ACCEPTED:
            _log.warning(
                "cancellation_not_accepted",
                order_id=str(request.order_id),
                answer=answer,
                attempts=request.attempts,
            )
        delay_seconds = full_jitter(
            request.attempts, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS
        )
        await cancellations.postpone(
            self._database, request, answer=answer, delay_seconds=delay_seconds, next_round=refused
        )

    async def _answer(self, request: CancellationRequest) -> tuple[str, bool]:
        """Asks once, and does not wait for the end: the order tells of it.

        Returns:
            The answer in UPPER_SNAKE, and whether it is a refusal, which its key may have for good.
        """
        asked = sagas_pb2.CancelOrderRequest(
            order_id=str(request.order_id),
            idempotency_key=request.idempotency_key,
            reason=REASONS[request.cause],
        )
        try:
            reply = await self._orchestrator.call(self._cancel_order, asked, timeout_seconds=CALL_SECONDS)
        except Fault as fault:
            return fault.reason, fault.kind in REFUSALS
        if reply.progress == sagas_pb2.REQUEST_PROGRESS_REFUSED:
            return reply.refusal.reason, True
        return sagas_pb2.RequestProgress.Name(reply.progress).removeprefix("REQUEST_PROGRESS_"), False


class ProviderRefundSettling:
    """Decides on refunds that came while their orders were PENDING, once they are so no more."""

    def __init__(self, app: Orders) -> None:
        self._app = app

    async def run(self) -> None:
        """Settles until cancelled, without rest after a full batch."""
        await _for_ever(self.settle_some, name="provider_refunds_not_settled")

    async def settle_some(self) -> bool:
        """Settles a batch; several replicas may do so at once, and each refund is recorded once.

        Returns:
            Whether the batch was full: there may be more.

        Raises:
            Fault: UNAVAILABLE, of the database.
        """
        refunds = await provider_refunds.ready(self._app.database, limit=BATCH)
        for refund, traceparent in refunds:
            with tracing.handed_on(traceparent):
                await self._settle(refund)
        counts = await provider_refunds.census(self._app.database)
        REFUNDS_WAITING.set(counts[ProviderRefundState.WAITING])
        REFUNDS_REFUSED.set(counts[ProviderRefundState.REFUSED])
        return len(refunds) == BATCH

    async def _settle(self, refund: ProviderRefund) -> None:
        state = await self._app.settle_provider_refund(refund)
        if state is ProviderRefundState.REFUSED:
            _log.error("provider_refund_refused", order_id=str(refund.order_id), refund_id=str(refund.id))


async def _for_ever(work: Callable[[], Awaitable[bool]], *, name: str) -> None:
    while True:
        try:
            is_more = await work()
        except (Fault, psycopg.Error) as error:
            _log.warning(name, error=str(error))
            is_more = False
        if not is_more:
            await asyncio.sleep(POLL_SECONDS)
