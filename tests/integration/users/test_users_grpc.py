import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from chassis.postgres import Database
from sagacity.common.v1.postal_address_pb2 import PostalAddress
from sagacity.users.v1 import users_pb2, users_pb2_grpc
from services.users import rpc
from services.users.app import Users
from tests.integration.users.accounts import PASSWORD, admin_of, nobody_is_admin

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 10.0
ADDRESS = PostalAddress(recipient="Ada", line1="12 St James's Square", city="London", country_code="GB")
NOBODY = UUID("01890000-0000-7000-8000-00000000dead")


@dataclass(frozen=True)
class Client:
    """One service's view of the users service."""

    connection: Connection
    stub: "users_pb2_grpc.UsersAsyncStub"  # a name of the stubs alone

    async def call(self, method: str, request: object, user: Caller | None = None) -> object:
        return await self.connection.call(
            getattr(self.stub, method), request, timeout_seconds=TIMEOUT_SECONDS, user=user
        )


@dataclass(frozen=True)
class Clients:
    """What the tests have of the users service: it through each service, and its use cases."""

    app: Users
    gateway: Client
    orchestrator: Client
    orders: Client


@pytest.fixture(scope="module")
async def clients(app: Users) -> AsyncIterator[Clients]:
    pairs = {name: new_key_pair(name) for name in ("gateway", "orchestrator", "orders")}
    verifier = Verifier({"keys": [public for _, public in pairs.values()]})
    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    users_pb2_grpc.add_UsersServicer_to_server(rpc.UsersServicer(app), server.server)
    port = await server.start("127.0.0.1:0")

    def client(name: str) -> Client:
        connection = Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pairs[name][0]))
        return Client(connection, users_pb2_grpc.UsersStub(connection.channel))

    made = Clients(app, client("gateway"), client("orchestrator"), client("orders"))
    yield made
    for each in (made.gateway, made.orchestrator, made.orders):
        await each.connection.close()
    await server.stop()


async def registered(clients: Clients) -> tuple[users_pb2.User, Caller]:
    request = users_pb2.RegisterRequest(
        email=f"{new_id()}@Example.com", password=PASSWORD, display_name="Ada"
    )
    reply = await clients.gateway.call("Register", request)
    assert isinstance(reply, users_pb2.RegisterResponse)
    return reply.user, Caller("gateway", UUID(reply.user.id), "customer")


async def admin(clients: Clients) -> Caller:
    return Caller("gateway", (await admin_of(clients.app)).id, "admin")


async def refusal(
    client: Client, method: str, request: object, user: Caller | None = None
) -> tuple[str, str, str]:
    with pytest.raises(Fault) as caught:
        await client.call(method, request, user)
    return caught.value.kind.value, caught.value.reason, caught.value.domain


def every_request(user_id: str) -> dict[str, object]:
    return {
        "Register": users_pb2.RegisterRequest(email="m@example.com", password=PASSWORD, display_name="M"),
        "Login": users_pb2.LoginRequest(email="m@example.com", password=PASSWORD),
        "GetUser": users_pb2.GetUserRequest(user_id=user_id),
        "SetRole": users_pb2.SetRoleRequest(user_id=user_id, role=users_pb2.ROLE_SUPPORT),
        "DeactivateUser": users_pb2.DeactivateUserRequest(user_id=user_id),
        "AddAddress": users_pb2.AddAddressRequest(user_id=user_id, request_id=str(new_id()), address=ADDRESS),
        "ListAddresses": users_pb2.ListAddressesRequest(user_id=user_id),
        "AssertCanOrder": users_pb2.AssertCanOrderRequest(user_id=user_id, address_id=str(new_id())),
        "GetCustomerStatistics": users_pb2.GetCustomerStatisticsRequest(user_id=user_id),
        "GetJsonWebKeys": users_pb2.GetJsonWebKeysRequest(),
    }


async def test_a_customer_registers_logs_in_and_can_order(clients: Clients) -> None:
    user, caller = await registered(clients)
    assert user.email == user.email.lower()
    assert (user.role, user.state) == (users_pb2.ROLE_CUSTOMER, users_pb2.USER_STATE_ACTIVE)

    login = await clients.gateway.call("Login", users_pb2.LoginRequest(email=user.email, password=PASSWORD))
    assert isinstance(login, users_pb2.LoginResponse)
    published = await clients.orders.call("GetJsonWebKeys", users_pb2.GetJsonWebKeysRequest())
    assert isinstance(published, users_pb2.GetJsonWebKeysResponse)
    keys = KeySet.import_key_set(json.loads(published.json))
    claims = jwt.decode(login.access_token, keys, algorithms=["Ed25519"]).claims
    assert (claims["sub"], claims["role"], claims["exp"]) == (
        user.id,
        "customer",
        login.expire_time.seconds,
    )

    add = users_pb2.AddAddressRequest(user_id=user.id, request_id=str(new_id()), address=ADDRESS)
    added = await clients.gateway.call("AddAddress", add, caller)
    assert isinstance(added, users_pb2.AddAddressResponse)
    check = users_pb2.AssertCanOrderRequest(user_id=user.id, address_id=added.address.id)
    answer = await clients.orchestrator.call("AssertCanOrder", check)
    assert answer == users_pb2.AssertCanOrderResponse(address=ADDRESS)


