"""Accounts and their address books."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from chassis.postgres import Row, Transaction, statement
from services.users.domain import (
    MAX_ADDRESSES_PER_USER,
    AddressNotFoundError,
    PostalAddress,
    Role,
    User,
    UserAddress,
    UserNotFoundError,
    UserState,
    require_active,
)
from services.users.store.source import CanFetch

# The insert locks the row; its version is therefore the next sequence of this user's facts.
INSERT_USER = statement(
    "insert_user",
    """
    INSERT INTO users (id, email, display_name, role, state, password_hash, version, create_time)
    VALUES (%(id)s, %(email)s, %(display_name)s, %(role)s, %(state)s, %(password_hash)s, 1, %(create_time)s)
    ON CONFLICT (email) DO NOTHING
    RETURNING version
    """,
)
USER_BY_ID = statement(
    "user_by_id",
    "SELECT id, email, display_name, role, state, create_time, deactivate_time FROM users WHERE id = %(id)s",
)
USER_WITH_PASSWORD = statement(
    "user_with_password",
    """
    SELECT id, email, display_name, role, state, create_time, deactivate_time, password_hash
    FROM users WHERE email = %(email)s
    """,
)
EMAIL_EXISTS = statement("email_exists", "SELECT 1 AS found FROM users WHERE email = %(email)s")
SET_ROLE = statement(
    "set_role", "UPDATE users SET role = %(role)s::text WHERE id = %(id)s::uuid RETURNING id"
)
LOCK_USER = statement(
    "lock_user",
    """
    SELECT id, email, display_name, role, state, create_time, deactivate_time
    FROM users WHERE id = %(id)s::uuid FOR NO KEY UPDATE
    """,
)
# Whoever may take an admin away holds it to the end. It is taken after the user's row and nothing
# that waits comes after it, so two of them never wait in a circle.
LOCK_ADMINS = statement("lock_admins", "SELECT pg_advisory_xact_lock(hashtextextended('admins', 0))")
OTHER_ADMIN = statement(
    "other_admin",
    """
    SELECT id FROM users WHERE role = 'ADMIN' AND state = 'ACTIVE' AND id <> %(id)s::uuid LIMIT 1
    """,
)
# NULL and no made-up text: the e-mail is free for the next account, and nothing looks like a person's.
DEACTIVATE_USER = statement(
    "deactivate_user",
    """
    UPDATE users SET state = 'DEACTIVATED', email = NULL, display_name = NULL, password_hash = NULL,
        deactivate_time = %(at)s::timestamptz, version = version + 1
    WHERE id = %(id)s::uuid
    RETURNING version
    """,
)
DELETE_ADDRESSES = statement(
    "delete_addresses_of_user", "DELETE FROM user_address WHERE user_id = %(user_id)s::uuid"
)
ADDRESSES_OF_USER = statement(
    "addresses_of_user",
    f"""
    SELECT a.id, a.request_id, a.recipient, a.line1, a.line2, a.city, a.region, a.postal_code, a.country_code,
        a.create_time
    FROM users u LEFT JOIN user_address a ON a.user_id = u.id
    WHERE u.id = %(user_id)s
    ORDER BY a.create_time, a.id
    LIMIT {MAX_ADDRESSES_PER_USER}
    """,  # noqa: S608 - a constant of this code
)
INSERT_ADDRESS = statement(
    "insert_address",
    """
    INSERT INTO user_address (id, user_id, request_id, recipient, line1, line2, city, region, postal_code,
        country_code, create_time)
    VALUES (%(id)s, %(user_id)s, %(request_id)s, %(recipient)s, %(line1)s, %(line2)s, %(city)s, %(region)s,
        %(postal_code)s, %(country_code)s, %(create_time)s)
    """,
)
ORDERING_CUSTOMER = statement(
    "ordering_customer",
    """
    SELECT u.state, a.id AS address_id, a.recipient, a.line1, a.line2, a.city, a.region, a.postal_code,
        a.country_code
    FROM users u LEFT JOIN user_address a ON a.id = %(address_id)s AND a.user_id = u.id
    WHERE u.id = %(user_id)s
    """,
)


async def insert_user(tx: Transaction, user: User, *, password_hash: str) -> int | None:
    """Inserts a user and leaves the row locked.

    Returns:
        The sequence of the fact that tells of it, or None where the e-mail is taken.
    """
    rows = await tx.fetch(
        INSERT_USER,
        {
            "id": user.id,
            "email": user.email,
            "display_name": user.display_name,
            "role": user.role.value,
            "state": user.state.value,
            "password_hash": password_hash,
            "create_time": user.create_time,
        },
    )
    return int(rows[0]["version"]) if rows else None


async def user_by_id(source: CanFetch, user_id: UUID) -> User:
    """Reads one user.

    Raises:
        UserNotFoundError: there is none.
    """
    return _one_user(await source.fetch(USER_BY_ID, {"id": user_id}))


async def user_with_password(
    source: CanFetch, email: str | None, verify: Callable[[str | None], Awaitable[bool]]
) -> User | None:
    """Finds the user with this e-mail whose stored hash `verify` accepts. The hash goes nowhere else.

    Args:
        source: a database, not a transaction: no connection is held while the hash is checked.
        email: in its normal form; None where no account can have it.
        verify: called exactly once, with None for an unknown e-mail.
    """
    rows = [] if email is None else await source.fetch(USER_WITH_PASSWORD, {"email": email})
    if not await verify(rows[0]["password_hash"] if rows else None):
        return None
    return _user(rows[0])


async def email_exists(source: CanFetch, email: str) -> bool:
    """Whether an account has this e-mail in its normal form."""
    return bool(await source.fetch(EMAIL_EXISTS, {"email": email}))


async def lock_user(tx: Transaction, user_id: UUID) -> User:
    """Reads the user and locks the row until the transaction ends; readers and orders go on.

    Raises:
        UserNotFoundError: there is none.
    """
    return _one_user(await tx.fetch(LOCK_USER, {"id": user_id}))


async def set_role(tx: Transaction, user_id: UUID, role: Role) -> None:
    """Changes the role of a user whose row is locked."""
    await tx.fetch(SET_ROLE, {"id": user_id, "role": role.value})


async def is_there_another_admin(tx: Transaction, user_id: UUID) -> bool:
    """Whether somebody else is an active admin; that stays so until the transaction ends.

    Call it after the user's row is locked, and lock nothing afterwards.
    """
    await tx.fetch(LOCK_ADMINS, {})
    return bool(await tx.fetch(OTHER_ADMIN, {"id": user_id}))


async def anonymise(tx: Transaction, user_id: UUID, at: datetime) -> int:
    """Deactivates a user whose row is locked, and forgets what is personal, the addresses too.

    Returns:
        The sequence of the fact that tells of it.
    """
    await tx.fetch(DELETE_ADDRESSES, {"user_id": user_id})
    (row,) = await tx.fetch(DEACTIVATE_USER, {"id": user_id, "at": at})
    return int(row["version"])


async def addresses_of_user(source: CanFetch, user_id: UUID) -> dict[UUID, UserAddress]:
    """The address book, oldest first, by the request that made each entry.

    Raises:
        UserNotFoundError: there is no such user.
    """
    rows = await source.fetch(ADDRESSES_OF_USER, {"user_id": user_id})
    if not rows:
        raise UserNotFoundError
    return {
        row["request_id"]: UserAddress(row["id"], _postal_address(row), row["create_time"])
        for row in rows
        if row["id"] is not None
    }


async def insert_address(tx: Transaction, user_id: UUID, request_id: UUID, entry: UserAddress) -> None:
    """Adds an entry to the address book of a user whose row is locked."""
    address = entry.address
    await tx.fetch(
        INSERT_ADDRESS,
        {
            "id": entry.id,
            "user_id": user_id,
            "request_id": request_id,
            "recipient": address.recipient,
            "line1": address.line1,
            "line2": address.line2,
            "city": address.city,
            "region": address.region,
            "postal_code": address.postal_code,
            "country_code": address.country_code,
            "create_time": entry.create_time,
        },
    )


async def address_to_order_to(source: CanFetch, user_id: UUID, address_id: UUID) -> PostalAddress:
    """The address of an active user, in one statement: every order passes here.

    Raises:
        UserNotFoundError: there is no such user.
        UserNotActiveError: the user may not order.
        AddressNotFoundError: the user has no such address.
    """
    rows = await source.fetch(ORDERING_CUSTOMER, {"user_id": user_id, "address_id": address_id})
    if not rows:
        raise UserNotFoundError
    row = rows[0]
    require_active(UserState(row["state"]))
    if row["address_id"] is None:
        raise AddressNotFoundError
    return _postal_address(row)


def _one_user(rows: list[Row]) -> User:
    if not rows:
        raise UserNotFoundError
    return _user(rows[0])


def _user(row: Row) -> User:
    return User(
        id=row["id"],
        email=row["email"] or "",
        display_name=row["display_name"] or "",
        role=Role(row["role"]),
        state=UserState(row["state"]),
        create_time=row["create_time"],
        deactivate_time=row["deactivate_time"],
    )


def _postal_address(row: Row) -> PostalAddress:
    return PostalAddress(
        recipient=row["recipient"],
        line1=row["line1"],
        line2=row["line2"],
        city=row["city"],
        region=row["region"],
        postal_code=row["postal_code"],
        country_code=row["country_code"],
    )
