"""The process itself: `python -m gateway`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import httpx2
import pytest

from chassis.config import environment
from chassis.identity import new_key_pair
from gateway.__main__ import listen_on

ROOT = Path(__file__).resolve().parents[3]


async def start(tmp_path: Path, **settings: str) -> asyncio.subprocess.Process:
    private, public = new_key_pair("gateway")
    (tmp_path / "key.pem").write_text(private)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public]}))
    ours = {
        "SAGACITY_GATEWAY_IDENTITY_KEY_FILE": str(tmp_path / "key.pem"),
        "SAGACITY_IDENTITY_KEYS_FILE": str(tmp_path / "keys.json"),
        **{
            f"SAGACITY_{name}_ADDRESS": "127.0.0.1:1" for name in ("USERS", "ORDERS", "PAYMENTS", "INVENTORY")
        },
        "SAGACITY_ORCHESTRATOR_ADDRESS": "127.0.0.1:1",
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        cwd=ROOT,
        env={**environment(), **ours},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_taken_port_ends_in_one_clear_sentence(tmp_path: Path) -> None:
    with listen_on("127.0.0.1:0") as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await start(tmp_path, SAGACITY_GATEWAY_LISTEN=address)
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert f"cannot listen on {address}" in errors.decode()


async def test_a_wrong_setting_ends_in_one_clear_sentence(tmp_path: Path) -> None:
    process = await start(tmp_path, SAGACITY_GATEWAY_DOCS="perhaps")
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert "SAGACITY_GATEWAY_DOCS" in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_without_backends_and_stops_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    with listen_on("127.0.0.1:0") as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await start(tmp_path, SAGACITY_GATEWAY_LISTEN=address, SAGACITY_GATEWAY_DOCS="false")
    try:
        async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=20) as client:
            await until_it_answers(client)
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["code"]) == (503, "NOT_READY")
            assert len(ready.json()["errors"]) == 5
            away = await client.get("/api/v1/products")
            assert away.status_code == 503
            assert int(away.headers["retry-after"]) >= 1
            assert (await client.get("/docs")).status_code == 404
    finally:
        process.send_signal(number)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def until_it_answers(client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.get("/healthz")
            except httpx2.TransportError:
                await asyncio.sleep(0.05)
            else:
                return
