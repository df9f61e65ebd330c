"""The benchmark runs and says what it promises to say; what it measures is nobody's assertion."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[3]


async def test_the_benchmark_of_orders_writes_the_promised_keys(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench.orders", "--clients", "2", "--seconds", "1", "--json-to", str(figures)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},  # noqa: TID251 - handed on to the child
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    measured = json.loads(figures.read_text("utf-8"))
    keys = {"orders_per_second", "p50_ms", "p95_ms", "p99_ms", "peak_rss_mib"}
    assert all(measured[key] > 0 for key in keys)
    assert set(measured["steady_statuses"]) == {"201"}
