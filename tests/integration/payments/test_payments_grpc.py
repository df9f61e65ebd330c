from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.saga_step_pb2 import (
    OPERATION_DO,
    OPERATION_UNDO,
    OPERATION_UNSPECIFIED,
    SagaStep,
)
from sagacity.payments.v1 import payments_pb2, payments_pb2_grpc
from services.payments import rpc

if TYPE_CHECKING:
    from tests.integration.payments.conftest import World

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 10.0
SERVICES = ("gateway", "orchestrator", "orders")


@dataclass(frozen=True)
class Clients:
    """The services that call, by name."""

    connections: dict[str, Connection]

    async def call(self, service: str, method: str, request: Any, user: Caller | None = None) -> Any:
        connection = self.connections[service]
        stub = payments_pb2_grpc.PaymentsStub(connection.channel)
        return await connection.call(
            getattr(stub, method), request, timeout_seconds=TIMEOUT_SECONDS, user=user
        )

    async def refusal(
        self, service: str, method: str, request: Any, user: Caller | None = None
    ) -> tuple[str, str]:
        with pytest.raises(Fault) as refusal:
            await self.call(service, method, request, user)
        return refusal.value.kind.value, refusal.value.reason


@pytest.fixture
async def clients(world: World) -> AsyncIterator[Clients]:
    pairs = {name: new_key_pair(name) for name in SERVICES}
    verifier = Verifier({"keys": [public for _, public in pairs.values()]})
    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    payments_pb2_grpc.add_PaymentsServicer_to_server(rpc.PaymentsServicer(world.app), server.server)
    port = await server.start("127.0.0.1:0")
    connections = {
        name: Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pem)) for name, (pem, _) in pairs.items()
    }
    yield Clients(connections)
    for connection in connections.values():
        await connection.close()
    await server.stop()


def customer(user_id: UUID | None = None) -> Caller:
    return Caller("gateway", user_id or new_id(), "customer")


def admin() -> Caller:
    return Caller("gateway", new_id(), "admin")


async def add_method(clients: Clients, user: Caller, token: str = "tok_success") -> Any:  # noqa: S107
    request = payments_pb2.AddPaymentMethodRequest(
        user_id=str(user.user_id), request_id=str(new_id()), provider_token=token
    )
    return (await clients.call("gateway", "AddPaymentMethod", request, user)).payment_method


async def charge_request(
    clients: Clients,
    user: Caller,
    token: str = "tok_success",  # noqa: S107 - a test token
) -> payments_pb2.ChargeRequest:
    method = await add_method(clients, user, token)
    return payments_pb2.ChargeRequest(
        saga_step=SagaStep(saga_id=str(new_id()), step="payment", operation=OPERATION_DO),
        payment_id=str(new_id()),
        order_id=str(new_id()),
        user_id=str(user.user_id),
        payment_method_id=method.id,
        amount=Money(currency_code="EUR", minor_units=1234),
        capture=payments_pb2.CAPTURE_MODE_AUTOMATIC,
    )


def reverse_request(charge: payments_pb2.ChargeRequest) -> payments_pb2.ReverseRequest:
    step = SagaStep(saga_id=charge.saga_step.saga_id, step=charge.saga_step.step, operation=OPERATION_UNDO)
    return payments_pb2.ReverseRequest(saga_step=step, payment_id=charge.payment_id)


async def test_a_charge_and_its_undo_by_the_wire(clients: Clients) -> None:
    user = customer()
    request = await charge_request(clients, user)
    charged = (await clients.call("orchestrator", "Charge", request)).payment
    assert charged.state == payments_pb2.PAYMENT_STATE_CAPTURED
    assert charged.captured == Money(currency_code="EUR", minor_units=1234)
    assert (await clients.call("orchestrator", "Charge", request)).payment == charged

    asked = payments_pb2.GetPaymentRequest(payment_id=request.payment_id)
    for service, caller in (("orchestrator", None), ("gateway", user), ("gateway", admin())):
        assert (await clients.call(service, "GetPayment", asked, caller)).payment == charged

    undone = await clients.call("orchestrator", "Reverse", reverse_request(request))
    assert undone.state == payments_pb2.PAYMENT_STATE_REFUNDED
    entries = await clients.call(
        "gateway",
        "ListLedgerEntries",
        payments_pb2.ListLedgerEntriesRequest(payment_id=request.payment_id),
        admin(),
    )
    assert [entry.kind for entry in entries.entries] == [
        payments_pb2.LEDGER_ENTRY_KIND_AUTHORIZATION,
        payments_pb2.LEDGER_ENTRY_KIND_CAPTURE,
        payments_pb2.LEDGER_ENTRY_KIND_REFUND,
    ]
    listed = await clients.call(
        "gateway", "ListPayments", payments_pb2.ListPaymentsRequest(user_id=str(user.user_id)), user
    )
    assert [payment.id for payment in listed.payments] == [request.payment_id]
    assert listed.payments[0].refunded.minor_units == 1234


