"""What is counted of the spans of this process."""

from typing import Final

from chassis.metric_catalogue import EVERY_PROCESS
from chassis.telemetry import counter

SPANS: Final = counter(
    "sagacity_trace_spans_total",
    "Spans that went to the collector: `sent`, or `lost` where it did not take them.",
    "outcome",
    of=EVERY_PROCESS,
    look="`lost`: the collector is away or refuses them, `traces_lost` in the log; orders are not affected",
)


def show_from_the_beginning() -> None:
    """Shows the counter before it counts: for Prometheus one that appears later never rose."""
    for outcome in ("sent", "lost"):
        SPANS.labels(outcome)
