import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from joserfc.jwk import OKPKey
from typing_extensions import override

from chassis.ids import new_id
from chassis.postgres import Database, Row, statement
from sagacity.users.v1 import events_pb2
from services.users.app import Users, record_order_fact
from services.users.credentials import AccessTokens, Passwords
from services.users.domain import (
    MAX_ADDRESSES_PER_USER,
    AddressNotFoundError,
    BadCredentialsError,
    CustomerStatistics,
    EmailTakenError,
    Money,
    PostalAddress,
    Role,
    StatisticsChange,
    TooManyAddressesError,
    User,
    UserNotActiveError,
    UserNotFoundError,
    UserState,
)

pytestmark = pytest.mark.integration

PASSWORD = "correct horse battery"
ADDRESS = PostalAddress("Ada Lovelace", "12 St James's Square", "", "London", "", "SW1Y 4JH", "GB")


class TickingClock:
    """A second passes at each look, so that what is made later is later."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


@pytest.fixture(scope="module")
async def database(new_database: Callable[[str], str]) -> AsyncIterator[Database]:
    opened = await Database.open(new_database("services.users"), application_name="test-users")
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
async def app(database: Database) -> AsyncIterator[Users]:
    passwords = Passwords()
    clock = TickingClock()
    key = OKPKey.generate_key("Ed25519").as_pem(private=True).decode()
    yield Users(
        database=database,
        passwords=passwords,
        tokens=AccessTokens(key, clock=clock, new_id=new_id),
        clock=clock,
        new_id=new_id,
        published=lambda: None,
    )
    passwords.close()


def new_email() -> str:
    return f"{new_id()}@example.com"


async def registered(app: Users) -> User:
    return await app.register(email=new_email(), password=PASSWORD, display_name="Ada")


async def rows(database: Database, sql: str, **params: object) -> list[Row]:
    return await database.fetch(statement("test_query", sql), params)


async def set_state(database: Database, user: User, state: UserState) -> None:
    await rows(database, "UPDATE users SET state = %(s)s WHERE id = %(id)s", id=user.id, s=state.value)


async def count(database: Database, *changes: StatisticsChange) -> None:
    async with database.transaction() as tx:
        for change in changes:
            await record_order_fact(tx, change)


async def test_a_registered_user_is_an_active_customer(app: Users) -> None:
    user = await app.register(email="Ada.L@Example.com", password=PASSWORD, display_name="Ada")
    assert (user.email, user.role, user.state) == ("ada.l@example.com", Role.CUSTOMER, UserState.ACTIVE)
    assert await app.get_user(user.id) == user


async def test_an_email_in_other_case_is_taken(app: Users) -> None:
    user = await registered(app)
    with pytest.raises(EmailTakenError):
        await app.register(email=user.email.upper(), password=PASSWORD, display_name="Eve")


async def test_a_registration_leaves_one_fact_without_anything_personal(
    app: Users, database: Database
) -> None:
    user = await registered(app)
    (row,) = await rows(database, "SELECT * FROM outbox WHERE aggregateid = %(id)s", id=str(user.id))
    fact = events_pb2.UserRegistered.FromString(bytes(row["payload"]))
    assert (row["type"], row["aggregatetype"], row["sequence"]) == (
        "sagacity.users.v1.UserRegistered",
        "user",
        1,
    )
    assert fact.user_id == str(user.id)
    assert fact.register_time.ToDatetime(UTC) == user.create_time
    assert user.email.encode() not in bytes(row["payload"])


async def test_a_refused_registration_leaves_no_fact(app: Users, database: Database) -> None:
    user = await registered(app)
    before = await rows(database, "SELECT count(*) AS n FROM outbox")
    with pytest.raises(EmailTakenError):
        await app.register(email=user.email, password=PASSWORD, display_name="Eve")
    assert await rows(database, "SELECT count(*) AS n FROM outbox") == before


async def test_the_outbox_wakes_only_after_a_commit(app: Users) -> None:
    woken: list[str] = []
    listening = replace(app, published=lambda: woken.append("published"))
    user = await registered(listening)
    with pytest.raises(EmailTakenError):
        await listening.register(email=user.email, password=PASSWORD, display_name="Eve")
    assert woken == ["published"]


async def test_a_log_in_works_in_any_case_of_the_email(app: Users) -> None:
    user = await registered(app)
    token, who = await app.log_in(email=user.email.upper(), password=PASSWORD)
    assert who == user
    assert token.text.count(".") == 2


@pytest.mark.parametrize("email", ["nobody@example.com", "a\x00@example.com", "ü@example.com", "x"])
async def test_an_unknown_email_is_a_bad_credential_after_the_same_work(app: Users, email: str) -> None:
    checked: list[str | None] = []

    class NotedPasswords(Passwords):
        @override
        async def verify(self, password_hash: str | None, password: str) -> bool:
            checked.append(password_hash)
            return await super().verify(password_hash, password)

    passwords = NotedPasswords()
    try:
        with pytest.raises(BadCredentialsError):
            await replace(app, passwords=passwords).log_in(email=email, password=PASSWORD)
    finally:
        passwords.close()
    assert checked == [None]


async def test_a_wrong_password_is_a_bad_credential(app: Users) -> None:
    user = await registered(app)
    with pytest.raises(BadCredentialsError):
        await app.log_in(email=user.email, password=PASSWORD + "!")


@pytest.mark.parametrize("state", [UserState.BLOCKED, UserState.DEACTIVATED])
async def test_who_is_not_active_cannot_log_in(app: Users, database: Database, state: UserState) -> None:
    user = await registered(app)
    await set_state(database, user, state)
    with pytest.raises(BadCredentialsError):
        await app.log_in(email=user.email, password=PASSWORD)


async def test_a_role_can_be_changed(app: Users) -> None:
    user = await registered(app)
    changed = await app.set_role(user.id, Role.SUPPORT)
    assert changed == replace(user, role=Role.SUPPORT)
    assert await app.get_user(user.id) == changed


async def test_an_unknown_user_is_not_found_by_any_use_case(app: Users) -> None:
    nobody = new_id()
    for call in (
        app.get_user(nobody),
        app.set_role(nobody, Role.ADMIN),
        app.add_address(nobody, new_id(), ADDRESS),
        app.list_addresses(nobody),
        app.assert_can_order(nobody, new_id()),
    ):
        with pytest.raises(UserNotFoundError):
            await call


async def test_an_address_book_is_listed_oldest_first(app: Users) -> None:
    user = await registered(app)
    assert list(await app.list_addresses(user.id)) == []
    first = await app.add_address(user.id, new_id(), ADDRESS)
    second = await app.add_address(user.id, new_id(), replace(ADDRESS, line2="Flat 2"))
    assert list(await app.list_addresses(user.id)) == [first, second]


async def test_the_same_request_again_returns_the_first_address(app: Users) -> None:
    user = await registered(app)
    request_id = new_id()
    first = await app.add_address(user.id, request_id, ADDRESS)
    again = await app.add_address(user.id, request_id, replace(ADDRESS, city="Paris"))
    assert again == first
    assert list(await app.list_addresses(user.id)) == [first]


async def test_two_users_may_choose_the_same_request_id(app: Users) -> None:
    ada, eve = await registered(app), await registered(app)
    request_id = new_id()
    of_ada = await app.add_address(ada.id, request_id, ADDRESS)
    of_eve = await app.add_address(eve.id, request_id, ADDRESS)
    assert of_ada.id != of_eve.id


async def test_a_full_address_book_refuses_more_but_still_answers_repeats(app: Users) -> None:
    user = await registered(app)
    requests = [new_id() for _ in range(MAX_ADDRESSES_PER_USER)]
    made = [await app.add_address(user.id, request_id, ADDRESS) for request_id in requests]
    with pytest.raises(TooManyAddressesError):
        await app.add_address(user.id, new_id(), ADDRESS)
    assert await app.add_address(user.id, requests[-1], ADDRESS) == made[-1]


async def test_the_last_place_of_an_address_book_is_given_once(app: Users) -> None:
    user = await registered(app)
    for _ in range(MAX_ADDRESSES_PER_USER - 1):
        await app.add_address(user.id, new_id(), ADDRESS)
    answers = await asyncio.gather(
        *(app.add_address(user.id, new_id(), ADDRESS) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(answer, TooManyAddressesError) for answer in answers) == 3
    assert len(await app.list_addresses(user.id)) == MAX_ADDRESSES_PER_USER


async def test_an_active_user_can_order_to_their_address(app: Users) -> None:
    user = await registered(app)
    entry = await app.add_address(user.id, new_id(), ADDRESS)
    assert await app.assert_can_order(user.id, entry.id) == ADDRESS


async def test_nobody_orders_to_somebody_elses_address(app: Users) -> None:
    ada, eve = await registered(app), await registered(app)
    entry = await app.add_address(ada.id, new_id(), ADDRESS)
    with pytest.raises(AddressNotFoundError):
        await app.assert_can_order(eve.id, entry.id)


async def test_a_blocked_user_cannot_order(app: Users, database: Database) -> None:
    user = await registered(app)
    entry = await app.add_address(user.id, new_id(), ADDRESS)
    await set_state(database, user, UserState.BLOCKED)
    with pytest.raises(UserNotActiveError):
        await app.assert_can_order(user.id, entry.id)


async def test_statistics_of_a_user_without_orders_are_zero(app: Users) -> None:
    user = await registered(app)
    assert await app.get_statistics(user.id) == CustomerStatistics(user.id)


async def test_statistics_add_up_per_currency_also_for_an_unknown_user(
    app: Users, database: Database
) -> None:
    customer: UUID = new_id()
    await count(
        database,
        StatisticsChange(customer, placed=1),
        StatisticsChange(customer, confirmed=1, spent=Money("USD", 500)),
        StatisticsChange(customer, placed=1),
        StatisticsChange(customer, confirmed=1, spent=Money("EUR", 1234)),
        StatisticsChange(customer, confirmed=1, spent=Money("EUR", 1)),
        StatisticsChange(customer, placed=1),
        StatisticsChange(customer, rejected=1),
    )
    assert await app.get_statistics(customer) == CustomerStatistics(
        customer,
        orders_placed=3,
        orders_confirmed=3,
        orders_rejected=1,
        amount_spent=(Money("EUR", 1235), Money("USD", 500)),
    )


async def test_a_bootstrap_admin_is_made_once_and_can_log_in(app: Users) -> None:
    email = new_email()
    await app.ensure_admin(email=email.upper(), password=PASSWORD)
    await app.ensure_admin(email=email, password="another password")
    _, admin = await app.log_in(email=email, password=PASSWORD)
    assert admin.role is Role.ADMIN


async def test_a_bootstrap_admin_leaves_an_account_that_exists_as_it_is(app: Users) -> None:
    user = await registered(app)
    await app.ensure_admin(email=user.email, password="another password")
    assert await app.get_user(user.id) == user
    assert (await app.log_in(email=user.email, password=PASSWORD))[1].role is Role.CUSTOMER