def later_step() -> SagaStep:
    return SagaStep(saga_id=str(new_id()), step="payment", operation=OPERATION_DO)


def refund_request(charge: payments_pb2.ChargeRequest, minor_units: int) -> payments_pb2.RefundRequest:
    return payments_pb2.RefundRequest(
        saga_step=later_step(),
        payment_id=charge.payment_id,
        refund_id=str(new_id()),
        amount=Money(currency_code="EUR", minor_units=minor_units),
        reason="arrived broken",
    )


async def test_a_capture_refunds_and_a_reversal_by_the_wire(clients: Clients) -> None:
    user = customer()
    request = await charge_request(clients, user)
    request.capture = payments_pb2.CAPTURE_MODE_MANUAL
    held = (await clients.call("orchestrator", "Charge", request)).payment
    assert held.state == payments_pb2.PAYMENT_STATE_AUTHORIZED

    capture = payments_pb2.CaptureRequest(saga_step=later_step(), payment_id=request.payment_id)
    for _ in range(2):
        taken = (await clients.call("orchestrator", "Capture", capture)).payment
        assert (taken.state, taken.captured.minor_units) == (payments_pb2.PAYMENT_STATE_CAPTURED, 1234)

    refund = refund_request(request, 200)
    for _ in range(2):
        rest = (await clients.call("orchestrator", "Refund", refund)).payment
        assert rest.state == payments_pb2.PAYMENT_STATE_PARTIALLY_REFUNDED
        assert rest.refunded == Money(currency_code="EUR", minor_units=200)

    reversal = payments_pb2.ReverseRequest(saga_step=later_step(), payment_id=request.payment_id)
    for _ in range(2):
        ended = await clients.call("orchestrator", "Reverse", reversal)
        assert ended.state == payments_pb2.PAYMENT_STATE_REFUNDED
    asked = payments_pb2.ListLedgerEntriesRequest(payment_id=request.payment_id)
    entries = (await clients.call("gateway", "ListLedgerEntries", asked, admin())).entries
    assert [entry.amount.minor_units for entry in entries] == [1234, 1234, 200, 1034]


async def test_refusals_of_captures_and_refunds_are_recorded_and_of_our_domain(clients: Clients) -> None:
    request = await charge_request(clients, customer())
    await clients.call("orchestrator", "Charge", request)
    declined = await charge_request(clients, customer(), "tok_declined")
    assert (await clients.refusal("orchestrator", "Charge", declined))[1] == "CARD_DECLINED"
    nobody = str(new_id())
    dollars = refund_request(request, 1)
    dollars.amount.currency_code = "USD"
    cases: tuple[tuple[str, Any, str, str], ...] = (
        (
            "Capture",
            payments_pb2.CaptureRequest(saga_step=later_step(), payment_id=nobody),
            "NOT_FOUND",
            "PAYMENT_NOT_FOUND",
        ),
        (
            "Capture",
            payments_pb2.CaptureRequest(saga_step=later_step(), payment_id=declined.payment_id),
            "FAILED_PRECONDITION",
            "PAYMENT_NOT_CAPTURABLE",
        ),
        ("Refund", refund_request(declined, 1), "FAILED_PRECONDITION", "PAYMENT_NOT_REFUNDABLE"),
        ("Refund", refund_request(request, 1235), "FAILED_PRECONDITION", "REFUND_TOO_LARGE"),
        ("Refund", dollars, "INVALID_ARGUMENT", "CURRENCY_MISMATCH"),
    )
    for method, message, kind, reason in cases:
        for _ in range(2):
            with pytest.raises(Fault) as refused:
                await clients.call("orchestrator", method, message)
            fault = refused.value
            assert (fault.kind, fault.reason, fault.domain) == (kind, reason, "sagacity.payments")
            assert fault.recorded, reason