async def test_a_customer_sees_themself(clients: Clients) -> None:
    user, caller = await registered(clients)
    assert await clients.gateway.call(
        "GetUser", users_pb2.GetUserRequest(user_id=user.id), caller
    ) == users_pb2.GetUserResponse(user=user)
    assert await clients.gateway.call(
        "GetCustomerStatistics", users_pb2.GetCustomerStatisticsRequest(user_id=user.id), caller
    ) == users_pb2.GetCustomerStatisticsResponse(statistics=users_pb2.CustomerStatistics(user_id=user.id))
    assert (
        await clients.gateway.call("ListAddresses", users_pb2.ListAddressesRequest(user_id=user.id), caller)
        == users_pb2.ListAddressesResponse()
    )


@pytest.mark.parametrize(
    "method", ["GetUser", "DeactivateUser", "AddAddress", "ListAddresses", "GetCustomerStatistics"]
)
async def test_somebody_else_is_not_found_just_like_nobody(clients: Clients, method: str) -> None:
    user, _ = await registered(clients)
    _, stranger = await registered(clients)
    not_found = ("NOT_FOUND", "USER_NOT_FOUND", "sagacity.users")
    for user_id in (user.id, str(NOBODY)):
        assert await refusal(clients.gateway, method, every_request(user_id)[method], stranger) == not_found


@pytest.mark.parametrize("role", ["support", "admin"])
async def test_staff_see_everybody_but_do_not_fill_their_address_books(clients: Clients, role: str) -> None:
    user, _ = await registered(clients)
    staff = Caller("gateway", NOBODY, role)
    requests = every_request(user.id)
    for method in ("GetUser", "ListAddresses", "GetCustomerStatistics"):
        await clients.gateway.call(method, requests[method], staff)
    assert (await refusal(clients.gateway, "AddAddress", requests["AddAddress"], staff))[0] == "NOT_FOUND"


async def test_only_an_admin_changes_a_role(clients: Clients) -> None:
    user, caller = await registered(clients)
    request = users_pb2.SetRoleRequest(user_id=user.id, role=users_pb2.ROLE_ADMIN)
    for refused in (caller, Caller("gateway", NOBODY, "support"), None):
        assert (await refusal(clients.gateway, "SetRole", request, refused))[0] == "PERMISSION_DENIED"
    not_by_token_alone = ("PERMISSION_DENIED", "NOT_ALLOWED", "sagacity.users")
    stale = Caller("gateway", NOBODY, "admin")
    assert await refusal(clients.gateway, "SetRole", request, stale) == not_by_token_alone
    changed = await clients.gateway.call("SetRole", request, await admin(clients))
    assert isinstance(changed, users_pb2.SetRoleResponse)
    assert changed.user.role == users_pb2.ROLE_ADMIN


async def test_a_user_deactivates_themself_and_only_what_is_not_personal_stays(clients: Clients) -> None:
    user, caller = await registered(clients)
    requests = every_request(user.id)
    await clients.gateway.call("AddAddress", requests["AddAddress"], caller)
    reply = await clients.gateway.call("DeactivateUser", requests["DeactivateUser"], caller)
    assert isinstance(reply, users_pb2.DeactivateUserResponse)
    assert reply.user == users_pb2.User(
        id=user.id,
        role=users_pb2.ROLE_CUSTOMER,
        state=users_pb2.USER_STATE_DEACTIVATED,
        create_time=user.create_time,
        deactivate_time=reply.user.deactivate_time,
    )
    assert reply.user.HasField("deactivate_time")
    assert await clients.gateway.call("DeactivateUser", requests["DeactivateUser"], caller) == reply
    assert await clients.gateway.call("GetUser", requests["GetUser"], caller) == users_pb2.GetUserResponse(
        user=reply.user
    )
    not_active = ("FAILED_PRECONDITION", "USER_NOT_ACTIVE", "sagacity.users")
    assert await refusal(clients.gateway, "AddAddress", requests["AddAddress"], caller) == not_active
    assert await refusal(clients.orchestrator, "AssertCanOrder", requests["AssertCanOrder"]) == not_active
    assert await refusal(clients.gateway, "SetRole", requests["SetRole"], await admin(clients)) == not_active
    login = users_pb2.LoginRequest(email=user.email, password=PASSWORD)
    bad_credentials = ("UNAUTHENTICATED", "BAD_CREDENTIALS", "sagacity.users")
    assert await refusal(clients.gateway, "Login", login) == bad_credentials


