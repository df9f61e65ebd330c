"""The users process: `python -m services.users`."""

import asyncio

import structlog

from chassis.clock import SystemClock
from chassis.config import SettingsError
from chassis.consumer import Consumer
from chassis.grpc_server import build_server
from chassis.identity import Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.telemetry import configure_logging, serve_metrics
from sagacity.users.v1 import users_pb2_grpc
from services.users import events, rpc, subscriber
from services.users.app import Users
from services.users.config import UsersSettings
from services.users.credentials import AccessTokens, Passwords

# Less than the lifecycle gives each action: with Kafka away the outbox keeps what is left.
RELAY_DRAIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves; what is registered last stops first."""
    settings = UsersSettings.read()
    configure_logging(settings.process, settings.log_format)
    tokens = _access_tokens(settings.required("signing_key"))
    verifier = Verifier.read(settings.required("identity_keys_file"))

    database = await Database.open(settings.required("database_dsn"), application_name=settings.process)
    life.on_stop(database.close)
    await database.ping()
    passwords = Passwords()
    life.on_stop(lambda: asyncio.to_thread(passwords.close))

    relay = _start_event_traffic(life, settings, database)
    app = Users(
        database=database,
        passwords=passwords,
        tokens=tokens,
        clock=SystemClock(),
        new_id=new_id,
        published=relay.wake if relay else lambda: None,
    )
    if settings.bootstrap_admin_email:
        password = settings.required("bootstrap_admin_password")
        await app.ensure_admin(email=settings.bootstrap_admin_email, password=password)

    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    users_pb2_grpc.add_UsersServicer_to_server(rpc.UsersServicer(app), server.server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    metrics = await serve_metrics(settings.metrics_listen)
    if metrics:
        life.on_stop(lambda: _close(metrics))
    log.info("serving", port=port)


def _access_tokens(private_key_pem: str) -> AccessTokens:
    try:
        return AccessTokens(private_key_pem, clock=SystemClock(), new_id=new_id)
    except ValueError as error:
        raise SettingsError(f"SAGACITY_USERS_SIGNING_KEY: {error}") from None


def _start_event_traffic(life: Lifecycle, settings: UsersSettings, database: Database) -> Relay | None:
    """Starts relay and consumer; without Kafka neither, and facts stay in the outbox."""
    servers = settings.kafka_bootstrap_servers
    if not servers:
        return None
    relay = Relay(database, bootstrap_servers=servers, topic=events.TOPIC, owner=settings.process)
    consumer = Consumer(
        database,
        bootstrap_servers=servers,
        topics=[subscriber.TOPIC],
        group=subscriber.CONSUMER_GROUP,
        handlers=subscriber.HANDLERS,
    )
    life.start(relay.run(), name="relay")
    life.start(consumer.run(), name="consumer")
    life.on_stop(lambda: _drain(relay))
    return relay


async def _drain(relay: Relay) -> None:
    if not await relay.drain(RELAY_DRAIN_SECONDS):
        log.warning("outbox_not_drained")


async def _close(server: asyncio.Server) -> None:
    server.close()


if __name__ == "__main__":
    main(program)
