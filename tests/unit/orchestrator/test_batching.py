"""Group commit without a database: what is written together, and who hears of whose failure."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from orchestrator import batching
from orchestrator.batching import Batcher, QueueFullError


class Writer:
    """Remembers the batches; fails for the item "bad", and holds the first batch back until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.goes_on = asyncio.Event()

    async def write(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        await self.goes_on.wait()
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[Batcher[str, str]]:
    batcher = Batcher(writer.write)
    task = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def first_is_being_written(writer: Writer) -> None:
    async with asyncio.timeout(10):
        while not writer.batches:  # noqa: ASYNC110 - the batcher sets no Event
            await asyncio.sleep(0)


async def test_what_came_while_a_batch_was_written_is_the_next_batch() -> None:
    writer = Writer()
    async with running(writer) as batcher:
        first = asyncio.create_task(batcher.submit("a"))
        await first_is_being_written(writer)
        later = [asyncio.create_task(batcher.submit(item)) for item in "bcd"]
        await asyncio.sleep(0)
        writer.goes_on.set()
        assert await asyncio.gather(first, *later) == ["A", "B", "C", "D"]
    assert writer.batches == [["a"], ["b", "c", "d"]]


async def test_only_the_item_that_fails_alone_fails() -> None:
    writer = Writer()
    writer.goes_on.set()
    async with running(writer) as batcher:
        answers = await asyncio.gather(
            *(batcher.submit(item) for item in ("a", "bad", "c")), return_exceptions=True
        )
    assert answers[0] == "A"
    assert isinstance(answers[1], ValueError)
    assert answers[2] == "C"


async def test_a_batch_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH", 2)
    writer = Writer()
    writer.goes_on.set()
    async with running(writer) as batcher:
        await asyncio.gather(*(batcher.submit(item) for item in "abcde"))
    assert [len(batch) for batch in writer.batches] == [2, 2, 1]


async def test_a_queue_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUE", 1)
    writer = Writer()
    async with running(writer) as batcher:
        first = asyncio.create_task(batcher.submit("a"))
        await first_is_being_written(writer)
        second = asyncio.create_task(batcher.submit("b"))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await batcher.submit("c")
        writer.goes_on.set()
        assert await asyncio.gather(first, second) == ["A", "B"]


async def test_who_waits_when_the_batcher_stops_is_cancelled() -> None:
    writer = Writer()
    async with running(writer) as batcher:
        first = asyncio.create_task(batcher.submit("a"))
        await first_is_being_written(writer)
        second = asyncio.create_task(batcher.submit("b"))
        await asyncio.sleep(0)
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_two_writers_share_what_waits_and_no_item_is_written_twice() -> None:
    under_way = 0
    most = 0
    gate = asyncio.Event()
    batches: list[list[int]] = []

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        batches.append(list(items))
        if items[0] and most < 2:
            await gate.wait()
        gate.set()
        under_way -= 1
        return [item * 10 for item in items]

    batcher: Batcher[int, int] = Batcher(write, writers=2)
    task = asyncio.create_task(batcher.run())
    assert await batcher.submit(0) == 0  # both writers are there now
    gate.clear()
    answers = [asyncio.create_task(batcher.submit(item)) for item in range(1, 10)]
    assert await asyncio.gather(*answers) == [item * 10 for item in range(1, 10)]
    assert most == 2
    assert sorted(item for batch in batches for item in batch) == list(range(10))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_error_that_is_nobodys_fault_fails_the_batch_without_trying_each() -> None:
    batches: list[list[str]] = []

    async def write(items: Sequence[str]) -> list[str]:
        batches.append(list(items))
        raise ConnectionError("away")

    batcher: Batcher[str, str] = Batcher(write, gives_up=lambda error: isinstance(error, ConnectionError))
    task = asyncio.create_task(batcher.run())
    answers = await asyncio.gather(*(batcher.submit(item) for item in "abc"), return_exceptions=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 3
    assert batches == [["a", "b", "c"], ["a"]]
