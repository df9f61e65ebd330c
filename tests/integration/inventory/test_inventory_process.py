from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.identity import new_key_pair

pytestmark = pytest.mark.integration

START_SECONDS = 30
STOP_SECONDS = 30


async def port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    async for line in process.stdout:
        record = json.loads(line)
        if record["event"] == "serving":
            return int(record["port"])
    raise AssertionError("the process ended before it served")


async def start(**variables: str) -> asyncio.subprocess.Process:
    environment = os.environ | {f"SAGACITY_{name}": value for name, value in variables.items()}  # noqa: TID251
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.inventory"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_process_serves_until_it_is_told_to_stop(new_database: Any, tmp_path: Path) -> None:
    _, public = new_key_pair("orchestrator")
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [public]}), "utf-8")
    process = await start(
        INVENTORY_DATABASE_DSN=new_database("services.inventory"),
        INVENTORY_LISTEN="127.0.0.1:0",
        IDENTITY_KEYS_FILE=str(keys),
        LOG_FORMAT="json",
    )
    async with asyncio.timeout(START_SECONDS):
        port = await port_of(process)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest()
        reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=START_SECONDS)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(STOP_SECONDS):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_a_setting_that_is_missing_ends_the_process_in_one_sentence(tmp_path: Path) -> None:
    process = await start(INVENTORY_DATABASE_DSN="", IDENTITY_KEYS_FILE="")
    async with asyncio.timeout(STOP_SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert "IDENTITY_KEYS_FILE" in errors.decode()
