import asyncio
from dataclasses import replace
from datetime import UTC
from uuid import UUID

import pytest
from psycopg.errors import CheckViolation
from typing_extensions import override

from chassis.ids import new_id
from chassis.postgres import Database
from sagacity.users.v1 import events_pb2
from services.users.app import Users, record_order_fact
from services.users.credentials import Passwords
from services.users.domain import (
    MAX_ADDRESSES_PER_USER,
    AddressNotFoundError,
    BadCredentialsError,
    CustomerStatistics,
    EmailTakenError,
    LastAdminError,
    Money,
    NeverSpentError,
    NotAnAdminError,
    Role,
    StatisticsChange,
    TooManyAddressesError,
    UserNotActiveError,
    UserNotFoundError,
    UserState,
)
from tests.integration.users.accounts import (
    ADDRESS,
    PASSWORD,
    admin_of,
    new_email,
    nobody_is_admin,
    registered,
    rows,
    set_state,
)

pytestmark = pytest.mark.integration


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
    user, admin = await registered(app), await admin_of(app)
    changed = await app.set_role(user.id, Role.SUPPORT, by=admin.id)
    assert changed == replace(user, role=Role.SUPPORT)
    assert await app.get_user(user.id) == changed


async def test_the_last_active_admin_stays_one(app: Users, database: Database) -> None:
    await nobody_is_admin(database)
    admin, blocked = await admin_of(app), await admin_of(app)
    await set_state(database, blocked, UserState.BLOCKED)
    with pytest.raises(LastAdminError):
        await app.set_role(admin.id, Role.SUPPORT, by=admin.id)
    assert await app.set_role(admin.id, Role.ADMIN, by=admin.id) == admin
    await admin_of(app)
    assert (await app.set_role(admin.id, Role.SUPPORT, by=admin.id)).role is Role.SUPPORT


async def test_who_is_no_admin_any_more_changes_no_role(app: Users, database: Database) -> None:
    user, demoted, blocked = await registered(app), await admin_of(app), await admin_of(app)
    await app.set_role(demoted.id, Role.CUSTOMER, by=blocked.id)
    await set_state(database, blocked, UserState.BLOCKED)
    for caller in (demoted.id, blocked.id, user.id, new_id()):
        with pytest.raises(NotAnAdminError):
            await app.set_role(user.id, Role.ADMIN, by=caller)
    assert await app.get_user(user.id) == user


async def test_an_unknown_user_is_not_found_by_any_use_case(app: Users) -> None:
    nobody, admin = new_id(), await admin_of(app)
    for call in (
        lambda: app.get_user(nobody),
        lambda: app.set_role(nobody, Role.ADMIN, by=admin.id),
        lambda: app.deactivate(nobody, by=admin.id),
        lambda: app.deactivate(nobody, by=nobody),
        lambda: app.add_address(nobody, new_id(), ADDRESS),
        lambda: app.list_addresses(nobody),
        lambda: app.assert_can_order(nobody, new_id()),
    ):
        with pytest.raises(UserNotFoundError):
            await call()


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


async def test_what_goes_back_is_taken_from_its_currency(app: Users, database: Database) -> None:
    customer: UUID = new_id()
    await count(
        database,
        StatisticsChange(customer, placed=2, confirmed=2, spent=Money("EUR", 1000)),
        StatisticsChange(customer, confirmed=1, spent=Money("USD", 500)),
        StatisticsChange(customer, returned=Money("EUR", 300)),
        StatisticsChange(customer, cancelled=1, returned=Money("USD", 500)),
    )
    assert await app.get_statistics(customer) == CustomerStatistics(
        customer,
        orders_placed=2,
        orders_confirmed=3,
        orders_cancelled=1,
        amount_spent=(Money("EUR", 700), Money("USD", 0)),
    )


@pytest.mark.parametrize(
    ("returned", "error"),
    [(Money("USD", 1), NeverSpentError), (Money("EUR", 1001), CheckViolation)],
)
async def test_what_was_never_spent_does_not_go_back(
    app: Users, database: Database, returned: Money, error: type[Exception]
) -> None:
    customer: UUID = new_id()
    await count(database, StatisticsChange(customer, confirmed=1, spent=Money("EUR", 1000)))
    with pytest.raises(error):
        await count(database, StatisticsChange(customer, cancelled=1, returned=returned))
    assert await app.get_statistics(customer) == CustomerStatistics(
        customer, orders_confirmed=1, amount_spent=(Money("EUR", 1000),)
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
