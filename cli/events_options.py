"""The options that the commands of `sagacity events` share."""

from __future__ import annotations

from enum import StrEnum


class ContextName(StrEnum):
    """Whose events."""

    USERS = "users"
    INVENTORY = "inventory"
    PAYMENTS = "payments"
    ORDERS = "orders"
