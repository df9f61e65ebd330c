"""What several sagas need: who is called, how long that may take, how a refusal is answered."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from orchestrator.saga import Ending
from sagacity.sagas.v1 import sagas_pb2

ORDERS = "sagacity.orders.v1.Orders"
USERS = "sagacity.users.v1.Users"
INVENTORY = "sagacity.inventory.v1.Inventory"
PAYMENTS = "sagacity.payments.v1.Payments"

# Of a call that asks the payment provider.
PROVIDER_TIMEOUT = timedelta(seconds=10)
# Of a saga about an order that exists. It began when it was accepted, and may wait for another one that an
# outage keeps from ending: so it is much longer than what the work takes.
REQUEST_DEADLINE = timedelta(hours=1)

Answer = TypeVar(
    "Answer", sagas_pb2.CancelOrderResponse, sagas_pb2.RefundOrderResponse, sagas_pb2.FulfilOrderResponse
)


def refused(answer: Answer, ending: Ending) -> Answer:
    """Complete the answer of a request about an order that was refused: nothing was changed."""
    answer.progress = sagas_pb2.REQUEST_PROGRESS_REFUSED
    if ending.refusal is not None:
        answer.refusal.CopyFrom(refusal_message(ending.refused_step, ending.refusal.to_json()))
    return answer


def refusal_message(step: str, fault: dict[str, object]) -> sagas_pb2.Refusal:
    """A journaled refusal (the JSON of a Fault) as the API shows it."""
    details = [
        sagas_pb2.RefusalDetail(subject=item["subject"], description=item["description"])
        for name in ("fields", "subjects")
        for item in fault.get(name) or ()  # type: ignore[attr-defined]
    ]
    return sagas_pb2.Refusal(
        step=step, reason=str(fault["reason"]), message=str(fault["message"]), details=details
    )
