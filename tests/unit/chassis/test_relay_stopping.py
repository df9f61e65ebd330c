"""A task of Kafka's client that is to end does, though it may lose that it was told so."""

from __future__ import annotations

import asyncio

from chassis.relay_sending import _cancelled


async def test_a_task_that_lost_a_cancellation_is_told_again() -> None:
    began, never = asyncio.Event(), asyncio.Event()
    lost = 0

    async def deaf_once() -> None:
        nonlocal lost
        began.set()
        try:
            await never.wait()
        except asyncio.CancelledError:
            lost += 1
        await never.wait()

    task: asyncio.Task[object] = asyncio.create_task(deaf_once())
    await began.wait()
    await _cancelled(task)
    assert task.cancelled()
    assert lost == 1
