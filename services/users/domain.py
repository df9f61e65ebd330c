"""Accounts, addresses and statistics as values, and the rules that hold between them. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

MAX_ADDRESSES_PER_USER = 20
MAX_EMAIL_CHARACTERS = 254


class Role(StrEnum):
    """What a user may do beyond their own data."""

    CUSTOMER = "CUSTOMER"
    SUPPORT = "SUPPORT"
    ADMIN = "ADMIN"


class UserState(StrEnum):
    """Whether a user can log in and order."""

    ACTIVE = "ACTIVE"
    BLOCKED = "BLOCKED"
    DEACTIVATED = "DEACTIVATED"


class UsersError(Exception):
    """Something that this context refuses."""


class EmailTakenError(UsersError):
    """Another account has this e-mail address."""


class BadCredentialsError(UsersError):
    """The e-mail is unknown, the password wrong or the user not active; the caller never learns which."""


class UserNotFoundError(UsersError):
    """There is no such user, or it is none of the caller's business."""


class AddressNotFoundError(UsersError):
    """The user has no such address."""


class UserNotActiveError(UsersError):
    """The user is blocked or gone."""


class NotAnAdminError(UsersError):
    """The caller's token says admin, and the account says otherwise by now."""


class LastAdminError(UsersError):
    """Without this user nobody would be an active admin."""


class TooManyAddressesError(UsersError):
    """The address book is full."""


class BusyError(UsersError):
    """More passwords wait for their check than this process works off in reasonable time."""


class NeverSpentError(Exception):
    """Money goes back that was never counted as spent: a fact about the order is missing."""


@dataclass(frozen=True, slots=True)
class User:
    """A person with an account. The password's hash is no part of it and stays in the store.

    Of one that was deactivated `email` and `display_name` are empty.
    """

    id: UUID
    email: str
    display_name: str
    role: Role
    state: UserState
    create_time: datetime
    deactivate_time: datetime | None = None

    @property
    def is_active_admin(self) -> bool:
        """Whether the user may do now what admins may."""
        return self.role is Role.ADMIN and self.state is UserState.ACTIVE


@dataclass(frozen=True, slots=True)
class PostalAddress:
    """Where something is sent to; fields that a country does not use are empty."""

    recipient: str
    line1: str
    line2: str
    city: str
    region: str
    postal_code: str
    country_code: str


@dataclass(frozen=True, slots=True)
class UserAddress:
    """An entry of a user's address book."""

    id: UUID
    address: PostalAddress
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units of an ISO 4217 currency."""

    currency_code: str
    minor_units: int


@dataclass(frozen=True, slots=True)
class CustomerStatistics:
    """What a customer ordered, and spent less what went back; amounts in the order of their currencies."""

    user_id: UUID
    orders_placed: int = 0
    orders_confirmed: int = 0
    orders_rejected: int = 0
    orders_cancelled: int = 0
    amount_spent: Sequence[Money] = ()


@dataclass(frozen=True, slots=True)
class StatisticsChange:
    """What one fact about an order adds to its customer's statistics; `spent` or `returned`, never both."""

    user_id: UUID
    placed: int = 0
    confirmed: int = 0
    rejected: int = 0
    cancelled: int = 0
    spent: Money | None = None
    returned: Money | None = None


def normal_email(email: str) -> str:
    """The form of an e-mail address that is stored and compared: lower case."""
    return email.lower()


def can_be_an_email(email: str) -> bool:
    """Whether an account can have this address: a log-in may send any text, also what a database refuses."""
    return len(email) <= MAX_EMAIL_CHARACTERS and email.isascii() and email.isprintable()


def require_active(state: UserState) -> None:
    """Passes for the state of a user who can log in and order.

    Raises:
        UserNotActiveError: for any other.
    """
    if state is not UserState.ACTIVE:
        raise UserNotActiveError


def require_not_deactivated(state: UserState) -> None:
    """Passes for the state of a user whose account can be changed.

    Raises:
        UserNotActiveError: for DEACTIVATED, which is for good.
    """
    if state is UserState.DEACTIVATED:
        raise UserNotActiveError


def left_of(total: Money, refunded: Money) -> Money:
    """What is left of an order's money after what went back.

    Raises:
        ValueError: more went back than there was.
    """
    if not 0 <= refunded.minor_units <= total.minor_units:
        raise ValueError("more went back than the order's total")
    return Money(total.currency_code, total.minor_units - refunded.minor_units)


def require_room_for_an_address(addresses_now: int) -> None:
    """Passes while the address book can take one more.

    Raises:
        TooManyAddressesError: at `MAX_ADDRESSES_PER_USER`.
    """
    if addresses_now >= MAX_ADDRESSES_PER_USER:
        raise TooManyAddressesError
