"""The gRPC surface: proto <-> domain, who may call what, and one table from domain error to Fault."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import grpc.aio
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import current_caller
from chassis.timestamps import to_timestamp
from sagacity.common.v1 import money_pb2, postal_address_pb2
from sagacity.users.v1 import users_pb2, users_pb2_grpc
from services.users.app import Users
from services.users.domain import (
    AddressNotFoundError,
    BadCredentialsError,
    BusyError,
    CustomerStatistics,
    EmailTakenError,
    LastAdminError,
    NotAnAdminError,
    PostalAddress,
    Role,
    TooManyAddressesError,
    User,
    UserAddress,
    UserNotActiveError,
    UserNotFoundError,
    UsersError,
    UserState,
)

DOMAIN = "sagacity.users"
BUSY_RETRY_AFTER = timedelta(seconds=1)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# Roles as identity tokens spell them.
ADMINS = frozenset({"admin"})
STAFF = ADMINS | {"support"}
ANY_USER = STAFF | {"customer"}
GATEWAY = frozenset({"gateway"})
EVERY_SERVICE = frozenset({"users", "inventory", "payments", "orders", "orchestrator", "gateway", "operator"})

POLICIES: Mapping[str, Allow] = {
    "Register": Allow(GATEWAY),
    "Login": Allow(GATEWAY),
    "GetUser": Allow(GATEWAY, ANY_USER),
    "SetRole": Allow(GATEWAY, ADMINS),
    "DeactivateUser": Allow(GATEWAY, ANY_USER),
    "AddAddress": Allow(GATEWAY, ANY_USER),
    "ListAddresses": Allow(GATEWAY, ANY_USER),
    "AssertCanOrder": Allow(frozenset({"orchestrator"})),
    "GetCustomerStatistics": Allow(GATEWAY, ANY_USER),
    "GetJsonWebKeys": Allow(EVERY_SERVICE),
}

FAULTS: Mapping[type[UsersError], tuple[FaultKind, str, str]] = {
    EmailTakenError: (FaultKind.ALREADY_EXISTS, "EMAIL_TAKEN", "another account has this e-mail address"),
    BadCredentialsError: (FaultKind.UNAUTHENTICATED, "BAD_CREDENTIALS", "e-mail or password is wrong"),
    UserNotFoundError: (FaultKind.NOT_FOUND, "USER_NOT_FOUND", "there is no such user"),
    AddressNotFoundError: (FaultKind.NOT_FOUND, "ADDRESS_NOT_FOUND", "the user has no such address"),
    UserNotActiveError: (FaultKind.FAILED_PRECONDITION, "USER_NOT_ACTIVE", "the user is not active"),
    NotAnAdminError: (FaultKind.PERMISSION_DENIED, "NOT_ALLOWED", "the caller is no admin any more"),
    LastAdminError: (FaultKind.FAILED_PRECONDITION, "LAST_ADMIN", "nobody else is an active admin"),
    TooManyAddressesError: (FaultKind.FAILED_PRECONDITION, "TOO_MANY_ADDRESSES", "the address book is full"),
    BusyError: (FaultKind.RESOURCE_EXHAUSTED, "BUSY", "too many log-ins at once; try again"),
}


def translate(error: Exception) -> Fault | None:
    """The Fault for an error of this context's domain; None for any other."""
    if not isinstance(error, UsersError):
        return None
    kind, reason, message = FAULTS[type(error)]
    retry_after = BUSY_RETRY_AFTER if isinstance(error, BusyError) else None
    return Fault(kind, reason, message, retry_after=retry_after)


