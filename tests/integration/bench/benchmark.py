"""A benchmark as its users run it: a process that writes its figures to a file."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


async def figures_of(module: str, figures: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Run `python -m module` and return what it wrote to `figures`, and what it printed."""
    output = await output_of(module, *arguments, "--json-to", str(figures))
    written: dict[str, Any] = json.loads(await asyncio.to_thread(figures.read_text, "utf-8"))
    return written, output


async def output_of(module: str, *arguments: str) -> str:
    """Run `python -m module` to its end and return what it printed."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},  # noqa: TID251 - handed on to the child
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