@pytest.mark.parametrize("method", ["Capture", "Refund", "Reverse"])
async def test_what_the_provider_did_not_answer_is_unavailable_and_resumed(
    clients: Clients, method: str
) -> None:
    token = "tok_timeout_after_capture" if method == "Capture" else "tok_timeout_after_refund"
    charge = await charge_request(clients, customer(), token)
    if method == "Capture":
        charge.capture = payments_pb2.CAPTURE_MODE_MANUAL
    await clients.call("orchestrator", "Charge", charge)
    request = {
        "Capture": payments_pb2.CaptureRequest(saga_step=later_step(), payment_id=charge.payment_id),
        "Refund": refund_request(charge, 200),
        "Reverse": payments_pb2.ReverseRequest(saga_step=later_step(), payment_id=charge.payment_id),
    }[method]
    with pytest.raises(Fault) as unknown:
        await clients.call("orchestrator", method, request)
    fault = unknown.value
    assert (fault.kind, fault.reason) == ("UNAVAILABLE", "PROVIDER_OUTCOME_UNKNOWN")
    assert fault.retry_after is not None
    assert not fault.recorded
    assert await clients.call("orchestrator", method, request)


async def test_what_is_no_capture_or_refund_is_an_invalid_argument(clients: Clients) -> None:
    charge = await charge_request(clients, customer())
    await clients.call("orchestrator", "Charge", charge)
    good = refund_request(charge, 1)
    bad = [payments_pb2.RefundRequest.FromString(good.SerializeToString()) for _ in range(7)]
    bad[0].amount.minor_units = 0
    bad[1].amount.minor_units = -1
    bad[2].amount.currency_code = "ZZZ"
    bad[3].reason = ""
    bad[4].refund_id = "none"
    bad[5].saga_step.operation = OPERATION_UNDO
    bad[6].ClearField("amount")
    for request in bad:
        assert (await clients.refusal("orchestrator", "Refund", request))[0] == "INVALID_ARGUMENT"
    capture = payments_pb2.CaptureRequest(saga_step=later_step(), payment_id=charge.payment_id)
    capture.saga_step.operation = OPERATION_UNDO
    assert (await clients.refusal("orchestrator", "Capture", capture))[0] == "INVALID_ARGUMENT"
    reversal = reverse_request(charge)
    reversal.saga_step.operation = OPERATION_UNSPECIFIED
    assert (await clients.refusal("orchestrator", "Reverse", reversal))[0] == "INVALID_ARGUMENT"


async def test_the_undo_of_nothing_has_no_state(clients: Clients) -> None:
    request = await charge_request(clients, customer())
    undone = await clients.call("orchestrator", "Reverse", reverse_request(request))
    assert undone.state == payments_pb2.PAYMENT_STATE_UNSPECIFIED
    assert await clients.refusal("orchestrator", "Charge", request) == ("FAILED_PRECONDITION", "TOMBSTONED")


async def test_an_unknown_outcome_is_unavailable_and_says_when_to_ask_again(clients: Clients) -> None:
    request = await charge_request(clients, customer(), "tok_timeout_after_charge")
    with pytest.raises(Fault) as unknown:
        await clients.call("orchestrator", "Charge", request)
    fault = unknown.value
    assert (fault.kind, fault.reason) == ("UNAVAILABLE", "PROVIDER_OUTCOME_UNKNOWN")
    assert fault.retry_after is not None
    assert not fault.recorded
    await clients.call("orchestrator", "Charge", request)


async def test_a_decline_is_a_recorded_refusal_of_our_domain(clients: Clients) -> None:
    request = await charge_request(clients, customer(), "tok_declined")
    with pytest.raises(Fault) as declined:
        await clients.call("orchestrator", "Charge", request)
    fault = declined.value
    assert (fault.kind, fault.reason, fault.domain) == (
        "FAILED_PRECONDITION",
        "CARD_DECLINED",
        "sagacity.payments",
    )
    assert fault.recorded


async def test_only_the_orchestrator_moves_money(clients: Clients) -> None:
    user = customer()
    request = await charge_request(clients, user)
    capture = payments_pb2.CaptureRequest(saga_step=later_step(), payment_id=request.payment_id)
    calls: tuple[tuple[str, Any], ...] = (
        ("Charge", request),
        ("Capture", capture),
        ("Refund", refund_request(request, 1)),
        ("Reverse", reverse_request(request)),
    )
    for service, caller in (("gateway", user), ("gateway", admin()), ("orders", None)):
        for method, message in calls:
            assert await clients.refusal(service, method, message, caller) == (
                "PERMISSION_DENIED",
                "NOT_ALLOWED",
            )


