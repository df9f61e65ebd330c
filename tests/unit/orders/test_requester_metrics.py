"""The operations page lists what the background tasks of orders count."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from services.orders import requester

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


def test_the_operations_page_lists_every_metric_of_the_requester_with_its_labels() -> None:
    rows = re.findall(
        r"^\| `(sagacity_(?:cancellations|provider_refunds)_\w+)` \| ([^|]*)\|",
        PAGE.read_text("utf-8"),
        re.MULTILINE,
    )
    listed = {(name, tuple(re.findall(r"`(\w+)`", labels))) for name, labels in rows}
    shown = [value for value in vars(requester).values() if isinstance(value, MetricWrapperBase)]
    assert listed == {
        (f"{metric._name}_total" if isinstance(metric, Counter) else metric._name, metric._labelnames)
        for metric in shown
    }
