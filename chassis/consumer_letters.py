"""What a consumer shows of its dead letters: those that nobody has handled yet, however old they are."""

import asyncio
from contextlib import suppress

from chassis import dead_letters
from chassis.consumer_metrics import DEAD_LETTERS, HALTED_KEYS
from chassis.errors import Fault
from chassis.inbox import Inbox
from chassis.postgres import Database

REFRESH_SECONDS = 15.0


class LettersWatch:
    """Keeps a consumer's gauges of letters; its loop calls `show` at every turn."""

    def __init__(self, database: Database, inbox: Inbox) -> None:
        self._database = database
        self._inbox = inbox
        self._due = 0.0

    async def show(self) -> None:
        """Reads what is there, every REFRESH_SECONDS; while the database is away the gauges stay."""
        now = asyncio.get_running_loop().time()
        if now < self._due:
            return
        self._due = now + REFRESH_SECONDS
        with suppress(Fault):
            found = await dead_letters.stock(self._database, self._inbox)
            DEAD_LETTERS.labels(self._inbox.consumer).set(found.letters)
            HALTED_KEYS.labels(self._inbox.consumer).set(found.keys)
