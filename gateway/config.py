"""Settings of the gateway: `SAGACITY_GATEWAY_...`, and the addresses that all processes share."""

from typing import ClassVar, Final

from pydantic import Field

from chassis.config import ProcessSettings

SERVICE_NAME: Final = "gateway"


class GatewaySettings(ProcessSettings):
    """What the gateway is told by its environment."""

    process: ClassVar[str] = SERVICE_NAME

    listen: str = Field(default="127.0.0.1:8080", pattern=r"^[^:]+:\d+$", description="host:port for HTTP")
    live_streams: int = Field(default=500, ge=1, le=10_000, description="streams of order updates at once")
    live_streams_per_user: int = Field(default=5, ge=1, le=1_000, description="of one user")
    docs: bool = Field(default=True, description="whether /docs and /openapi.json are served")

    def addresses(self) -> dict[str, str]:
        """The backends' addresses, host:port, by service name."""
        return {
            "users": self.users_address,
            "inventory": self.inventory_address,
            "payments": self.payments_address,
            "orders": self.orders_address,
            "orchestrator": self.orchestrator_address,
        }
