"""Waiting for a condition, with a bound: the only way in which these tests let time pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg

# Generous: it is reached only where something is wrong, and other work may share the machine.
WITHIN_SECONDS = 60.0
POLL_SECONDS = 0.05

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Awaitable[T]],
    *,
    until: Callable[[T], Any] = bool,
    within_seconds: float = WITHIN_SECONDS,
) -> T:
    """Ask `condition` until its answer pleases `until`, and return that answer.

    A database that is away has no answer yet. Raises AssertionError with the last answer after the bound.
    """
    answer: Any = "no answer"
    try:
        async with asyncio.timeout(within_seconds):
            while True:
                try:
                    answer = await condition()
                    if until(answer):
                        return answer  # type: ignore[no-any-return]
                except psycopg.OperationalError as error:
                    answer = error
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"not within {within_seconds} s; the last answer was {answer!r}") from None
