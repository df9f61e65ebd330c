"""A stop has a bound of its own, whatever is registered: who waits for it knows how long."""

import asyncio

import pytest

from chassis import lifecycle
from chassis.lifecycle import Lifecycle

WAIT_SECONDS = 30.0


async def test_a_stop_has_a_bound_and_every_action_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_SECONDS", WAIT_SECONDS * 10)
    monkeypatch.setattr(lifecycle, "DRAIN_ALL_SECONDS", 0.05)
    begun: list[str] = []

    async def hang(name: str) -> None:
        begun.append(name)
        await asyncio.Event().wait()

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        life.stopping.set()
        life.on_stop(lambda: hang("pool"))
        life.start(hang("relay"), name="relay")
        life.on_stop(lambda: hang("server"))
        await asyncio.sleep(0)
        await life.drain()
    assert begun == ["relay", "server", "pool"]
