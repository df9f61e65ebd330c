"""The wiring that every process with a database shares; what is registered last stops first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from chassis import outbox_slot, relay_metrics, replication_slots, trace_metrics, tracing
from chassis.barrier_pruning import BarrierPruning
from chassis.clock import SystemClock
from chassis.config import ProcessSettings, environment
from chassis.consumer import Consumer, Consumers, Handler
from chassis.event_operator import EventOperator
from chassis.grpc_server import Server
from chassis.lifecycle import DRAIN_SECONDS, Lifecycle
from chassis.postgres import Database
from chassis.process_metrics import watch_event_loop
from chassis.projections import Projection
from chassis.readiness import PING_SECONDS, Readiness
from chassis.relay import Relay
from chassis.telemetry import serve_metrics
from sagacity.events.v1 import event_operator_pb2_grpc

# Less than the lifecycle gives each action: with Kafka away the outbox keeps what is left.
RELAY_DRAIN_SECONDS = DRAIN_SECONDS / 2

log = structlog.get_logger(__name__)


def start_tracing(life: Lifecycle, process: str) -> None:
    """Record spans until the stop, where the environment names a collector; call it first of all.

    Raises:
        SettingsError: a variable has a value that cannot be.
    """
    trace_metrics.show_from_the_beginning()
    if not environment().get(tracing.ENDPOINT):
        return
    # Imported here: a process that records nothing does without OpenTelemetry's SDK.
    from chassis.trace_recording import Recording  # noqa: PLC0415

    recording = Recording.start(process, environment())
    if recording is not None:
        life.on_stop(recording.stop)


async def open_database(
    life: Lifecycle, settings: ProcessSettings, *, max_size: int = 8, patience_seconds: float | None = None
) -> Database:
    """Open the pool of this process's database and see that it answers; it is closed at the stop.

    `max_size` and `patience_seconds` are those of `Database.open`.

    Raises:
        SettingsError: the DSN is not set.
        Fault: UNAVAILABLE, the database does not answer.
    """
    database = await Database.open(
        settings.required("database_dsn"),
        application_name=settings.process,
        max_size=max_size,
        patience_seconds=patience_seconds,
    )
    life.on_stop(database.close)
    await database.ping()
    return database


async def start_readiness(life: Lifecycle, settings: ProcessSettings, server: Server) -> None:
    """Let the server say, until the stop begins, whether this process's database answers; watch its server.

    By a connection of their own: a pool that is busy is no outage, and a replica that is taken out for its
    load leaves it to the others, which are taken out next. And commits that wait for a standby, which the
    watch is to tell of, hold all connections of the pool.

    Raises:
        SettingsError: the DSN is not set.
    """
    database = await Database.open(
        settings.required("database_dsn"),
        application_name=f"{settings.process} readiness",
        max_size=1,
        patience_seconds=PING_SECONDS,
    )
    life.on_stop(database.close)
    life.start(replication_slots.watch(database), name="replication slots")
    life.start(Readiness(database.ping, server.tell_readiness).run(life.stopping), name="readiness")


def start_relay(
    life: Lifecycle, settings: ProcessSettings, database: Database, *, topic: str
) -> Callable[[], None]:
    """Run the relay of this database's outbox; returns what to call after a commit that appended to it.

    Without Kafka there is no relay, and facts stay in the outbox, which is watched all the same; nor is there
    one where the settings leave it to Debezium, whose slot is watched then. At the stop it is drained, within
    a bound.

    Raises:
        SettingsError: it cannot be spoken to as the settings say.
    """
    if not settings.relay_enabled:
        life.start(outbox_slot.watch(database, topic), name="outbox slot")
        return _nobody_to_wake
    kafka = settings.kafka
    if not kafka:
        # Somebody has to see that it grows: nothing else fails where the address was forgotten.
        log.warning("outbox_without_kafka", topic=topic)
        life.start(relay_metrics.watch(database, topic), name="outbox")
        return _nobody_to_wake
    relay = Relay(database, kafka=kafka, topic=topic, owner=settings.process)
    life.start(relay.run(), name="relay")

    async def drain() -> None:
        if not await relay.drain(RELAY_DRAIN_SECONDS):
            log.warning("outbox_not_drained", topic=topic)

    life.on_stop(drain)
    return relay.wake


def start_consumer(
    life: Lifecycle,
    settings: ProcessSettings,
    database: Database,
    consumers: Consumers,
    *,
    topic: str,
    group: str,
    handlers: Mapping[str, Handler],
) -> None:
    """Apply a topic's events to this database, until the stop; without Kafka nothing is consumed.

    Raises:
        SettingsError: Kafka cannot be spoken to as the settings say.
    """
    kafka = settings.kafka
    if not kafka:
        return
    consumer = Consumer(
        database,
        kafka=kafka,
        topics=[topic],
        group=group,
        handlers=handlers,
        registry=consumers,
    )
    life.start(consumer.run(), name=f"consumer {group}")


def serve_event_operator(
    server: Server,
    settings: ProcessSettings,
    database: Database,
    *,
    topic: str,
    consumers: Consumers | None = None,
    projections: Iterable[Projection] = (),
) -> None:
    """Let operators look into this context's events and repair them; its policies go to `build_server`.

    Raises:
        SettingsError: Kafka cannot be spoken to as the settings say.
    """
    servicer = EventOperator(
        database,
        topic=topic,
        consumers=consumers or Consumers(),
        kafka=settings.kafka,
        projections={projection.name: projection for projection in projections},
    )
    event_operator_pb2_grpc.add_EventOperatorServicer_to_server(servicer, server.server)


def start_barrier_pruning(life: Lifecycle, database: Database) -> None:
    """Delete, until the stop, what the barrier of this database remembers of sagas beyond the horizon."""
    life.start(BarrierPruning(database, SystemClock()).run(), name="barrier pruning")


async def start_metrics(life: Lifecycle, settings: ProcessSettings) -> None:
    """Serve the metrics where the settings name an address; OSError where it is taken."""
    server = await serve_metrics(settings.metrics_listen)
    if server is None:
        return
    life.start(watch_event_loop(), name="event loop lag")

    async def close() -> None:
        server.close()

    life.on_stop(close)


def _nobody_to_wake() -> None:
    pass
