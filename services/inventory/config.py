"""Settings of the inventory process: `SAGACITY_INVENTORY_...`, and those that all processes share."""

from typing import ClassVar

from chassis.config import ProcessSettings


class InventorySettings(ProcessSettings):
    """What the inventory process is told from outside; it needs nothing that others do not."""

    process: ClassVar[str] = "inventory"
