"""The inventory process: `python -m services.inventory`."""

import structlog

from chassis.clock import SystemClock
from chassis.event_operator import EVENT_OPERATOR_POLICIES
from chassis.grpc_server import build_server
from chassis.identity import Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
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
from sagacity.inventory.v1 import inventory_pb2_grpc
from services.inventory import events, rpc
from services.inventory.app.catalogue import Catalogue
from services.inventory.app.expiry import ExpirySweeper
from services.inventory.app.reservations import Reservations
from services.inventory.config import InventorySettings

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves. What is registered last stops first."""
    settings = InventorySettings.read()
    configure_logging(settings.process, settings.log_format)
    start_tracing(life, settings.process)
    verifier = Verifier.read(settings.required("identity_keys_file"))

    database = await open_database(life, settings)
    start_barrier_pruning(life, database)
    wake_relay = start_relay(life, settings, database, topic=events.TOPIC)

    clock = SystemClock()
    catalogue = Catalogue(database, clock, new_id, rpc.KNOWN_CURRENCIES, wake_relay)
    reservations = Reservations(database, clock, new_id, wake_relay)
    life.start(ExpirySweeper(reservations).run(), name="expiry sweeper")

    server = build_server(
        domain=rpc.DOMAIN,
        policies={**rpc.POLICIES, **EVENT_OPERATOR_POLICIES},
        verifier=verifier,
        translate=rpc.translate,
    )
    service = rpc.InventoryService(catalogue, reservations)
    inventory_pb2_grpc.add_InventoryServicer_to_server(service, server.server)
    serve_event_operator(server, settings, database, topic=events.TOPIC)
    await start_readiness(life, settings, server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    await start_metrics(life, settings)
    log.info("serving", port=port)


if __name__ == "__main__":
    main(program)
