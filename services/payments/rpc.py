"""The gRPC surface: proto <-> domain, and who may call what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias
from uuid import UUID

import grpc.aio
import iso4217
from typing_extensions import override

from chassis import barrier
from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import current_caller
from chassis.timestamps import to_timestamp
from sagacity.common.v1 import money_pb2, saga_step_pb2
from sagacity.payments.v1 import payments_pb2, payments_pb2_grpc
from services.payments.app import Payments, payment_methods, queries
from services.payments.app.capture import capture
from services.payments.app.charge import charge
from services.payments.app.provider_webhook import handle_webhook
from services.payments.app.refund import refund
from services.payments.app.refusals import as_fault
from services.payments.app.reverse import reverse, reverse_as_step
from services.payments.domain import (
    CaptureMode,
    ChargeOrder,
    LedgerEntry,
    LedgerKind,
    Payment,
    PaymentMethod,
    PaymentMethodNotFoundError,
    PaymentState,
    RefundOrder,
)

DOMAIN = "sagacity.payments"
SERVICE = "sagacity.payments.v1.Payments"
KNOWN_CURRENCIES = frozenset(currency.code for currency in iso4217.Currency)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_STAFF = frozenset({"support", "admin"})
_ANY_USER = _STAFF | {"customer"}
_GATEWAY = frozenset({"gateway"})
_ORCHESTRATOR = frozenset({"orchestrator"})

POLICIES: Mapping[str, Allow] = {
    "AddPaymentMethod": Allow(_GATEWAY, _ANY_USER),
    "ListPaymentMethods": Allow(_GATEWAY, _ANY_USER),
    "RemovePaymentMethod": Allow(_GATEWAY, _ANY_USER),
    "Charge": Allow(_ORCHESTRATOR),
    "Capture": Allow(_ORCHESTRATOR),
    "Refund": Allow(_ORCHESTRATOR),
    "Reverse": Allow(_ORCHESTRATOR),
    # The orchestrator calls without a user; who calls through the gateway is checked in the handler.
    "GetPayment": Allow(_ORCHESTRATOR | _GATEWAY),
    "ListPayments": Allow(_GATEWAY, _ANY_USER),
    "ListLedgerEntries": Allow(_GATEWAY, _STAFF),
    # No user: the provider's signature, which the handler checks, is what lets it in.
    "HandleProviderWebhook": Allow(_GATEWAY),
}

translate = as_fault

_CAPTURE_MODES: Mapping[int, CaptureMode] = {
    payments_pb2.CAPTURE_MODE_AUTOMATIC: CaptureMode.AUTOMATIC,
    payments_pb2.CAPTURE_MODE_MANUAL: CaptureMode.MANUAL,
}
_STATES = {state: payments_pb2.PaymentState.Value(f"PAYMENT_STATE_{state}") for state in PaymentState}
_KINDS = {kind: payments_pb2.LedgerEntryKind.Value(f"LEDGER_ENTRY_KIND_{kind}") for kind in LedgerKind}


class PaymentsServicer(payments_pb2_grpc.PaymentsServicer):
    """Serves `sagacity.payments.v1.Payments`; the proto says what each method does and raises."""

    def __init__(self, app: Payments) -> None:
        self._app = app

    @override
    async def AddPaymentMethod(
        self, request: payments_pb2.AddPaymentMethodRequest, context: Context
    ) -> payments_pb2.AddPaymentMethodResponse:
        """Stores a provider's token as a payment method of the caller."""
        method = await payment_methods.add_payment_method(
            self._app, _own(request.user_id), UUID(request.request_id), request.provider_token
        )
        return payments_pb2.AddPaymentMethodResponse(payment_method=_method(method))

    @override
    async def ListPaymentMethods(
        self, request: payments_pb2.ListPaymentMethodsRequest, context: Context
    ) -> payments_pb2.ListPaymentMethodsResponse:
        """Lists the payment methods of a user."""
        user_id = UUID(request.user_id) if current_caller().is_staff else _own(request.user_id)
        methods = await payment_methods.list_payment_methods(self._app, user_id)
        return payments_pb2.ListPaymentMethodsResponse(payment_methods=map(_method, methods))

    @override
    async def RemovePaymentMethod(
        self, request: payments_pb2.RemovePaymentMethodRequest, context: Context
    ) -> payments_pb2.RemovePaymentMethodResponse:
        """Removes a payment method of the caller."""
        await payment_methods.remove_payment_method(
            self._app, _own(request.user_id), UUID(request.payment_method_id)
        )
        return payments_pb2.RemovePaymentMethodResponse()

    @override
    async def Charge(
        self, request: payments_pb2.ChargeRequest, context: Context
    ) -> payments_pb2.ChargeResponse:
        """Authorises and, unless capture is manual, captures."""
        _require_operation(request.saga_step, saga_step_pb2.OPERATION_DO)
        payment = await charge(self._app, barrier.saga_call(request), _charge_order(request))
        return payments_pb2.ChargeResponse(payment=_payment(payment))

    @override
    async def Capture(
        self, request: payments_pb2.CaptureRequest, context: Context
    ) -> payments_pb2.CaptureResponse:
        """Takes what is authorised."""
        _require_operation(request.saga_step, saga_step_pb2.OPERATION_DO)
        payment = await capture(self._app, barrier.saga_call(request), UUID(request.payment_id))
        return payments_pb2.CaptureResponse(payment=_payment(payment))

    @override
    async def Refund(
        self, request: payments_pb2.RefundRequest, context: Context
    ) -> payments_pb2.RefundResponse:
        """Gives back some or all of what was captured."""
        _require_operation(request.saga_step, saga_step_pb2.OPERATION_DO)
        payment = await refund(self._app, barrier.saga_call(request), _refund_order(request))
        return payments_pb2.RefundResponse(payment=_payment(payment))

    @override
    async def Reverse(
        self, request: payments_pb2.ReverseRequest, context: Context
    ) -> payments_pb2.ReverseResponse:
        """Undoes a charge, as the undo of its step or as a step of its own."""
        undo = request.saga_step.operation == saga_step_pb2.OPERATION_UNDO
        run = reverse if undo else reverse_as_step
        state = await run(self._app, barrier.saga_call(request), UUID(request.payment_id))
        return payments_pb2.ReverseResponse(
            state=_STATES[state] if state else payments_pb2.PAYMENT_STATE_UNSPECIFIED
        )

    @override
    async def GetPayment(
        self, request: payments_pb2.GetPaymentRequest, context: Context
    ) -> payments_pb2.GetPaymentResponse:
        """Reads one payment."""
        payment_id = UUID(request.payment_id)
        payment = await queries.get_payment(self._app, payment_id, payer=_only_payer())
        return payments_pb2.GetPaymentResponse(payment=_payment(payment))

    @override
    async def ListPayments(
        self, request: payments_pb2.ListPaymentsRequest, context: Context
    ) -> payments_pb2.ListPaymentsResponse:
        """Lists payments, newest first."""
        payer = _only_payer()
        if payer is not None and request.user_id != str(payer):
            raise _denied("a customer lists their own payments: give your own user_id")
        payments, next_page_token = await queries.list_payments(
            self._app,
            order_id=UUID(request.order_id) if request.order_id else None,
            user_id=UUID(request.user_id) if request.user_id else None,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return payments_pb2.ListPaymentsResponse(
            payments=map(_payment, payments), next_page_token=next_page_token
        )

    @override
    async def ListLedgerEntries(
        self, request: payments_pb2.ListLedgerEntriesRequest, context: Context
    ) -> payments_pb2.ListLedgerEntriesResponse:
        """Lists the ledger of one payment."""
        entries = await queries.list_ledger_entries(self._app, UUID(request.payment_id))
        return payments_pb2.ListLedgerEntriesResponse(entries=map(_entry, entries))

    @override
    async def HandleProviderWebhook(
        self, request: payments_pb2.HandleProviderWebhookRequest, context: Context
    ) -> payments_pb2.HandleProviderWebhookResponse:
        """Takes what a provider says by itself."""
        await handle_webhook(self._app, request.provider, request.body, request.signature)
        return payments_pb2.HandleProviderWebhookResponse()


def _own(user_id: str) -> UUID:
    """Returns the id, if it is the caller's own; what somebody else has does not exist for them."""
    wanted = UUID(user_id)
    if current_caller().user_id != wanted:
        raise PaymentMethodNotFoundError
    return wanted


def _only_payer() -> UUID | None:
    """Returns whose payments alone the caller may see; None: everybody's."""
    caller = current_caller()
    if caller.is_staff or caller.service in _ORCHESTRATOR:
        return None
    if caller.user_id is None:
        raise _denied("this needs a user")
    return caller.user_id


def _denied(message: str) -> Fault:
    return Fault(FaultKind.PERMISSION_DENIED, "PERMISSION_DENIED", message)


def _invalid(field: str, problem: str) -> Fault:
    return Fault(
        FaultKind.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        f"{field} {problem}",
        fields=(Detail(field, problem),),
    )


def _require_operation(
    saga_step: saga_step_pb2.SagaStep, operation: saga_step_pb2.Operation.ValueType
) -> None:
    if saga_step.operation != operation:
        name = saga_step_pb2.Operation.Name(operation)
        raise _invalid("saga_step.operation", f"must be {name} here")


def _require_amount(amount: money_pb2.Money) -> None:
    if amount.minor_units <= 0:
        raise _invalid("amount.minor_units", "must be more than 0")
    if amount.currency_code not in KNOWN_CURRENCIES:
        raise _invalid("amount.currency_code", "is not a currency of ISO 4217")


def _charge_order(request: payments_pb2.ChargeRequest) -> ChargeOrder:
    amount = request.amount
    _require_amount(amount)
    return ChargeOrder(
        payment_id=UUID(request.payment_id),
        order_id=UUID(request.order_id),
        user_id=UUID(request.user_id),
        payment_method_id=UUID(request.payment_method_id),
        amount_minor=amount.minor_units,
        currency_code=amount.currency_code,
        capture=_CAPTURE_MODES[request.capture],
    )


def _refund_order(request: payments_pb2.RefundRequest) -> RefundOrder:
    _require_amount(request.amount)
    return RefundOrder(
        refund_id=UUID(request.refund_id),
        payment_id=UUID(request.payment_id),
        amount_minor=request.amount.minor_units,
        currency_code=request.amount.currency_code,
        reason=request.reason,
    )


def _method(method: PaymentMethod) -> payments_pb2.PaymentMethod:
    return payments_pb2.PaymentMethod(
        id=str(method.id),
        user_id=str(method.user_id),
        provider=method.provider,
        brand=method.brand,
        last4=method.last4,
        create_time=to_timestamp(method.create_time),
    )


def _payment(payment: Payment) -> payments_pb2.Payment:
    def money(minor_units: int) -> money_pb2.Money:
        return money_pb2.Money(currency_code=payment.currency_code, minor_units=minor_units)

    return payments_pb2.Payment(
        id=str(payment.id),
        order_id=str(payment.order_id),
        user_id=str(payment.user_id),
        state=_STATES[payment.state],
        amount=money(payment.amount_minor),
        captured=money(payment.captured_minor),
        refunded=money(payment.refunded_minor),
        decline_reason=payment.decline_reason,
        create_time=to_timestamp(payment.create_time),
        update_time=to_timestamp(payment.update_time),
    )


def _entry(entry: LedgerEntry) -> payments_pb2.LedgerEntry:
    return payments_pb2.LedgerEntry(
        operation_key=entry.operation_key,
        payment_id=str(entry.payment_id),
        kind=_KINDS[entry.kind],
        amount=money_pb2.Money(currency_code=entry.currency_code, minor_units=entry.amount_minor),
        create_time=to_timestamp(entry.create_time),
    )
