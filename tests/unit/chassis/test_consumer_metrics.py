"""The metrics of consumers are on the operators' page, all of them and nothing else."""

import re
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from chassis import consumer_metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


def test_the_operations_page_lists_every_metric_of_consumers_with_its_labels() -> None:
    rows = re.findall(r"^\| `(sagacity_consumer_\w+)` \| ([^|]*)\|", PAGE.read_text("utf-8"), re.MULTILINE)
    listed = {(name, tuple(re.findall(r"`(\w+)`", labels))) for name, labels in rows}
    metrics = [value for value in vars(consumer_metrics).values() if isinstance(value, MetricWrapperBase)]
    assert listed == {
        (f"{metric._name}_total" if isinstance(metric, Counter) else metric._name, metric._labelnames)
        for metric in metrics
    }
