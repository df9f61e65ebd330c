"""The orchestrator's process: wiring, in a straight line."""

from __future__ import annotations

from datetime import timedelta

from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import ServiceIdentity, Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.process import open_database, start_metrics, start_readiness, start_tracing
from chassis.telemetry import configure_logging
from orchestrator.census import watch_census
from orchestrator.clients import GrpcParticipants
from orchestrator.config import OrchestratorSettings
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.leases import Leases
from orchestrator.operations import Operations
from orchestrator.rpc import ORDER_SAGAS_POLICIES, SAGA_OPERATOR_POLICIES, OrderSagas, SagaOperator
from orchestrator.sagas import DEFINITIONS
from sagacity.sagas.v1 import sagas_pb2_grpc

PARTICIPANTS = ("users", "inventory", "payments", "orders")
MAX_CONNECTIONS = 6
PATIENCE_SHARE = 0.8


async def program(life: Lifecycle) -> None:
    """Serve, and drive the sagas of this replica, until the process is told to stop."""
    settings = OrchestratorSettings.read()
    configure_logging("orchestrator", settings.log_format)
    start_tracing(life, "orchestrator")
    identity = ServiceIdentity.read("orchestrator", settings.required("identity_key_file"))
    verifier = Verifier.read(settings.required("identity_keys_file"))
    # Below the lease: what a stopped process holds in the database is gone before others take its sagas.
    patience = settings.lease_seconds * PATIENCE_SHARE
    database = await open_database(life, settings, max_size=MAX_CONNECTIONS, patience_seconds=patience)

    connections = {name: Connection(getattr(settings, f"{name}_address"), identity) for name in PARTICIPANTS}
    for connection in connections.values():
        life.on_stop(connection.close)

    replica = str(new_id())
    journal = Journal(
        database,
        replica,
        archive_after=timedelta(days=settings.archive_after_days),
        drives=DEFINITIONS.names,
    )
    participants = GrpcParticipants(connections)
    executor = Executor(journal, participants, DEFINITIONS)
    leases = Leases(journal, executor, lease_seconds=settings.lease_seconds)
    await leases.renew()
    life.start(journal.run(), name="journal")
    life.start(executor.run(), name="executor")
    life.start(watch_census(database, executor), name="census")

    server = build_server(
        domain="sagacity.sagas", policies=ORDER_SAGAS_POLICIES | SAGA_OPERATOR_POLICIES, verifier=verifier
    )
    capture = settings.capture_mode.upper()
    order_sagas = OrderSagas(executor, journal, participants, new_id, capture=capture)
    sagas_pb2_grpc.add_OrderSagasServicer_to_server(order_sagas, server.server)
    operations = Operations(journal, executor, DEFINITIONS)
    operator = SagaOperator(database, operations, DEFINITIONS)
    sagas_pb2_grpc.add_SagaOperatorServicer_to_server(operator, server.server)
    await start_readiness(life, settings, server)
    await server.start(settings.listen)
    life.on_stop(server.stop)
    # The other way round at the stop: no more sagas, no more lease, and what was driven is the others' before
    # the callers are drained, which takes seconds.
    life.on_stop(leases.hand_over)
    life.start(leases.run(), name="leases")
    life.on_stop(executor.stop)
    await start_metrics(life, settings)


if __name__ == "__main__":
    main(program)
