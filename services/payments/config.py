"""Settings of the payments process: `SAGACITY_PAYMENTS_...`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from chassis.config import ProcessSettings

MIN_SECRET_CHARACTERS = 16


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
    simulated_webhook_secret: SecretStr = Field(
        default=SecretStr(""), description="what its webhooks are signed with; empty: none are taken"
    )

    @field_validator("simulated_webhook_secret")
    @classmethod
    def _is_long_enough(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(f"must have at least {MIN_SECRET_CHARACTERS} characters")
        return secret

    def webhook_secrets(self) -> dict[str, bytes]:
        """The secrets of the providers whose webhooks are taken, by the provider's name."""
        secret = self.simulated_webhook_secret.get_secret_value()
        return {"simulated": secret.encode()} if secret else {}
