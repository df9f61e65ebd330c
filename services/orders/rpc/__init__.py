"""The gRPC surface: proto <-> domain, who may call what, and one table from domain error to Fault."""

from services.orders.rpc.faults import translate
from services.orders.rpc.servicer import DOMAIN, POLICIES, OrdersServicer

__all__ = ["DOMAIN", "POLICIES", "OrdersServicer", "translate"]
