"""What a consumer counts; the gauges have what this process knows."""

from chassis.metric_catalogue import CONSUMERS
from chassis.telemetry import counter, gauge

APPLIED = counter(
    "sagacity_consumer_applied_total",
    "Events that were applied.",
    "group",
    of=CONSUMERS,
    look="stands still while the lag grows",
)
DUPLICATES = counter(
    "sagacity_consumer_duplicates_total",
    "Events that had been applied before, and were dropped.",
    "group",
    of=CONSUMERS,
    look="never: they come after every rebalance and outage",
)
PARKED = counter(
    "sagacity_consumer_parked_total",
    "Events that went to the dead letters, with those behind them.",
    "group",
    of=CONSUMERS,
    look="rises: `event_parked` in the log names each; `sagacity_dead_letters` says what is there still",
)
DEAD_LETTERS = gauge(
    "sagacity_dead_letters",
    "Dead letters that nobody has replayed or discarded, 10,000 at most; read every 15 seconds. "
    "The same at all replicas: take the maximum, not the sum.",
    "group",
    of=CONSUMERS,
    look="alarm at any, however old: `sagacity events dead-letters list`, then "
    "[repair events](how-to/repair-events.md)",
)
HALTED_KEYS = gauge(
    "sagacity_halted_keys",
    "Aggregates that those letters halt: nothing of them is applied. The same at all replicas.",
    "group",
    of=CONSUMERS,
    look="many at once: the code or what it needs, and not the data",
)
GAPS = counter(
    "sagacity_consumer_gaps_total",
    "Events whose predecessor never came.",
    "group",
    of=CONSUMERS,
    look="any: facts are missing in the topic",
)
REGRESSIONS = counter(
    "sagacity_consumer_regressions_total",
    "Times that numbers went back. `offset`: the topic is shorter than what was read of it; "
    "`sequence`: two facts of an aggregate have one number.",
    "group",
    "kind",
    of=CONSUMERS,
    look="any: Kafka lost records, or a source was restored from a backup, and facts of it were not applied. "
    "`offsets_went_back` or `sequence_went_back` in the log says where",
)
OUTAGES = counter(
    "sagacity_consumer_outages_total",
    "Times that consuming came to a halt.",
    "group",
    of=CONSUMERS,
    look="Kafka or the database was away; the `consumer_halted` line of the log says why",
)
OUTAGE = gauge(
    "sagacity_consumer_outage",
    "1 while nothing can be consumed, for Kafka or the database does not answer.",
    "group",
    of=CONSUMERS,
    look="1 for minutes: the `consumer_halted` line of the log says why. The lag is old or hidden meanwhile",
)
STOPPED = gauge(
    "sagacity_consumer_stopped",
    "1 while it was seen that nothing may be applied: `PAUSED` by an operator, `HALTED` by itself.",
    "group",
    "state",
    of=CONSUMERS,
    look="`HALTED`: twenty keys in a row failed, which is bad code and not bad data: mend it, then "
    "`sagacity events resume`. It stays so across restarts",
)
LAG = gauge(
    "sagacity_consumer_lag",
    "Events behind the end, of the partitions of this process; `sagacity events lag` has the whole group's.",
    "group",
    "topic",
    "partition",
    of=CONSUMERS,
    look="grows for minutes",
)
_OF_GROUP = (
    APPLIED,
    DUPLICATES,
    PARKED,
    DEAD_LETTERS,
    HALTED_KEYS,
    GAPS,
    REGRESSIONS,
    OUTAGES,
    OUTAGE,
    STOPPED,
    LAG,
)


def show_from_the_beginning(group: str) -> None:
    """Shows a group's numbers before they count: for Prometheus a counter that appears later never rose."""
    for shown in (APPLIED, DUPLICATES, PARKED, DEAD_LETTERS, HALTED_KEYS, GAPS, OUTAGES, OUTAGE):
        shown.labels(group)
    for kind in ("offset", "sequence"):
        REGRESSIONS.labels(group, kind)
    for state in ("PAUSED", "HALTED"):
        STOPPED.labels(group, state)


def forget(group: str) -> None:
    """Shows a group no more, for nobody consumes for it again: what it showed last would stay for ever."""
    for shown in _OF_GROUP:
        shown.remove_by_labels({"group": group})
