"""The engine's log lines, counted instead of printed: some tell of a rare branch, some of a bug."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator import breaker, calling, executor, leases

_MODULES: tuple[Any, ...] = (breaker, calling, executor, leases)


class EngineLog:
    """Stands where the modules of the engine have their logger."""

    def __init__(self, said: Callable[[str, dict[str, Any]], None], bug: Callable[[str], None]) -> None:
        self._said = said
        self._bug = bug

    def info(self, event: str, **values: Any) -> None:
        self._said(event, values)

    warning = error = info

    def exception(self, event: str, **values: Any) -> None:
        """An exception that nobody foresaw: never in order."""
        self._said(event, values)
        self._bug(f"{event}: {traceback.format_exc(limit=-4)}")


@contextmanager
def logging_to(sink: EngineLog) -> Iterator[None]:
    """Have the engine log to the sink."""
    before = [(module, module.log) for module in _MODULES]
    for module in _MODULES:
        module.log = sink
    try:
        yield
    finally:
        for module, log in before:
            module.log = log
