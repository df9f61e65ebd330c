"""Accounts that are closed for good, and what is left of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx2
import pytest

from chassis.errors import Fault, FaultKind
from sagacity.common.v1 import money_pb2
from sagacity.users.v1 import users_pb2

ME = UUID("018f7e9c-5d1a-7c3e-9b1f-000000000002")
ID = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
ACTIONS = [("DELETE", "/api/v1/users/me"), ("POST", f"/api/v1/users/{ID}/deactivation")]


def deactivated(user_id: str) -> users_pb2.User:
    user = users_pb2.User(id=user_id, role=users_pb2.ROLE_CUSTOMER, state=users_pb2.USER_STATE_DEACTIVATED)
    user.deactivate_time.FromJsonString("2026-03-01T00:00:00Z")
    return user


async def test_a_user_closes_their_own_account(client: httpx2.AsyncClient, backends: Any) -> None:
    gone = await client.delete("/api/v1/users/me", headers=backends.bearer("customer", ME))
    assert (gone.status_code, gone.content) == (204, b"")
    request, caller = backends.last("DeactivateUser")
    assert (request.user_id, caller.user_id, caller.role) == (str(ME), ME, "customer")


async def test_an_admin_closes_an_account_and_sees_what_is_left(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    backends.answers["DeactivateUser"] = users_pb2.DeactivateUserResponse(user=deactivated(ID))
    answer = await client.post(
        f"/api/v1/users/{ID.upper()}/deactivation", headers=backends.bearer("admin", ME)
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "id": ID,
        "email": "",
        "display_name": "",
        "role": "customer",
        "state": "deactivated",
        "create_time": None,
        "deactivate_time": "2026-03-01T00:00:00Z",
    }
    request, caller = backends.last("DeactivateUser")
    assert (request.user_id, caller.user_id, caller.role) == (ID, ME, "admin")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (FaultKind.FAILED_PRECONDITION, "LAST_ADMIN", 409),
        (FaultKind.NOT_FOUND, "USER_NOT_FOUND", 404),
        (FaultKind.PERMISSION_DENIED, "NOT_ALLOWED", 403),
    ],
)
async def test_a_refused_deactivation_says_why(
    client: httpx2.AsyncClient,
    backends: Any,
    *,
    action: tuple[str, str],
    kind: FaultKind,
    code: str,
    status: int,
) -> None:
    backends.answers["DeactivateUser"] = Fault(kind, code, "m")
    answer = await client.request(*action, headers=backends.bearer("admin", ME))
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("user_id", ["me", "1", f"{ID}0", "%00"])
async def test_what_is_no_user_id_is_named(client: httpx2.AsyncClient, backends: Any, user_id: str) -> None:
    answer = await client.post(f"/api/v1/users/{user_id}/deactivation", headers=backends.bearer("admin", ME))
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["user_id"]
    assert all(name != "DeactivateUser" for name, _, _ in backends.calls)


async def test_statistics_tell_of_cancelled_orders(client: httpx2.AsyncClient, backends: Any) -> None:
    backends.answers["GetCustomerStatistics"] = users_pb2.GetCustomerStatisticsResponse(
        statistics=users_pb2.CustomerStatistics(
            user_id=str(ME),
            orders_placed=2,
            orders_confirmed=2,
            orders_cancelled=1,
            amount_spent=[money_pb2.Money(currency_code="EUR", minor_units=700)],
        )
    )
    answer = await client.get("/api/v1/users/me/statistics", headers=backends.bearer("customer", ME))
    assert answer.json() == {
        "user_id": str(ME),
        "orders_placed": 2,
        "orders_confirmed": 2,
        "orders_rejected": 0,
        "orders_cancelled": 1,
        "amount_spent": [{"currency": "EUR", "amount_minor": 700}],
    }