async def test_an_admin_deactivates_anybody_and_support_only_themself(clients: Clients) -> None:
    user, _ = await registered(clients)
    request = every_request(user.id)["DeactivateUser"]
    support = Caller("gateway", NOBODY, "support")
    assert (await refusal(clients.gateway, "DeactivateUser", request, support))[1] == "USER_NOT_FOUND"
    assert (await refusal(clients.gateway, "DeactivateUser", request))[0] == "PERMISSION_DENIED"
    stale = Caller("gateway", NOBODY, "admin")
    assert (await refusal(clients.gateway, "DeactivateUser", request, stale))[1] == "NOT_ALLOWED"
    reply = await clients.gateway.call("DeactivateUser", request, await admin(clients))
    assert isinstance(reply, users_pb2.DeactivateUserResponse)
    assert reply.user.state == users_pb2.USER_STATE_DEACTIVATED


async def test_the_last_admin_is_told_why_they_cannot_go(clients: Clients, database: Database) -> None:
    await nobody_is_admin(database)
    last = await admin(clients)
    for method in ("DeactivateUser", "SetRole"):
        request = every_request(str(last.user_id))[method]
        assert await refusal(clients.gateway, method, request, last) == (
            "FAILED_PRECONDITION",
            "LAST_ADMIN",
            "sagacity.users",
        )


@pytest.mark.parametrize("method", ["DeactivateUser", "SetRole"])
async def test_what_is_no_user_id_is_named(clients: Clients, method: str) -> None:
    with pytest.raises(Fault) as caught:
        await clients.gateway.call(method, every_request("me")[method], Caller("gateway", NOBODY, "admin"))
    assert caught.value.kind.value == "INVALID_ARGUMENT"
    assert {detail.subject for detail in caught.value.fields} == {"user_id"}


async def test_each_service_calls_what_it_needs_and_nothing_else(clients: Clients) -> None:
    allowed = {"orchestrator": {"AssertCanOrder", "GetJsonWebKeys"}, "orders": {"GetJsonWebKeys"}}
    for service, methods in allowed.items():
        client: Client = getattr(clients, service)
        for method, request in every_request(str(NOBODY)).items():
            if method not in methods:
                # Whom it says it acts for makes no difference: only the gateway is believed.
                kind, _, _ = await refusal(client, method, request, Caller(service, NOBODY, "admin"))
                assert (method, kind) == (method, "PERMISSION_DENIED")


async def test_every_method_has_a_policy() -> None:
    service = users_pb2.DESCRIPTOR.services_by_name["Users"]
    assert set(rpc.POLICIES) == set(service.methods_by_name)


async def test_refusals_carry_their_reason(clients: Clients) -> None:
    user, _ = await registered(clients)
    again = users_pb2.RegisterRequest(email=user.email, password=PASSWORD, display_name="Eve")
    assert await refusal(clients.gateway, "Register", again) == (
        "ALREADY_EXISTS",
        "EMAIL_TAKEN",
        "sagacity.users",
    )
    for email, password in ((user.email, "wrong"), ("nobody@example.com", PASSWORD), ("\x00", PASSWORD)):
        request = users_pb2.LoginRequest(email=email, password=password)
        assert await refusal(clients.gateway, "Login", request) == (
            "UNAUTHENTICATED",
            "BAD_CREDENTIALS",
            "sagacity.users",
        )
    check = users_pb2.AssertCanOrderRequest(user_id=user.id, address_id=str(new_id()))
    assert await refusal(clients.orchestrator, "AssertCanOrder", check) == (
        "NOT_FOUND",
        "ADDRESS_NOT_FOUND",
        "sagacity.users",
    )


@pytest.mark.parametrize(
    ("email", "password", "name", "field"),
    [
        ("no e-mail", PASSWORD, "Ada", "email"),
        ("ada@example.com", "too short", "Ada", "password"),
        ("ada@example.com", PASSWORD, "", "display_name"),
        ("ada@example.com", PASSWORD, "A\x00da", "display_name"),
    ],
)
async def test_a_bad_registration_names_the_field(
    clients: Clients, email: str, password: str, name: str, field: str
) -> None:
    with pytest.raises(Fault) as caught:
        await clients.gateway.call(
            "Register", users_pb2.RegisterRequest(email=email, password=password, display_name=name)
        )
    assert caught.value.kind.value == "INVALID_ARGUMENT"
    assert {detail.subject for detail in caught.value.fields} == {field}
