"""Settings of the orders process: `SAGACITY_ORDERS_...`, and those that all processes share."""

from typing import ClassVar

from chassis.config import ProcessSettings


class OrdersSettings(ProcessSettings):
    """What the orders process is told from outside; it needs nothing that others do not."""

    process: ClassVar[str] = "orders"
