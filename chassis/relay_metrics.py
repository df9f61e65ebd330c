"""What a relay counts, and the alarm for transactions that hold the horizon of its outbox."""

import asyncio
import time

import structlog

from chassis.looks import Look
from chassis.metric_catalogue import SERVICES
from chassis.outbox_backlog import Backlog, backlog
from chassis.postgres import Database
from chassis.telemetry import counter, gauge

REFRESH_SECONDS = 5.0
# Where the outbox is full of dead rows it takes long to count; it may take this part of the time at most.
MAX_SHARE = 0.05
# No transaction of the suite takes a tenth of this.
MAX_TRANSACTION_SECONDS = 60.0

PUBLISHED = counter(
    "sagacity_relay_published_total",
    "Events that Kafka acknowledged.",
    "topic",
    of=SERVICES,
    look="stands still while `sagacity_outbox_waiting` grows",
)
OUTAGES = counter(
    "sagacity_relay_outages_total",
    "Times that publishing came to a halt.",
    "topic",
    of=SERVICES,
    look="Kafka was away; the `relay_halted` line of the log says why",
)
STUCK = counter(
    "sagacity_relay_stuck_total",
    "Attempts at events that Kafka will not take.",
    "topic",
    of=SERVICES,
    look="any: `relay_key_stuck` in the log names the event. Later ones of its key wait, all others flow",
)
WAITING = gauge(
    "sagacity_outbox_waiting",
    "Events that are not published, 100,000 at most; every relay reads it every five seconds.",
    "topic",
    of=SERVICES,
    look="grows for minutes: Kafka or the relay is away, or the relay is too slow",
)
OLDEST_AGE_SECONDS = gauge(
    "sagacity_outbox_oldest_age_seconds",
    "Age of the oldest event that is not published; 0 when there is none.",
    "topic",
    of=SERVICES,
    look="above a minute: as above, or a key is stuck",
)
OLDEST_TRANSACTION_SECONDS = gauge(
    "sagacity_outbox_oldest_transaction_seconds",
    "How long the transaction that holds the database's horizon has been seen to; 0 when none does.",
    "topic",
    of=SERVICES,
    look="above 60: [a transaction holds the horizon](operations.md#a-transaction-holds-the-horizon)",
)
HORIZON_ALARMS = counter(
    "sagacity_outbox_horizon_alarms_total",
    "Times that a transaction held the horizon for more than 60 seconds.",
    "topic",
    of=SERVICES,
    look="the same; the log has `outbox_horizon_held`",
)
_log = structlog.get_logger(__name__)


class OutboxWatch:
    """Shows the state of one outbox, and gives one alarm for each time that its horizon is held too long."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._alarmed = False
        # Shown from the beginning: a counter that appears with its first event never rose, for Prometheus.
        for counted in (PUBLISHED, OUTAGES, STUCK, HORIZON_ALARMS):
            counted.labels(topic)

    def show(self, seen: Backlog) -> None:
        """Sets the gauges to what was read, and gives or ends the alarm."""
        WAITING.labels(self._topic).set(seen.waiting)
        OLDEST_AGE_SECONDS.labels(self._topic).set(seen.oldest_age_seconds or 0.0)
        self.show_horizon(seen)

    def show_horizon(self, seen: Backlog) -> None:
        """As `show`, of the horizon alone."""
        held_seconds = seen.oldest_transaction_seconds or 0.0
        OLDEST_TRANSACTION_SECONDS.labels(self._topic).set(held_seconds)
        held = held_seconds > MAX_TRANSACTION_SECONDS
        if held and not self._alarmed:
            HORIZON_ALARMS.labels(self._topic).inc()
            _log.warning("outbox_horizon_held", topic=self._topic, seconds=round(held_seconds))
        if self._alarmed and not held:
            _log.info("outbox_horizon_free", topic=self._topic)
        self._alarmed = held


async def watch(database: Database, topic: str) -> None:
    """Shows the state of a database's outbox until it is cancelled."""
    look = Look("outbox")
    outbox = OutboxWatch(topic)
    while True:
        asked_at = time.monotonic()
        with look.may_fail():
            outbox.show(await backlog(database))
        await asyncio.sleep(max(REFRESH_SECONDS, (time.monotonic() - asked_at) / MAX_SHARE))
