"""One log of all children: their files are followed, each line gets its process's name and colour."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

POLL_SECONDS = 0.1
CHUNK_BYTES = 65_536
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


class Logbook:
    """Follows log files that children append to; they never wait for us, whatever the terminal does.

    Args:
        logs: process name → its log file; what stands there already is skipped.
        console: where the lines go; plain where it is no terminal or NO_COLOR is set.
    """

    def __init__(self, logs: Mapping[str, Path], console: Console) -> None:
        self._logs = dict(logs)
        self._console = console
        self._offsets = {name: path.stat().st_size if path.exists() else 0 for name, path in logs.items()}
        self._pending = dict.fromkeys(logs, b"")
        self._width = max(map(len, logs))

    async def follow(self) -> None:
        """Print new lines until cancelled."""
        while True:
            self.catch_up()
            await asyncio.sleep(POLL_SECONDS)

    def catch_up(self) -> None:
        """Print what has been written since the last time."""
        for index, (name, path) in enumerate(self._logs.items()):
            while self._read(name, path, COLOURS[index % len(COLOURS)]):
                pass

    def _read(self, name: str, path: Path, colour: str) -> bool:
        if not path.exists():
            return False
        with path.open("rb") as log:
            log.seek(self._offsets[name])
            chunk = log.read(CHUNK_BYTES)
        self._offsets[name] += len(chunk)
        *lines, self._pending[name] = (self._pending[name] + chunk).split(b"\n")
        for line in lines:
            prefix = Text(f"{name:<{self._width}} | ", style=colour)
            text = line.decode("utf-8", "replace").rstrip()
            # A child's own colours stay where the terminal takes them and go where it does not.
            self._console.print(prefix + Text.from_ansi(text), soft_wrap=True)
        return len(chunk) == CHUNK_BYTES
