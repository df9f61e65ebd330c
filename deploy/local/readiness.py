"""When a process of the suite is ready: gRPC health for the services, `/readyz` for the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc.aio
import httpx2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.errors import LocalDeployError
from deploy.local.processes import ChildProcess

READY_SECONDS = 60
PROBE_SECONDS = 2
POLL_SECONDS = 0.1

Probe = Callable[[], Awaitable[bool]]


def grpc_probe(address: str) -> Probe:
    """Return a probe of the standard health service at `address` (host:port)."""

    async def probe() -> bool:
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return probe


def http_probe(url: str) -> Probe:
    """Return a probe that is content with a 200 from `url`."""

    async def probe() -> bool:
        async with httpx2.AsyncClient(timeout=PROBE_SECONDS, trust_env=False) as client:
            try:
                return (await client.get(url)).status_code == 200
            except httpx2.HTTPError:
                return False

    return probe


async def wait_until_ready(process: ChildProcess, probe: Probe) -> None:
    """Wait until `probe` says yes.

    Raises:
        LocalDeployError: the process ended instead, or was not ready within `READY_SECONDS`.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not await probe():
        if process.pid is None:
            raise LocalDeployError(died(process))
        if time.monotonic() > deadline:
            raise LocalDeployError(
                f"{process.name} was not ready within {READY_SECONDS} s: {process.last_words()} "
                f"(its log is {process.log})"
            )
        await asyncio.sleep(POLL_SECONDS)


def died(process: ChildProcess) -> str:
    """Return the sentence that tells of a child's death."""
    how = f"{process.name} ended (exit code {process.exit_code})"
    return f"{how}: {process.last_words()} (its log is {process.log})"
