"""The users process: `python -m services.users`."""

import asyncio

import structlog

from chassis.clock import SystemClock
from chassis.config import SettingsError
from chassis.consumer import Consumers
from chassis.event_operator import EVENT_OPERATOR_POLICIES
from chassis.grpc_server import build_server
from chassis.identity import Verifier
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.process import (
    open_database,
    serve_event_operator,
    start_consumer,
    start_metrics,
    start_readiness,
    start_relay,
    start_tracing,
)
from chassis.telemetry import configure_logging
from sagacity.users.v1 import users_pb2_grpc
from services.users import events, rpc, subscriber
from services.users.app import Users
from services.users.config import UsersSettings
from services.users.credentials import AccessTokens, Passwords

log = structlog.get_logger(__name__)


async def program(life: Lifecycle) -> None:
    """Sets everything up and returns once it serves; what is registered last stops first."""
    settings = UsersSettings.read()
    configure_logging(settings.process, settings.log_format)
    start_tracing(life, settings.process)
    tokens = _access_tokens(settings.required("signing_key"))
    verifier = Verifier.read(settings.required("identity_keys_file"))

    database = await open_database(life, settings)
    passwords = Passwords()
    life.on_stop(lambda: asyncio.to_thread(passwords.close))

    wake_relay = start_relay(life, settings, database, topic=events.TOPIC)
    consumers = Consumers()
    start_consumer(
        life,
        settings,
        database,
        consumers,
        topic=subscriber.TOPIC,
        group=subscriber.CONSUMER_GROUP,
        handlers=subscriber.HANDLERS,
    )
    app = Users(
        database=database,
        passwords=passwords,
        tokens=tokens,
        clock=SystemClock(),
        new_id=new_id,
        published=wake_relay,
    )
    if settings.bootstrap_admin_email:
        password = settings.required("bootstrap_admin_password")
        await app.ensure_admin(email=settings.bootstrap_admin_email, password=password)

    server = build_server(
        domain=rpc.DOMAIN,
        policies={**rpc.POLICIES, **EVENT_OPERATOR_POLICIES},
        verifier=verifier,
        translate=rpc.translate,
    )
    users_pb2_grpc.add_UsersServicer_to_server(rpc.UsersServicer(app), server.server)
    serve_event_operator(server, settings, database, topic=events.TOPIC, consumers=consumers)
    await start_readiness(life, settings, server)
    port = await server.start(settings.listen)
    life.on_stop(server.stop)
    await start_metrics(life, settings)
    log.info("serving", port=port)


def _access_tokens(private_key_pem: str) -> AccessTokens:
    try:
        return AccessTokens(private_key_pem, clock=SystemClock(), new_id=new_id)
    except ValueError as error:
        raise SettingsError(f"SAGACITY_USERS_SIGNING_KEY: {error}") from None


if __name__ == "__main__":
    main(program)