async def test_a_webhook_is_the_gateways_to_hand_on_and_the_providers_to_sign(clients: Clients) -> None:
    request = payments_pb2.HandleProviderWebhookRequest(provider="simulated", body=b"{}", signature="t=1")
    found = [await clients.refusal(name, "HandleProviderWebhook", request) for name in SERVICES]
    denied = ("PERMISSION_DENIED", "NOT_ALLOWED")
    assert found == [("INVALID_ARGUMENT", "BAD_SIGNATURE"), denied, denied]


async def test_a_customer_sees_and_changes_only_what_is_theirs(clients: Clients) -> None:
    owner, stranger = customer(), customer()
    request = await charge_request(clients, owner)
    await clients.call("orchestrator", "Charge", request)
    owner_id = str(owner.user_id)
    not_theirs: tuple[tuple[str, Any, tuple[str, str]], ...] = (
        (
            "GetPayment",
            payments_pb2.GetPaymentRequest(payment_id=request.payment_id),
            ("NOT_FOUND", "PAYMENT_NOT_FOUND"),
        ),
        (
            "ListPayments",
            payments_pb2.ListPaymentsRequest(user_id=owner_id),
            ("PERMISSION_DENIED", "PERMISSION_DENIED"),
        ),
        ("ListPayments", payments_pb2.ListPaymentsRequest(), ("PERMISSION_DENIED", "PERMISSION_DENIED")),
        (
            "ListPaymentMethods",
            payments_pb2.ListPaymentMethodsRequest(user_id=owner_id),
            ("NOT_FOUND", "PAYMENT_METHOD_NOT_FOUND"),
        ),
        (
            "RemovePaymentMethod",
            payments_pb2.RemovePaymentMethodRequest(
                user_id=str(stranger.user_id), payment_method_id=request.payment_method_id
            ),
            ("NOT_FOUND", "PAYMENT_METHOD_NOT_FOUND"),
        ),
        (
            "AddPaymentMethod",
            payments_pb2.AddPaymentMethodRequest(
                user_id=owner_id, request_id=str(new_id()), provider_token="tok_success"
            ),
            ("NOT_FOUND", "PAYMENT_METHOD_NOT_FOUND"),
        ),
        (
            "ListLedgerEntries",
            payments_pb2.ListLedgerEntriesRequest(payment_id=request.payment_id),
            ("PERMISSION_DENIED", "NOT_ALLOWED"),
        ),
    )
    for method, message, refusal in not_theirs:
        assert await clients.refusal("gateway", method, message, stranger) == refusal, method
    seen = await clients.call(
        "gateway", "ListPaymentMethods", payments_pb2.ListPaymentMethodsRequest(user_id=owner_id), admin()
    )
    assert [method.id for method in seen.payment_methods] == [request.payment_method_id]


async def test_what_is_no_charge_is_an_invalid_argument(clients: Clients) -> None:
    good = await charge_request(clients, customer())
    for minor_units, currency in ((0, "EUR"), (-1, "EUR"), (1, "ZZZ"), (1, "eur")):
        bad = payments_pb2.ChargeRequest()
        bad.CopyFrom(good)
        bad.amount.CopyFrom(Money(currency_code=currency, minor_units=minor_units))
        assert (await clients.refusal("orchestrator", "Charge", bad))[0] == "INVALID_ARGUMENT"
    good.saga_step.operation = OPERATION_UNDO
    assert (await clients.refusal("orchestrator", "Charge", good))[0] == "INVALID_ARGUMENT"


async def test_a_card_number_is_refused_before_anything_sees_it(clients: Clients) -> None:
    user = customer()
    request = payments_pb2.AddPaymentMethodRequest(
        user_id=str(user.user_id), request_id=str(new_id()), provider_token="4242424242424242"
    )
    assert (await clients.refusal("gateway", "AddPaymentMethod", request, user))[0] == "INVALID_ARGUMENT"
    request.provider_token = "tok_nobody_knows"
    assert await clients.refusal("gateway", "AddPaymentMethod", request, user) == (
        "FAILED_PRECONDITION",
        "TOKEN_UNKNOWN",
    )


def test_every_method_of_the_service_has_a_policy() -> None:
    methods = payments_pb2.DESCRIPTOR.services_by_name["Payments"].methods
    assert {method.name for method in methods} == set(rpc.POLICIES)
