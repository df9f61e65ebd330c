"""An account that is closed for good: what is forgotten, what stays, who may, and what happens at once."""

import asyncio
from dataclasses import replace
from datetime import UTC

import pytest
from psycopg.errors import CheckViolation

from chassis.ids import new_id
from chassis.postgres import Database, statement
from sagacity.users.v1 import events_pb2
from services.users.app import Users, record_order_fact
from services.users.credentials import AccessToken
from services.users.domain import (
    BadCredentialsError,
    LastAdminError,
    Money,
    NotAnAdminError,
    Role,
    StatisticsChange,
    User,
    UserAddress,
    UserNotActiveError,
    UserState,
)
from services.users.store import accounts
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

ROUNDS = 8
FACTS = "SELECT type, sequence, payload FROM outbox WHERE aggregateid = %(id)s ORDER BY position"
WAITING = """
    SELECT count(*) AS n FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def facts_of(database: Database, user: User) -> list[tuple[str, int]]:
    return [
        (row["type"].rpartition(".")[2], row["sequence"])
        for row in await rows(database, FACTS, id=str(user.id))
    ]


async def one_waits(database: Database) -> None:
    async with asyncio.timeout(10):
        while (await rows(database, WAITING))[0]["n"] == 0:  # noqa: ASYNC110 - PostgreSQL tells nobody
            await asyncio.sleep(0.01)


async def test_what_is_personal_is_forgotten_and_the_rest_stays(app: Users, database: Database) -> None:
    user = await registered(app)
    await app.add_address(user.id, new_id(), ADDRESS)
    gone = await app.deactivate(user.id, by=user.id)
    assert gone == User(
        id=user.id,
        email="",
        display_name="",
        role=Role.CUSTOMER,
        state=UserState.DEACTIVATED,
        create_time=user.create_time,
        deactivate_time=gone.deactivate_time,
    )
    assert gone.deactivate_time is not None
    assert gone.deactivate_time > user.create_time
    assert await app.get_user(user.id) == gone
    assert list(await app.list_addresses(user.id)) == []
    (row,) = await rows(database, "SELECT * FROM users WHERE id = %(id)s", id=user.id)
    assert (row["email"], row["display_name"], row["password_hash"]) == (None, None, None)
    assert await rows(database, "SELECT id FROM user_address WHERE user_id = %(id)s", id=user.id) == []


async def test_the_others_are_told_once_and_nothing_personal(app: Users, database: Database) -> None:
    woken: list[str] = []
    listening = replace(app, published=lambda: woken.append("published"))
    user = await registered(listening)
    first = await listening.deactivate(user.id, by=user.id)
    assert woken == ["published"] * 2
    assert await listening.deactivate(user.id, by=user.id) == first
    assert await listening.deactivate(user.id, by=(await admin_of(app)).id) == first
    assert await facts_of(database, user) == [("UserRegistered", 1), ("UserDeactivated", 2)]
    payload = bytes((await rows(database, FACTS, id=str(user.id)))[1]["payload"])
    fact = events_pb2.UserDeactivated.FromString(payload)
    assert fact.user_id == str(user.id)
    assert fact.deactivate_time.ToDatetime(UTC) == first.deactivate_time
    assert {field.name for field, _ in fact.ListFields()} == {"user_id", "deactivate_time"}
    assert user.email.encode() not in payload


async def test_nobody_logs_in_orders_or_adds_an_address_any_more(app: Users) -> None:
    user = await registered(app)
    entry = await app.add_address(user.id, new_id(), ADDRESS)
    await app.deactivate(user.id, by=user.id)
    for email in (user.email, ""):
        with pytest.raises(BadCredentialsError):
            await app.log_in(email=email, password=PASSWORD)
    with pytest.raises(UserNotActiveError):
        await app.assert_can_order(user.id, entry.id)
    with pytest.raises(UserNotActiveError):
        await app.add_address(user.id, new_id(), ADDRESS)
    with pytest.raises(UserNotActiveError):
        await app.set_role(user.id, Role.SUPPORT, by=(await admin_of(app)).id)


async def test_the_same_email_makes_another_account_again_and_again(app: Users) -> None:
    email = new_email()
    ids = set()
    for _ in range(3):
        user = await app.register(email=email, password=PASSWORD, display_name="Ada")
        assert (await app.log_in(email=email, password=PASSWORD))[1] == user
        await app.deactivate(user.id, by=user.id)
        ids.add(user.id)
    assert len(ids) == 3


async def test_statistics_stay_and_go_on(app: Users, database: Database) -> None:
    user = await registered(app)
    bought = StatisticsChange(user.id, placed=1, confirmed=1, spent=Money("EUR", 1000))
    called_off = StatisticsChange(user.id, cancelled=1, returned=Money("EUR", 1000))
    async with database.transaction() as tx:
        await record_order_fact(tx, bought)
    before = await app.get_statistics(user.id)
    await app.deactivate(user.id, by=user.id)
    assert await app.get_statistics(user.id) == before
    async with database.transaction() as tx:
        await record_order_fact(tx, called_off)
    after = await app.get_statistics(user.id)
    assert (after.orders_placed, after.orders_cancelled, after.amount_spent) == (1, 1, (Money("EUR", 0),))


async def test_a_blocked_user_and_one_made_deactivated_by_hand_are_deactivated_too(
    app: Users, database: Database
) -> None:
    admin = await admin_of(app)
    for state in (UserState.BLOCKED, UserState.DEACTIVATED):
        user = await registered(app)
        await set_state(database, user, state)
        gone = await app.deactivate(user.id, by=admin.id)
        assert (gone.state, gone.email) == (UserState.DEACTIVATED, "")
        assert await facts_of(database, user) == [("UserRegistered", 1), ("UserDeactivated", 2)]


async def test_who_is_no_admin_any_more_deactivates_nobody_else(app: Users, database: Database) -> None:
    user, other, demoted, blocked, gone = [
        await registered(app),
        await registered(app),
        *[await admin_of(app) for _ in range(3)],
    ]
    await app.set_role(demoted.id, Role.SUPPORT, by=blocked.id)
    await app.deactivate(gone.id, by=blocked.id)
    await set_state(database, blocked, UserState.BLOCKED)
    for caller in (other, demoted, blocked, gone):
        with pytest.raises(NotAnAdminError):
            await app.deactivate(user.id, by=caller.id)
    assert await app.get_user(user.id) == user
    assert await app.deactivate(gone.id, by=gone.id) == await app.get_user(gone.id)


async def test_the_last_active_admin_cannot_go(app: Users, database: Database) -> None:
    await nobody_is_admin(database)
    admin, blocked = await admin_of(app), await admin_of(app)
    await set_state(database, blocked, UserState.BLOCKED)
    with pytest.raises(LastAdminError):
        await app.deactivate(admin.id, by=admin.id)
    assert await app.get_user(admin.id) == admin
    assert await facts_of(database, admin) == [("UserRegistered", 1)]
    assert (await app.deactivate(blocked.id, by=admin.id)).state is UserState.DEACTIVATED
    await admin_of(app)
    assert (await app.deactivate(admin.id, by=admin.id)).state is UserState.DEACTIVATED


@pytest.mark.parametrize("take_away", ["deactivate", "set_role"])
async def test_of_admins_who_take_each_other_away_at_once_one_stays(
    app: Users, database: Database, take_away: str
) -> None:
    for _ in range(ROUNDS):
        await nobody_is_admin(database)
        first, second, third = [await admin_of(app) for _ in range(3)]

        async def away(user: User, by: User) -> User:
            if take_away == "deactivate":
                return await app.deactivate(user.id, by=by.id)
            return await app.set_role(user.id, Role.CUSTOMER, by=by.id)

        answers = await asyncio.gather(
            away(first, second), away(second, third), away(third, first), return_exceptions=True
        )
        assert all(isinstance(each, (User, LastAdminError, NotAnAdminError)) for each in answers), answers
        left = await rows(database, "SELECT id FROM users WHERE role = 'ADMIN' AND state = 'ACTIVE'")
        assert len(left) >= 1
        assert len(left) == 3 - sum(isinstance(each, User) for each in answers)


async def test_a_demotion_waits_for_a_deactivation_that_is_not_committed_and_is_refused(
    app: Users, database: Database
) -> None:
    await nobody_is_admin(database)
    first, second = await admin_of(app), await admin_of(app)
    async with asyncio.TaskGroup() as group:
        async with database.transaction() as tx:
            await accounts.lock_user(tx, first.id)
            assert await accounts.is_there_another_admin(tx, first.id)
            await accounts.anonymise(tx, first.id, app.clock.now())
            demotion = group.create_task(_outcome(app.set_role(second.id, Role.CUSTOMER, by=second.id)))
            await one_waits(database)
        assert isinstance(await demotion, LastAdminError)
    assert await app.get_user(second.id) == second


async def test_two_deactivations_at_once_are_one(app: Users, database: Database) -> None:
    for _ in range(ROUNDS):
        user, admin = await registered(app), await admin_of(app)
        answers = await asyncio.gather(
            *(app.deactivate(user.id, by=by) for by in (user.id, admin.id, user.id))
        )
        assert answers[0] == answers[1] == answers[2]
        assert await facts_of(database, user) == [("UserRegistered", 1), ("UserDeactivated", 2)]


async def test_an_address_that_comes_meanwhile_is_refused_or_forgotten(
    app: Users, database: Database
) -> None:
    for _ in range(ROUNDS):
        user = await registered(app)
        added, gone = await asyncio.gather(
            _outcome(app.add_address(user.id, new_id(), ADDRESS)), app.deactivate(user.id, by=user.id)
        )
        assert isinstance(added, (UserAddress, UserNotActiveError))
        assert gone.state is UserState.DEACTIVATED
        assert await rows(database, "SELECT id FROM user_address WHERE user_id = %(id)s", id=user.id) == []


async def test_an_address_waits_for_a_deactivation_that_is_not_committed_and_is_refused(
    app: Users, database: Database
) -> None:
    user = await registered(app)
    async with asyncio.TaskGroup() as group:
        async with database.transaction() as tx:
            await accounts.lock_user(tx, user.id)
            await accounts.anonymise(tx, user.id, app.clock.now())
            adding = group.create_task(_outcome(app.add_address(user.id, new_id(), ADDRESS)))
            await one_waits(database)
        assert isinstance(await adding, UserNotActiveError)


async def test_a_log_in_that_comes_meanwhile_is_the_last_or_refused(app: Users) -> None:
    for _ in range(ROUNDS):
        user = await registered(app)
        answer, _ = await asyncio.gather(
            _outcome(app.log_in(email=user.email, password=PASSWORD)), app.deactivate(user.id, by=user.id)
        )
        if not isinstance(answer, BadCredentialsError):
            assert isinstance(answer, tuple)
            assert isinstance(answer[0], AccessToken)
        with pytest.raises(BadCredentialsError):
            await app.log_in(email=user.email, password=PASSWORD)


async def test_a_registration_that_comes_meanwhile_never_finds_two_accounts(
    app: Users, database: Database
) -> None:
    for _ in range(ROUNDS):
        user = await registered(app)
        again, _ = await asyncio.gather(
            _outcome(app.register(email=user.email, password=PASSWORD, display_name="Ada")),
            app.deactivate(user.id, by=user.id),
        )
        found = await rows(database, "SELECT id FROM users WHERE email = %(email)s", email=user.email)
        assert [row["id"] for row in found] == ([again.id] if isinstance(again, User) else [])


@pytest.mark.parametrize(
    "change",
    [
        "email = NULL",
        "password_hash = NULL",
        "deactivate_time = now()",
        "deactivate_time = now(), email = NULL, display_name = NULL, password_hash = NULL",
        "deactivate_time = now(), state = 'DEACTIVATED', email = NULL, password_hash = NULL",
    ],
)
async def test_half_a_deactivation_is_none_for_the_database(
    app: Users, database: Database, change: str
) -> None:
    user = await registered(app)
    update = statement("half", f"UPDATE users SET {change} WHERE id = %(id)s")  # noqa: S608 - of this test
    with pytest.raises(CheckViolation):
        await database.fetch(update, {"id": user.id})


async def _outcome(call: object) -> object:
    """What a call returns or raises: the test looks which it was."""
    try:
        return await call  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - looked at by the caller
        return error
