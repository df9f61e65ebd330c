"""The gRPC faces of the orchestrator, and who may call what."""

from orchestrator.rpc.order_sagas import ORDER_SAGAS_POLICIES, OrderSagas
from orchestrator.rpc.saga_operator import SAGA_OPERATOR_POLICIES, SagaOperator

__all__ = ["ORDER_SAGAS_POLICIES", "SAGA_OPERATOR_POLICIES", "OrderSagas", "SagaOperator"]
