"""The payments process: `python -m services.payments`."""

from __future__ import annotations

import structlog

from chassis.clock import SystemClock
from chassis.event_operator import EVENT_OPERATOR_POLICIES
from chassis.grpc_server import build_server
from chassis.identity import Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database
from chassis.process import (
    open_database,
    serve_event_operator,
    start_barrier_pruning,
    start_metrics,
    start_readiness,
    start_relay,
    start_tracing,
)
from chassis.telemetry import configure_logging
from sagacity.payments.v1 import payments_pb2_grpc
from services.payments import events, rpc
from services.payments.app import Payments
from services.payments.config import PaymentsSettings
from services.payments.measured_provider import MeasuredProvider
from services.payments.simulated_provider import SimulatedProvider

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves; what is registered last stops first."""
    settings = PaymentsSettings.read()
    configure_logging(settings.process, settings.log_format)
    start_tracing(life, settings.process)
    verifier = Verifier.read(settings.required("identity_keys_file"))

    database = await open_database(life, settings)
    start_barrier_pruning(life, database)
    provider_database = await Database.open(
        settings.required("database_dsn"), application_name="payments provider simulation"
    )
    life.on_stop(provider_database.close)
    provider = SimulatedProvider(
        provider_database,
        slow_seconds=settings.simulated_slow_seconds,
        late_seconds=settings.simulated_late_seconds,
    )

    wake_relay = start_relay(life, settings, database, topic=events.TOPIC)
    app = Payments(
        database=database,
        provider=MeasuredProvider(provider),
        clock=SystemClock(),
        new_id=new_id,
        provider_timeout_seconds=settings.provider_timeout_seconds,
        published=wake_relay,
        webhook_secrets=settings.webhook_secrets(),
    )
    server = build_server(
        domain=rpc.DOMAIN,
        policies={**rpc.POLICIES, **EVENT_OPERATOR_POLICIES},
        verifier=verifier,
        translate=rpc.translate,
    )
    payments_pb2_grpc.add_PaymentsServicer_to_server(rpc.PaymentsServicer(app), server.server)
    serve_event_operator(server, settings, database, topic=events.TOPIC)
    await start_readiness(life, settings, server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    await start_metrics(life, settings)
    log.info("serving", port=port)


if __name__ == "__main__":
    main(program)
