"""The payments process: `python -m services.payments`."""

from __future__ import annotations

import asyncio

import structlog

from chassis.clock import SystemClock
from chassis.grpc_server import build_server
from chassis.identity import Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.telemetry import configure_logging, serve_metrics
from sagacity.payments.v1 import payments_pb2_grpc
from services.payments import events, rpc
from services.payments.app import Payments
from services.payments.config import PaymentsSettings
from services.payments.simulated_provider import SimulatedProvider

# Less than the lifecycle gives each action: with Kafka away the outbox keeps what is left.
RELAY_DRAIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves; what is registered last stops first."""
    settings = PaymentsSettings.read()
    configure_logging(settings.process, settings.log_format)
    verifier = Verifier.read(settings.required("identity_keys_file"))
    dsn = settings.required("database_dsn")

    # Left to the end of the process: the relay gives up its leases after everything else has stopped.
    database = await Database.open(dsn, application_name=settings.process)
    await database.ping()
    provider_database = await Database.open(dsn, application_name="payments provider simulation")
    life.on_stop(provider_database.close)
    provider = SimulatedProvider(
        provider_database,
        slow_seconds=settings.simulated_slow_seconds,
        late_seconds=settings.simulated_late_seconds,
    )

    relay = _start_relay(life, settings, database)
    app = Payments(
        database=database,
        provider=provider,
        clock=SystemClock(),
        new_id=new_id,
        provider_timeout_seconds=settings.provider_timeout_seconds,
        published=relay.wake if relay else lambda: None,
    )
    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    payments_pb2_grpc.add_PaymentsServicer_to_server(rpc.PaymentsServicer(app), server.server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    metrics = await serve_metrics(settings.metrics_listen)
    if metrics:
        life.on_stop(lambda: _close(metrics))
    log.info("serving", port=port)


def _start_relay(life: Lifecycle, settings: PaymentsSettings, database: Database) -> Relay | None:
    """Starts the relay; without Kafka there is none, and facts stay in the outbox."""
    servers = settings.kafka_bootstrap_servers
    if not servers:
        return None
    relay = Relay(database, bootstrap_servers=servers, topic=events.TOPIC, owner=settings.process)
    life.start(relay.run(), name="relay")
    life.on_stop(lambda: _drain(relay))
    return relay


async def _drain(relay: Relay) -> None:
    if not await relay.drain(RELAY_DRAIN_SECONDS):
        log.warning("outbox_not_drained")


async def _close(server: asyncio.Server) -> None:
    server.close()


if __name__ == "__main__":
    main(program)
