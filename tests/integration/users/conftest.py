from collections.abc import AsyncIterator, Callable

import pytest
from joserfc.jwk import OKPKey

from chassis.ids import new_id
from chassis.postgres import Database
from services.users.app import Users
from services.users.credentials import AccessTokens, Passwords
from tests.integration.users.accounts import TickingClock


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
