"""Settings of the payments process: `SAGACITY_PAYMENTS_...`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from chassis.config import ProcessSettings


class PaymentsSettings(ProcessSettings):
    """What every process has, and how the provider is asked and simulated."""

    process: ClassVar[str] = "payments"

    provider_timeout_seconds: float = Field(default=5.0, gt=0, le=30)
    simulated_slow_seconds: float = Field(
        default=2.0, ge=0, le=60, description="how long tok_slow's answer takes"
    )
    simulated_late_seconds: float = Field(
        default=5.0, ge=0, le=3600, description="how long tok_late's authorisation is on its way"
    )
