"""Accounts of tests, and what they are looked at with."""

from datetime import UTC, datetime, timedelta

from chassis.ids import new_id
from chassis.postgres import Database, Row, statement
from services.users.app import Users
from services.users.domain import PostalAddress, Role, User, UserState

PASSWORD = "correct horse battery"
ADDRESS = PostalAddress("Ada Lovelace", "12 St James's Square", "", "London", "", "SW1Y 4JH", "GB")


class TickingClock:
    """A second passes at each look, so that what is made later is later."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


def new_email() -> str:
    return f"{new_id()}@example.com"


async def registered(app: Users) -> User:
    return await app.register(email=new_email(), password=PASSWORD, display_name="Ada")


async def admin_of(app: Users) -> User:
    email = new_email()
    await app.ensure_admin(email=email, password=PASSWORD)
    (row,) = await rows(app.database, "SELECT id FROM users WHERE email = %(email)s", email=email)
    return await app.get_user(row["id"])


async def rows(database: Database, sql: str, **params: object) -> list[Row]:
    return await database.fetch(statement("test_query", sql), params)


async def set_state(database: Database, user: User, state: UserState) -> None:
    await rows(database, "UPDATE users SET state = %(s)s WHERE id = %(id)s", id=user.id, s=state.value)


async def nobody_is_admin(database: Database) -> None:
    """Takes the admins of other tests away, whatever the rules say."""
    await rows(database, "UPDATE users SET role = %(role)s WHERE role = 'ADMIN'", role=Role.CUSTOMER.value)
