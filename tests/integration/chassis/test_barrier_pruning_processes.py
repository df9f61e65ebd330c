from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chassis.barrier import BARRIER_HORIZON
from chassis.barrier_pruning import PRUNING_MARGIN
from chassis.clock import SystemClock
from chassis.identity import new_key_pair
from chassis.ids import new_id, uuid7_floor
from tests.integration.chassis.barrier_steps import until

pytestmark = pytest.mark.integration

STOP_SECONDS = 30


async def start(service: str, **variables: str) -> asyncio.subprocess.Process:
    environment = os.environ | {f"SAGACITY_{name}": value for name, value in variables.items()}  # noqa: TID251
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"services.{service}"),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("service", ["orders", "payments", "inventory"])
async def test_a_running_service_forgets_what_is_beyond_the_horizon_and_stops_when_told_to(
    new_database: Any, tmp_path: Path, service: str
) -> None:
    dsn = new_database(f"services.{service}")
    age = BARRIER_HORIZON + PRUNING_MARGIN + timedelta(minutes=1)
    old, young = uuid7_floor(SystemClock().now() - age), new_id()
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [new_key_pair("orchestrator")[1]]}), "utf-8")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for saga_id in (old, young):
            await connection.execute(
                "INSERT INTO barrier (saga_id, step, outcome) VALUES (%s, 'a_step', 'DONE')", (saga_id,)
            )
        own_key = tmp_path / "own.pem"
        own_key.write_text(new_key_pair(service)[0], "utf-8")
        settings = {
            f"{service.upper()}_DATABASE_DSN": dsn,
            f"{service.upper()}_IDENTITY_KEY_FILE": str(own_key),
            "IDENTITY_KEYS_FILE": str(keys),
        }
        process = await start(service, **settings)

        async def forgotten() -> bool:
            cursor = await connection.execute("SELECT saga_id FROM barrier")
            return await cursor.fetchall() == [(young,)]

        await until(forgotten)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(STOP_SECONDS):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
