"""Who may operate, and who it was: admins by the gateway, and the operator's own command line."""

from typing import Final

from chassis.grpc_gate import Allow
from chassis.identity import current_caller

# For an admin, or by the command line, whose key is the permission.
OPERATORS: Final = Allow(
    frozenset({"gateway", "operator"}), roles=frozenset({"admin"}), userless=frozenset({"operator"})
)


def actor(named: str) -> str:
    """Who asks: where it is a user, their id, whatever name comes with the request."""
    return str(current_caller().user_id or named)
