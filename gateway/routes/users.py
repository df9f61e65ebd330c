"""Users: registration, and what belongs to the user who calls."""

from typing import Annotated

from fastapi import Path, Response

from chassis.errors import Fault, FaultKind
from gateway import render
from gateway.auth import Access
from gateway.context import Ctx
from gateway.models import NewPaymentMethod, NewUser, PostalAddress, UuidText
from gateway.openapi import IDEMPOTENCY_KEY, headers_of, problems
from gateway.problems import DOMAIN
from gateway.routing import API, allow, router
from gateway.views import Page, PaymentMethodView, StatisticsView, UserAddressView, UserView
from sagacity.common.v1 import postal_address_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.users.v1 import users_pb2

ROUTER = router(f"{API}/users", tags=["users"])


@ROUTER.post(
    "",
    status_code=201,
    openapi_extra=headers_of(IDEMPOTENCY_KEY),
    responses=problems({409: "The e-mail address has an account already"}),
)
@allow(Access.ANYONE)
async def register(body: NewUser, response: Response, context: Ctx) -> UserView:
    """Registers a customer.

    The e-mail address is the natural key: the same one again is refused with EMAIL_TAKEN.
    """
    context.idempotency_key()
    users = context.backends.users
    request = users_pb2.RegisterRequest(
        email=body.email, password=body.password, display_name=body.display_name
    )
    reply = await context.call(users, users.stub.Register, request)
    response.headers["Location"] = f"{API}/users/me"
    return render.user(reply.user)


@ROUTER.get("/me")
@allow(Access.USER)
async def read_me(context: Ctx) -> UserView:
    """Reads the calling user."""
    users = context.backends.users
    reply = await context.call(users, users.stub.GetUser, users_pb2.GetUserRequest(user_id=context.user_id))
    return render.user(reply.user)


@ROUTER.delete("/me", status_code=204, responses=problems({409: "Nobody else is an active admin"}))
@allow(Access.USER)
async def deactivate_me(context: Ctx) -> None:
    """Closes the calling user's account for good: personal data is forgotten, open orders are cancelled.

    A second time changes nothing. Access tokens that are out work until they expire, at most an hour.
    """
    users = context.backends.users
    request = users_pb2.DeactivateUserRequest(user_id=context.user_id)
    await context.call(users, users.stub.DeactivateUser, request)


@ROUTER.post(
    "/{user_id}/deactivation",
    responses=problems({404: "There is no such user", 409: "Nobody else is an active admin"}),
)
@allow(Access.ADMIN)
async def deactivate_user(user_id: Annotated[UuidText, Path()], context: Ctx) -> UserView:
    """Closes somebody's account for good; answers with what is left of it. A second time changes nothing."""
    users = context.backends.users
    request = users_pb2.DeactivateUserRequest(user_id=user_id)
    return render.user((await context.call(users, users.stub.DeactivateUser, request)).user)


@ROUTER.get("/me/statistics")
@allow(Access.USER)
async def read_my_statistics(context: Ctx) -> StatisticsView:
    """Reads what the calling user ordered, and spent less what went back; follows with a small delay."""
    users = context.backends.users
    request = users_pb2.GetCustomerStatisticsRequest(user_id=context.user_id)
    reply = await context.call(users, users.stub.GetCustomerStatistics, request)
    return render.statistics(reply.statistics)


@ROUTER.get("/me/addresses")
@allow(Access.USER)
async def list_my_addresses(context: Ctx) -> Page[UserAddressView]:
    """Lists the address book of the calling user, oldest first; it has one page."""
    users = context.backends.users
    request = users_pb2.ListAddressesRequest(user_id=context.user_id)
    reply = await context.call(users, users.stub.ListAddresses, request)
    return Page(items=[render.user_address(entry) for entry in reply.addresses])


@ROUTER.post(
    "/me/addresses",
    status_code=201,
    openapi_extra=headers_of(IDEMPOTENCY_KEY),
    responses=problems({409: "The address book is full"}),
)
@allow(Access.USER)
async def add_my_address(body: PostalAddress, response: Response, context: Ctx) -> UserAddressView:
    """Adds an address to the address book of the calling user."""
    users = context.backends.users
    request = users_pb2.AddAddressRequest(
        user_id=context.user_id,
        request_id=context.request_id_of("POST /users/me/addresses"),
        address=postal_address_pb2.PostalAddress(**body.model_dump()),
    )
    reply = await context.call(users, users.stub.AddAddress, request)
    response.headers["Location"] = f"{API}/users/me/addresses"
    return render.user_address(reply.address)


@ROUTER.get("/me/payment-methods")
@allow(Access.USER)
async def list_my_payment_methods(context: Ctx) -> Page[PaymentMethodView]:
    """Lists the payment methods of the calling user, oldest first; they have one page."""
    payments = context.backends.payments
    request = payments_pb2.ListPaymentMethodsRequest(user_id=context.user_id)
    reply = await context.call(payments, payments.stub.ListPaymentMethods, request)
    return Page(items=[render.payment_method(method) for method in reply.payment_methods])


@ROUTER.post(
    "/me/payment-methods",
    status_code=201,
    openapi_extra=headers_of(IDEMPOTENCY_KEY),
    responses=problems({409: "The provider does not know the token, or there are too many methods"}),
)
@allow(Access.USER)
async def add_my_payment_method(
    body: NewPaymentMethod, response: Response, context: Ctx
) -> PaymentMethodView:
    """Adds a payment method: a token of the payment provider, never a card number."""
    payments = context.backends.payments
    request = payments_pb2.AddPaymentMethodRequest(
        user_id=context.user_id,
        request_id=context.request_id_of("POST /users/me/payment-methods"),
        provider_token=body.provider_token,
    )
    reply = await context.call(payments, payments.stub.AddPaymentMethod, request)
    response.headers["Location"] = f"{API}/users/me/payment-methods/{reply.payment_method.id}"
    return render.payment_method(reply.payment_method)


@ROUTER.get("/me/payment-methods/{payment_method_id}", responses=problems({404: "You have no such method"}))
@allow(Access.USER)
async def read_my_payment_method(
    payment_method_id: Annotated[UuidText, Path()], context: Ctx
) -> PaymentMethodView:
    """Reads one payment method of the calling user."""
    payments = context.backends.payments
    request = payments_pb2.ListPaymentMethodsRequest(user_id=context.user_id)
    reply = await context.call(payments, payments.stub.ListPaymentMethods, request)
    for method in reply.payment_methods:  # at most 20: the service has no call for one
        if method.id == payment_method_id:
            return render.payment_method(method)
    raise Fault(
        FaultKind.NOT_FOUND, "PAYMENT_METHOD_NOT_FOUND", "You have no such payment method.", domain=DOMAIN
    )


@ROUTER.delete(
    "/me/payment-methods/{payment_method_id}",
    status_code=204,
    responses=problems({404: "You have no such method"}),
)
@allow(Access.USER)
async def remove_my_payment_method(payment_method_id: Annotated[UuidText, Path()], context: Ctx) -> None:
    """Removes a payment method of the calling user; payments made with it stay."""
    payments = context.backends.payments
    request = payments_pb2.RemovePaymentMethodRequest(
        user_id=context.user_id, payment_method_id=payment_method_id
    )
    await context.call(payments, payments.stub.RemovePaymentMethod, request)
