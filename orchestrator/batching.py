"""Natural group commit: a batch is what came while the last was written; nothing sleeps to fill one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_BATCH = 256
MAX_QUEUE = 10_000
# A second batch is begun beside one in flight when it has at least this share of its items: small ones cost
# more than they save.
MIN_SHARE = 0.5


class QueueFullError(Exception):
    """More waits to be written than the bound MAX_QUEUE allows."""


class Batcher(Generic[Item, Answer]):
    """Collects what many callers say at the same moment and writes it with one call.

    `write` takes a batch and returns one answer per item, in order. Where it raises, every item of the batch
    is written again on its own, so that a bad neighbour harms nobody, and only the item that fails alone
    raises at its caller. Where `gives_up` says so of an error, the rest of the batch fails with it at once:
    it is nobody's fault, and trying each would only take long. So many `writers` have a batch in flight each;
    two items that must be written in order are never submitted at the same time.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        observe_size: Callable[[int], None] = lambda _: None,
        *,
        gives_up: Callable[[Exception], bool] = lambda _: False,
        writers: int = 1,
    ) -> None:
        self._write = write
        self._observe_size = observe_size
        self._gives_up = gives_up
        self._writers = writers
        self._idle = 0
        self._in_flight = 0
        self._queue: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self.batches = 0
        self.items = 0

    async def submit(self, item: Item) -> Answer:
        """Hand an item over and wait for its answer; raises what writing it raised, or QueueFullError."""
        if len(self._queue) >= MAX_QUEUE:
            raise QueueFullError
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._wake_one()
        return await future

    async def run(self) -> None:
        """Write batches until cancelled; whoever waits then is cancelled too."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._writers):
                    group.create_task(self._write_batches(), name="batch-writer")
        finally:
            for _, future in self._queue:
                future.cancel()

    async def _write_batches(self) -> None:
        while True:
            self._idle += 1
            while not self._is_due():
                await self._woken()
            # A fair share: with everything in one batch, writing it and making the next would take turns, and
            # of two processors one would always be idle.
            size = min(MAX_BATCH, -(-len(self._queue) // self._idle))
            self._idle -= 1
            self._in_flight += size
            batch = [self._queue.popleft() for _ in range(size)]
            self._wake_one()
            try:
                await self._flush(batch)
            finally:
                self._in_flight -= size

    def _is_due(self) -> bool:
        return bool(self._queue) and len(self._queue) >= self._in_flight * MIN_SHARE

    async def _woken(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake_one(self) -> None:
        # Who came last goes first: alone, a saga's writes are then all of one writer.
        while self._waiters and self._is_due():
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _flush(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        self.batches += 1
        self.items += len(batch)
        self._observe_size(len(batch))
        try:
            answers = await self._write([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception:  # noqa: BLE001 - it must not reach the neighbours of the item that caused it
            await self._one_by_one(batch)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _one_by_one(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        for position, (item, future) in enumerate(batch):
            try:
                (answer,) = await self._write([item])
            except asyncio.CancelledError:
                for _, waiting in batch:
                    waiting.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - it is raised at the caller whose item it is
                failed = batch[position:] if self._gives_up(error) else batch[position : position + 1]
                _fail(failed, error)
                if len(failed) > 1:
                    return
                continue
            if not future.done():
                future.set_result(answer)


def _fail(batch: list[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
