"""Wiring of the gateway process: `python -m gateway`."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from chassis.clock import SystemClock
from chassis.grpc_client import Connection
from chassis.identity import ServiceIdentity
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle, main
from chassis.process import start_metrics, start_tracing
from chassis.telemetry import configure_logging
from gateway.app import create_app
from gateway.auth import Authenticator, UserKeys
from gateway.clients import Acting, Backends, Readiness
from gateway.config import SERVICE_NAME, GatewaySettings
from gateway.context import Gateway
from gateway.http_protocol import ProblemProtocol
from gateway.live import LiveUpdates
from sagacity.users.v1.users_pb2 import GetJsonWebKeysRequest

BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 60
GRACE_SECONDS: Final = 8  # requests under way may end in that time; below the lifecycle's own bound


class HttpServer(uvicorn.Server):
    """uvicorn's server, without its signal handlers: the signals are the lifecycle's."""

    def __init__(self, app: FastAPI, listening: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=ProblemProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._listening = listening
        self._ended = asyncio.Event()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def run_until_stopped(self) -> None:
        """Serve until `stop`."""
        try:
            await self.serve(sockets=[self._listening])
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Accept nothing new and wait for what is under way, at most GRACE_SECONDS."""
        self.should_exit = True
        await self._ended.wait()


def listen_on(address: str) -> socket.socket:
    """Opens the listening socket.

    Args:
        address: host:port; port 0 takes a free one.

    Raises:
        OSError: The address is taken or not of this host; the message is a sentence for people.
    """
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)), backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        why = f"cannot listen on {address}: the address is taken or not of this host"
        raise OSError(f"{why} ({type(error).__name__})") from error


def build_gateway(connections: dict[str, Connection], live: LiveUpdates) -> Gateway:
    """Makes what the routes need.

    Args:
        connections: To users, inventory, payments, orders and orchestrator, by these names.
        live: The process's updates of orders.
    """
    clock = SystemClock()
    backends = Backends.over(connections)

    async def fetch_keys() -> str:
        users = backends.users
        reply = await users.call(
            users.stub.GetJsonWebKeys, GetJsonWebKeysRequest(), Acting(None, str(new_id()))
        )
        return reply.json

    keys = UserKeys(fetch_keys, seconds=time.monotonic)
    readiness = Readiness(backends, seconds=time.monotonic)
    return Gateway(backends, keys, Authenticator(keys, clock), clock, readiness.check, live)


async def program(life: Lifecycle) -> None:
    """Sets everything up and serves."""
    settings = GatewaySettings.read()
    configure_logging(SERVICE_NAME, settings.log_format)
    start_tracing(life, SERVICE_NAME)
    identity = ServiceIdentity.read(SERVICE_NAME, settings.required("identity_key_file"))
    listening = listen_on(settings.listen)
    connections = {name: Connection(address, identity) for name, address in settings.addresses().items()}
    for connection in connections.values():
        life.on_stop(connection.close)
    await start_metrics(life, settings)
    live = LiveUpdates(max_streams=settings.live_streams, max_streams_per_user=settings.live_streams_per_user)
    if kafka := settings.kafka:
        life.start(live.follow(kafka), name="live updates")
    gateway = build_gateway(connections, live)
    app = create_app(gateway, clock=gateway.clock, new_id=new_id, with_docs=settings.docs)
    server = HttpServer(app, listening)
    life.start(server.run_until_stopped(), name="http")
    life.on_stop(server.stop)
    # Before the server waits for what is under way: a stream ends by itself only after a quarter of an hour.
    life.on_stop(live.end_streams)


if __name__ == "__main__":
    main(program)
