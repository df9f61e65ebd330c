"""How a measured process is asked: one JSON object a line on its input, one a line on its output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from chassis.lifecycle import Lifecycle

MAX_LINE_BYTES = 65_536

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Questions:
    """The input and output of this process. Make it first of all: from then on the log goes to the errors."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    async def serve(self, life: Lifecycle, answer: Answer, hello: dict[str, Any]) -> None:
        """Say that this process is ready, answer what comes, and stop the process where the input ends."""
        questions = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(questions), sys.stdin
        )

        async def serve() -> None:
            while line := await questions.readline():
                self._say(await answer(json.loads(line)))
            life.stopping.set()

        life.start(serve(), name="questions")
        self._say(hello)

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()