class UsersServicer(users_pb2_grpc.UsersServicer):
    """Serves `sagacity.users.v1.Users`; the proto says what each method does and raises."""

    def __init__(self, app: Users) -> None:
        self._app = app

    @override
    async def Register(
        self, request: users_pb2.RegisterRequest, context: Context
    ) -> users_pb2.RegisterResponse:
        """Creates a customer's account."""
        user = await self._app.register(
            email=request.email, password=request.password, display_name=request.display_name
        )
        return users_pb2.RegisterResponse(user=_user(user))

    @override
    async def Login(self, request: users_pb2.LoginRequest, context: Context) -> users_pb2.LoginResponse:
        """Exchanges e-mail and password for an access token."""
        token, user = await self._app.log_in(email=request.email, password=request.password)
        return users_pb2.LoginResponse(
            access_token=token.text, expire_time=to_timestamp(token.expire_time), user=_user(user)
        )

    @override
    async def GetUser(self, request: users_pb2.GetUserRequest, context: Context) -> users_pb2.GetUserResponse:
        """Reads one user."""
        user = await self._app.get_user(_own_or_any_for(STAFF, request.user_id))
        return users_pb2.GetUserResponse(user=_user(user))

    @override
    async def SetRole(self, request: users_pb2.SetRoleRequest, context: Context) -> users_pb2.SetRoleResponse:
        """Changes a user's role."""
        user = await self._app.set_role(UUID(request.user_id), ROLES[request.role], by=_caller())
        return users_pb2.SetRoleResponse(user=_user(user))

    @override
    async def DeactivateUser(
        self, request: users_pb2.DeactivateUserRequest, context: Context
    ) -> users_pb2.DeactivateUserResponse:
        """Closes an account for good."""
        user = await self._app.deactivate(_own_or_any_for(ADMINS, request.user_id), by=_caller())
        return users_pb2.DeactivateUserResponse(user=_user(user))

    @override
    async def AddAddress(
        self, request: users_pb2.AddAddressRequest, context: Context
    ) -> users_pb2.AddAddressResponse:
        """Adds an address to the caller's own address book."""
        entry = await self._app.add_address(
            _own(request.user_id), UUID(request.request_id), _domain_address(request.address)
        )
        return users_pb2.AddAddressResponse(address=_user_address(entry))

    @override
    async def ListAddresses(
        self, request: users_pb2.ListAddressesRequest, context: Context
    ) -> users_pb2.ListAddressesResponse:
        """Lists the addresses of a user."""
        book = await self._app.list_addresses(_own_or_any_for(STAFF, request.user_id))
        return users_pb2.ListAddressesResponse(addresses=[_user_address(entry) for entry in book])

    @override
    async def AssertCanOrder(
        self, request: users_pb2.AssertCanOrderRequest, context: Context
    ) -> users_pb2.AssertCanOrderResponse:
        """Checks that a user may order to an address."""
        address = await self._app.assert_can_order(UUID(request.user_id), UUID(request.address_id))
        return users_pb2.AssertCanOrderResponse(address=_address(address))

    @override
    async def GetCustomerStatistics(
        self, request: users_pb2.GetCustomerStatisticsRequest, context: Context
    ) -> users_pb2.GetCustomerStatisticsResponse:
        """Reads what a customer ordered and spent."""
        statistics = await self._app.get_statistics(_own_or_any_for(STAFF, request.user_id))
        return users_pb2.GetCustomerStatisticsResponse(statistics=_statistics(statistics))

    @override
    async def GetJsonWebKeys(
        self, request: users_pb2.GetJsonWebKeysRequest, context: Context
    ) -> users_pb2.GetJsonWebKeysResponse:
        """Reads the public keys that verify access tokens."""
        return users_pb2.GetJsonWebKeysResponse(json=self._app.key_set_json())


def _own(user_id: str) -> UUID:
    """The id, if it is the caller's own. Somebody else's does not exist for them."""
    wanted = UUID(user_id)
    if current_caller().user_id != wanted:
        raise UserNotFoundError
    return wanted


def _own_or_any_for(roles: frozenset[str], user_id: str) -> UUID:
    if current_caller().role in roles:
        return UUID(user_id)
    return _own(user_id)


def _caller() -> UUID:
    caller = current_caller().user_id
    # The policies of these methods let nobody in who acts for no user.
    assert caller is not None
    return caller


ROLES: Mapping[int, Role] = {
    users_pb2.ROLE_CUSTOMER: Role.CUSTOMER,
    users_pb2.ROLE_SUPPORT: Role.SUPPORT,
    users_pb2.ROLE_ADMIN: Role.ADMIN,
}
ROLE_NUMBERS = {role: users_pb2.Role.Value(f"ROLE_{role}") for role in Role}
STATE_NUMBERS = {state: users_pb2.UserState.Value(f"USER_STATE_{state}") for state in UserState}


def _user(user: User) -> users_pb2.User:
    gone = user.deactivate_time
    return users_pb2.User(
        id=str(user.id),
        email=user.email,
        display_name=user.display_name,
        role=ROLE_NUMBERS[user.role],
        state=STATE_NUMBERS[user.state],
        create_time=to_timestamp(user.create_time),
        deactivate_time=None if gone is None else to_timestamp(gone),
    )


def _user_address(entry: UserAddress) -> users_pb2.UserAddress:
    return users_pb2.UserAddress(
        id=str(entry.id), address=_address(entry.address), create_time=to_timestamp(entry.create_time)
    )


def _address(address: PostalAddress) -> postal_address_pb2.PostalAddress:
    return postal_address_pb2.PostalAddress(
        recipient=address.recipient,
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        region=address.region,
        postal_code=address.postal_code,
        country_code=address.country_code,
    )


def _domain_address(address: postal_address_pb2.PostalAddress) -> PostalAddress:
    return PostalAddress(
        recipient=address.recipient,
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        region=address.region,
        postal_code=address.postal_code,
        country_code=address.country_code,
    )


def _statistics(statistics: CustomerStatistics) -> users_pb2.CustomerStatistics:
    return users_pb2.CustomerStatistics(
        user_id=str(statistics.user_id),
        orders_placed=statistics.orders_placed,
        orders_confirmed=statistics.orders_confirmed,
        orders_rejected=statistics.orders_rejected,
        orders_cancelled=statistics.orders_cancelled,
        amount_spent=[
            money_pb2.Money(currency_code=amount.currency_code, minor_units=amount.minor_units)
            for amount in statistics.amount_spent
        ],
    )
