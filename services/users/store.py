"""The statements of this context by name. They take a transaction or a database, and never commit."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from uuid import UUID

from chassis.postgres import Row, Statement, Transaction, statement
from services.users.domain import (
    MAX_ADDRESSES_PER_USER,
    AddressNotFoundError,
    CustomerStatistics,
    Money,
    PostalAddress,
    Role,
    StatisticsChange,
    User,
    UserAddress,
    UserNotFoundError,
    UserState,
    require_active,
)


class CanFetch(Protocol):
    """A database, where a statement is a transaction of its own, or a transaction."""

    async def fetch(self, statement: Statement, params: Mapping[str, Any], /) -> list[Row]:
        """Runs one statement and returns its rows."""
        ...


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
    "SELECT id, email, display_name, role, state, create_time FROM users WHERE id = %(id)s",
)
USER_WITH_PASSWORD = statement(
    "user_with_password",
    """
    SELECT id, email, display_name, role, state, create_time, password_hash
    FROM users WHERE email = %(email)s
    """,
)
EMAIL_EXISTS = statement("email_exists", "SELECT 1 AS found FROM users WHERE email = %(email)s")
SET_ROLE = statement(
    "set_role",
    """
    UPDATE users SET role = %(role)s WHERE id = %(id)s
    RETURNING id, email, display_name, role, state, create_time
    """,
)
LOCK_USER = statement("lock_user", "SELECT id FROM users WHERE id = %(id)s FOR NO KEY UPDATE")
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
COUNT_ORDERS = statement(
    "count_orders",
    """
    INSERT INTO customer_statistics AS s (user_id, orders_placed, orders_confirmed, orders_rejected)
    VALUES (%(user_id)s, %(placed)s, %(confirmed)s, %(rejected)s)
    ON CONFLICT (user_id) DO UPDATE SET
        orders_placed = s.orders_placed + excluded.orders_placed,
        orders_confirmed = s.orders_confirmed + excluded.orders_confirmed,
        orders_rejected = s.orders_rejected + excluded.orders_rejected
    """,
)
# Counts first, then the amount: facts about one customer wait at the first row, and never in a circle.
COUNT_ORDERS_AND_AMOUNT = statement(
    "count_orders_and_amount",
    """
    WITH counted AS (
        INSERT INTO customer_statistics AS s (user_id, orders_placed, orders_confirmed, orders_rejected)
        VALUES (%(user_id)s, %(placed)s, %(confirmed)s, %(rejected)s)
        ON CONFLICT (user_id) DO UPDATE SET
            orders_placed = s.orders_placed + excluded.orders_placed,
            orders_confirmed = s.orders_confirmed + excluded.orders_confirmed,
            orders_rejected = s.orders_rejected + excluded.orders_rejected
        RETURNING s.user_id
    )
    INSERT INTO customer_amount_spent AS m (user_id, currency_code, amount_minor)
    SELECT user_id, %(currency_code)s, %(amount_minor)s FROM counted
    ON CONFLICT (user_id, currency_code) DO UPDATE SET amount_minor = m.amount_minor + excluded.amount_minor
    """,
)
STATISTICS_OF_USER = statement(
    "statistics_of_user",
    """
    SELECT s.orders_placed, s.orders_confirmed, s.orders_rejected, m.currency_code, m.amount_minor
    FROM customer_statistics s LEFT JOIN customer_amount_spent m ON m.user_id = s.user_id
    WHERE s.user_id = %(user_id)s
    ORDER BY m.currency_code COLLATE "C"
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


async def set_role(source: CanFetch, user_id: UUID, role: Role) -> User:
    """Changes the role of a user.

    Raises:
        UserNotFoundError: there is none.
    """
    return _one_user(await source.fetch(SET_ROLE, {"id": user_id, "role": role.value}))


async def lock_user(tx: Transaction, user_id: UUID) -> None:
    """Locks the user's row until the transaction ends; readers and orders go on.

    Raises:
        UserNotFoundError: there is none.
    """
    if not await tx.fetch(LOCK_USER, {"id": user_id}):
        raise UserNotFoundError


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


async def add_to_statistics(tx: Transaction, change: StatisticsChange) -> None:
    """Adds one fact to the statistics of its customer; the customer need not be known here."""
    counts = {
        "user_id": change.user_id,
        "placed": change.placed,
        "confirmed": change.confirmed,
        "rejected": change.rejected,
    }
    if change.spent is None:
        await tx.fetch(COUNT_ORDERS, counts)
        return
    amount = {"currency_code": change.spent.currency_code, "amount_minor": change.spent.minor_units}
    await tx.fetch(COUNT_ORDERS_AND_AMOUNT, counts | amount)


async def statistics_of_user(source: CanFetch, user_id: UUID) -> CustomerStatistics:
    """What a customer ordered and spent; all zero where nothing is known."""
    rows = await source.fetch(STATISTICS_OF_USER, {"user_id": user_id})
    if not rows:
        return CustomerStatistics(user_id)
    return CustomerStatistics(
        user_id=user_id,
        orders_placed=rows[0]["orders_placed"],
        orders_confirmed=rows[0]["orders_confirmed"],
        orders_rejected=rows[0]["orders_rejected"],
        amount_spent=tuple(
            Money(row["currency_code"], row["amount_minor"])
            for row in rows
            if row["currency_code"] is not None
        ),
    )


def _one_user(rows: list[Row]) -> User:
    if not rows:
        raise UserNotFoundError
    return _user(rows[0])


def _user(row: Row) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        display_name=row["display_name"],
        role=Role(row["role"]),
        state=UserState(row["state"]),
        create_time=row["create_time"],
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
