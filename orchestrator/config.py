"""The orchestrator's settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from chassis.config import ProcessSettings


class OrchestratorSettings(ProcessSettings):
    """Beside the common settings: leases, the archive, and when money is taken."""

    process: ClassVar[str] = "orchestrator"

    lease_seconds: float = Field(
        default=3.0,
        ge=0.5,
        le=60,
        description="A replica that did not renew for so long loses its sagas to the others.",
    )
    archive_after_days: float = Field(
        default=7.0,
        ge=1.0,
        le=3650,
        description="Finished sagas that did not change for so long are moved to the archive.",
    )
    capture_mode: Literal["automatic", "manual"] = Field(
        default="automatic",
        description="When the money of an order is taken: with the charge, or when it is shipped.",
    )
