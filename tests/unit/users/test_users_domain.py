import pytest

from services.users.domain import (
    MAX_ADDRESSES_PER_USER,
    TooManyAddressesError,
    UserNotActiveError,
    UserState,
    can_be_an_email,
    normal_email,
    require_active,
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
