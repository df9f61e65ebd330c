"""What this context counts of its provider's webhooks."""

from __future__ import annotations

from typing import Final

from chassis.telemetry import counter

WEBHOOKS: Final = counter(
    "payments_provider_webhooks_total", "Webhooks of payment providers, by what became of them.", "outcome"
)
ALARMS: Final = counter(
    "payments_provider_alarms_total",
    "Webhooks that say what the provider itself does not, or what cannot have happened.",
    "kind",
)
