"""Tells the metrics, every few seconds, how many sagas are open, how old, and how many need a person."""

from __future__ import annotations

import asyncio

import structlog

from chassis.errors import Fault
from chassis.postgres import Database
from orchestrator import metrics
from orchestrator import statements as sql
from orchestrator.executor import Executor

CENSUS_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def watch_census(database: Database, executor: Executor) -> None:
    """Set the gauges until cancelled; while the database is away they keep what they had."""
    while True:
        try:
            metrics.show_census(await database.fetch(sql.CENSUS, {}))
        except Fault as fault:
            log.warning("census_failed", reason=fault.reason)
        metrics.IN_MEMORY.set(len(executor.in_memory))
        await asyncio.sleep(CENSUS_SECONDS)
