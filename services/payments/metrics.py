"""What this context counts of its payment provider: what it asks, and what comes back by webhooks."""

from __future__ import annotations

from typing import Final

from chassis.metric_catalogue import PAYMENTS
from chassis.telemetry import counter, histogram

CALLS: Final = counter(
    "payments_provider_calls_total",
    "What the payment provider was asked: `ok`, `declined`, `unknown` (no answer in time), `failed`.",
    "provider", "operation", "outcome",
    of=PAYMENTS,
    look="`unknown` is asked again under the same keys; many of them: the provider has an outage. "
    "`declined` far above its usual share: the provider, or somebody who tries cards",
)  # fmt: skip
SECONDS: Final = histogram(
    "payments_provider_seconds",
    "Time until the payment provider answered, or until it was given up.",
    "provider", "operation",
    of=PAYMENTS,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    look="orders wait for it; near `SAGACITY_PAYMENTS_PROVIDER_TIMEOUT_SECONDS` outcomes become unknown",
)  # fmt: skip
WEBHOOKS: Final = counter(
    "payments_provider_webhooks_total",
    "Webhooks by what became of them: applied, nothing_new, duplicate, ignored, foreign, refused, too_early, "
    "contradiction, failed.",
    "outcome",
    of=PAYMENTS,
    look="`refused` that grows: a wrong secret or clock, or somebody tries. `too_early` that grows: a saga "
    "is stuck: [see](operations.md#sagas-that-need-a-person)",
)
ALARMS: Final = counter(
    "payments_provider_alarms_total",
    "`figures_differ`: a webhook says another amount than the provider itself, whose answer was taken; "
    "`contradiction`: more would have gone back than was taken, and nothing is changed.",
    "kind",
    of=PAYMENTS,
    look="any: `provider_webhook_alarm` in the log names payment and event; compare with the provider",
)
for _kind in ("figures_differ", "contradiction"):
    ALARMS.labels(_kind)  # shown from the beginning, so that the first one is seen as a rise
