"""The inventory process: `python -m services.inventory`."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from chassis.clock import SystemClock
from chassis.grpc_server import build_server
from chassis.identity import Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.telemetry import configure_logging, serve_metrics
from sagacity.inventory.v1 import inventory_pb2_grpc
from services.inventory import events, rpc
from services.inventory.app.catalogue import Catalogue
from services.inventory.app.expiry import ExpirySweeper
from services.inventory.app.reservations import Reservations
from services.inventory.config import InventorySettings

# Kafka may be away: what is left then is published after the next start.
RELAY_DRAIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves. What is registered last stops first."""
    settings = InventorySettings.read()
    configure_logging(settings.process, settings.log_format)
    verifier = Verifier.read(settings.required("identity_keys_file"))

    database = await Database.open(settings.required("database_dsn"), application_name=settings.process)
    life.on_stop(database.close)
    await database.ping()

    wake_relay: Callable[[], None] = _nobody_to_wake
    if settings.kafka_bootstrap_servers:
        relay = Relay(
            database,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            topic=events.TOPIC,
            owner=settings.process,
        )
        wake_relay = relay.wake
        life.start(relay.run(), name="relay")
        life.on_stop(partial(_drain, relay))

    clock = SystemClock()
    catalogue = Catalogue(database, clock, new_id, rpc.KNOWN_CURRENCIES, wake_relay)
    reservations = Reservations(database, clock, new_id, wake_relay)
    life.start(ExpirySweeper(reservations).run(), name="expiry sweeper")

    metrics = await serve_metrics(settings.metrics_listen)
    if metrics is not None:
        life.on_stop(partial(_close, metrics))

    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    service = rpc.InventoryService(catalogue, reservations)
    inventory_pb2_grpc.add_InventoryServicer_to_server(service, server.server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    log.info("serving", port=port)


def _nobody_to_wake() -> None:
    """Without Kafka the outbox keeps what is published later."""


async def _drain(relay: Relay) -> None:
    if not await relay.drain(RELAY_DRAIN_SECONDS):
        log.warning("events_left_for_the_next_start")


async def _close(metrics: asyncio.Server) -> None:
    metrics.close()


if __name__ == "__main__":
    main(program)
