"""Every gRPC process of the suite tells its readiness, as the probes of a cluster would ask for it."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.readiness import READINESS_SERVICE
from deploy.local.programs import PROGRAMS
from deploy.local.suite import Suite

pytestmark = pytest.mark.e2e

WITH_DATABASE = [program.name for program in PROGRAMS if program.database]
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("suite"), fsync=False, sample_data=False)
    await suite.start()
    try:
        yield suite
    finally:
        await suite.abort()


async def health(suite: Suite, service: str) -> dict[str, int]:
    """Return what each process with a database says of a health service."""
    found = {}
    for name in WITH_DATABASE:
        async with grpc.aio.insecure_channel(suite.address(name)) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_SECONDS)
            found[name] = int(answer.status)
    return found


async def until_all(suite: Suite, status: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while set((await health(suite, READINESS_SERVICE)).values()) != {status}:  # noqa: ASYNC110 - no Event
            await asyncio.sleep(POLL_SECONDS)


async def test_every_process_is_ready_while_its_database_answers_and_alive_all_the_time(suite: Suite) -> None:
    await until_all(suite, SERVING)
    suite.postgres.stop()
    await until_all(suite, NOT_SERVING)
    assert set((await health(suite, "")).values()) == {SERVING}
    suite.postgres.launch()
    await asyncio.to_thread(suite.postgres.wait_ready)
    await until_all(suite, SERVING)
