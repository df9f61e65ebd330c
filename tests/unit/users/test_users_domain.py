from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.users.domain import (
    MAX_ADDRESSES_PER_USER,
    Money,
    Role,
    TooManyAddressesError,
    User,
    UserNotActiveError,
    UserState,
    can_be_an_email,
    left_of,
    normal_email,
    require_active,
    require_not_deactivated,
    require_room_for_an_address,
)


def test_an_email_is_compared_without_regard_to_case() -> None:
    assert normal_email("Ada@Example.COM") == normal_email("ada@example.com") == "ada@example.com"


@pytest.mark.parametrize("text", ["a\x00@b.example", "ü@b.example", "a@" + "b" * 253, "a\n@b.example"])
def test_text_that_no_account_can_have_is_no_email(text: str) -> None:
    assert not can_be_an_email(text)


def test_an_ordinary_address_can_be_an_email() -> None:
    assert can_be_an_email("ada@example.com")


def test_an_active_user_passes() -> None:
    require_active(UserState.ACTIVE)


@pytest.mark.parametrize("state", [UserState.BLOCKED, UserState.DEACTIVATED])
def test_a_user_who_is_not_active_is_refused(state: UserState) -> None:
    with pytest.raises(UserNotActiveError):
        require_active(state)


def test_the_last_place_of_an_address_book_can_be_taken() -> None:
    require_room_for_an_address(MAX_ADDRESSES_PER_USER - 1)


def test_a_full_address_book_takes_no_more() -> None:
    with pytest.raises(TooManyAddressesError):
        require_room_for_an_address(MAX_ADDRESSES_PER_USER)


@pytest.mark.parametrize("state", [UserState.ACTIVE, UserState.BLOCKED])
def test_an_account_that_is_not_deactivated_can_be_changed(state: UserState) -> None:
    require_not_deactivated(state)


def test_a_deactivated_account_is_not_changed() -> None:
    with pytest.raises(UserNotActiveError):
        require_not_deactivated(UserState.DEACTIVATED)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", UserState)
def test_only_an_active_admin_may_do_what_admins_may(role: Role, state: UserState) -> None:
    user = User(UUID(int=1), "ada@example.com", "Ada", role, state, datetime(2026, 3, 1, tzinfo=UTC))
    assert user.is_active_admin == ((role, state) == (Role.ADMIN, UserState.ACTIVE))


@pytest.mark.parametrize(
    ("total", "refunded", "left"), [(100, 0, 100), (100, 30, 70), (100, 100, 0), (0, 0, 0)]
)
def test_what_is_left_of_an_order_is_its_total_less_what_went_back(
    total: int, refunded: int, left: int
) -> None:
    assert left_of(Money("EUR", total), Money("EUR", refunded)) == Money("EUR", left)


@pytest.mark.parametrize(("total", "refunded"), [(100, 101), (0, 1), (100, -1)])
def test_more_than_an_order_cost_cannot_have_gone_back(total: int, refunded: int) -> None:
    with pytest.raises(ValueError, match="more went back"):
        left_of(Money("EUR", total), Money("EUR", refunded))
