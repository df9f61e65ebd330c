"""The orders process: `python -m services.orders`."""

import structlog

from chassis.clock import SystemClock
from chassis.consumer import Consumers
from chassis.event_operator import EVENT_OPERATOR_POLICIES
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import ServiceIdentity, Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.process import (
    open_database,
    serve_event_operator,
    start_barrier_pruning,
    start_consumer,
    start_metrics,
    start_readiness,
    start_relay,
    start_tracing,
)
from chassis.telemetry import configure_logging
from sagacity.orders.v1 import orders_pb2_grpc
from services.orders import events, rpc, subscribers
from services.orders.app import Orders
from services.orders.config import OrdersSettings
from services.orders.history.rebuilding import OrderHistory, OrderHistoryProjection
from services.orders.requester import CancellationRequester, ProviderRefundSettling

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves; what is registered last stops first."""
    settings = OrdersSettings.read()
    configure_logging(settings.process, settings.log_format)
    start_tracing(life, settings.process)
    identity = ServiceIdentity.read(settings.process, settings.required("identity_key_file"))
    verifier = Verifier.read(settings.required("identity_keys_file"))

    database = await open_database(life, settings)
    start_barrier_pruning(life, database)
    wake_relay = start_relay(life, settings, database, topic=events.TOPIC)
    consumers = Consumers()
    history = OrderHistory(database, kafka=settings.kafka, consumers=consumers)
    life.start(history.run(), name="order history")
    app = Orders(
        database=database,
        clock=SystemClock(),
        new_id=new_id,
        as_refusal=rpc.translate,
        published=wake_relay,
    )
    _start_choreographies(life, settings, app, identity, consumers)

    server = build_server(
        domain=rpc.DOMAIN,
        policies={**rpc.POLICIES, **EVENT_OPERATOR_POLICIES},
        verifier=verifier,
        translate=rpc.translate,
    )
    orders_pb2_grpc.add_OrdersServicer_to_server(rpc.OrdersServicer(app), server.server)
    serve_event_operator(
        server,
        settings,
        database,
        topic=events.TOPIC,
        consumers=consumers,
        projections=[OrderHistoryProjection()],
    )
    await start_readiness(life, settings, server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    await start_metrics(life, settings)
    log.info("serving", port=port)


def _start_choreographies(
    life: Lifecycle,
    settings: OrdersSettings,
    app: Orders,
    identity: ServiceIdentity,
    consumers: Consumers,
) -> None:
    orchestrator = Connection(settings.orchestrator_address, identity)
    life.on_stop(orchestrator.close)
    life.start(CancellationRequester(app.database, orchestrator).run(), name="cancellation requests")
    life.start(ProviderRefundSettling(app).run(), name="provider refunds")
    for topic, group, handlers in (
        (subscribers.USERS_TOPIC, subscribers.DEACTIVATIONS_GROUP, subscribers.facts_of_users(app)),
        (subscribers.PAYMENTS_TOPIC, subscribers.PROVIDER_GROUP, subscribers.facts_of_payments(app)),
    ):
        start_consumer(life, settings, app.database, consumers, topic=topic, group=group, handlers=handlers)


if __name__ == "__main__":
    main(program)
