"""What is asked of a deployment, and its bounds: the input of `sagacity capacity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from chassis.topics import RETENTION_DAYS
from cli.capacity_costs import Costs

# More than this at the peak is nothing that the figures of one machine say anything about.
MAX_PEAK_ORDERS_PER_SECOND = 100_000
# Of a number that is refused.
SHOWN = 20


class Bounds(NamedTuple):
    """The least and the most that is taken."""

    least: float
    most: float


BOUNDS: Mapping[str, Bounds] = {
    "orders_per_second": Bounds(0.001, 100_000),
    "peak_factor": Bounds(1, 100),
    "declined_share": Bounds(0, 1),
    "reads_per_order": Bounds(0, 10_000),
    "items_per_order": Bounds(1, 100),
    "logins_per_order": Bounds(0, 100),
    "order_seconds": Bounds(0.01, 300),
    "utilisation": Bounds(0.1, 0.9),
    "zones": Bounds(1, 10),
    "retention_days": Bounds(1, 3_650),
}


class OutOfBoundsError(ValueError):
    """An input that is not taken.

    Attributes:
        option: Which, as it is typed: `--peak-factor`.
    """

    def __init__(self, name: str, message: str) -> None:
        self.option = f"--{name.replace('_', '-')}"
        super().__init__(f"{self.option} {message}")


@dataclass(frozen=True)
class Workload:
    """What is asked; OutOfBoundsError for what no deployment can be asked.

    Attributes:
        orders_per_second: Orders placed, on the average of a day; confirmed and declined ones.
        peak_factor: How much more it is in the busiest minutes.
        declined_share: How many of them are declined and undone.
        reads_per_order: Reads beside each order: half of them of an order, half a page of products.
        items_per_order: Lines of an order.
        logins_per_order: A token lasts for an hour.
        order_seconds: How long an order takes from request to end, the payment provider's time with it.
        utilisation: How busy a core may be at the peak, with as many replicas lost as `zones` says.
        zones: Failure domains. 1: one replica may be lost; else one zone.
        retention_days: How long rows and events are kept.
    """

    orders_per_second: float
    peak_factor: float = 3.0
    declined_share: float = 0.05
    reads_per_order: float = 10.0
    items_per_order: float = 2.0
    logins_per_order: float = 0.2
    order_seconds: float = 1.0
    utilisation: float = 0.6
    zones: int = 1
    retention_days: int = RETENTION_DAYS

    def __post_init__(self) -> None:
        """Check every input."""
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            # NaN is in no bounds.
            if not least <= value <= most:
                raise OutOfBoundsError(name, f"must be {least:g} to {most:,g}, not {str(value)[:SHOWN]}")
        if self.peak > MAX_PEAK_ORDERS_PER_SECOND:
            message = (
                f"times --peak-factor is {self.peak:,.0f} orders/s: beyond {MAX_PEAK_ORDERS_PER_SECOND:,}"
            )
            raise OutOfBoundsError("orders_per_second", message)

    @property
    def peak(self) -> float:
        """Orders a second in the busiest minutes."""
        return self.orders_per_second * self.peak_factor

    def per_order(self, by_kind: Mapping[str, Mapping[str, float]], name: str, costs: Costs) -> float:
        """What one order of this mix costs, with its share of reads and logins.

        A line costs the difference between many and one, divided by the lines that are more.
        """
        more_lines = (self.items_per_order - 1) / (costs.lines_of_many - 1)

        def of(kind: str) -> float:
            one = by_kind[kind][name]
            return one + max(0.0, by_kind[f"{kind}_many"][name] - one) * more_lines

        orders = (1 - self.declined_share) * of("confirmed") + self.declined_share * of("declined")
        reads = (by_kind["order_read"][name] + by_kind["products_read"][name]) / 2
        return orders + self.reads_per_order * reads + self.logins_per_order * by_kind["login"][name]
