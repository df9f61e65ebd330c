"""Replicas of two releases on one journal: what one of them does not know is left to the other."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta

import pytest

from chassis.ids import new_id
from chassis.postgres import Database, statement
from orchestrator.journal import STRANGE_SECONDS, Journal
from orchestrator.saga_log import Acceptance

pytestmark = pytest.mark.integration

OURS, NEWER = "place_order 1 old", "place_order 2 new"
AGE = statement(
    "age",
    "UPDATE saga SET next_run = next_run - make_interval(secs => %(seconds)s::float8),"
    " update_time = update_time - make_interval(secs => %(seconds)s::float8)",
)


def acceptance(name: str) -> Acceptance:
    kind, version, definition_hash = name.split()
    return Acceptance(
        saga_id=new_id(),
        kind=kind,
        version=int(version),
        definition_hash=definition_hash,
        key=new_id(),
        context={},
        deadline=timedelta(minutes=5),
        events=(),
        owner="gone",
        caller="user",
        rpc="PlaceOrder",
        idempotency_key=name,
        request_hash=b"",
    )


async def test_a_saga_of_a_newer_release_is_left_to_replicas_that_know_it(
    new_database: Callable[..., str],
) -> None:
    database = await Database.open(new_database("orchestrator"), application_name="upgrade")
    old = Journal(database, "old", drives=[OURS])
    new = Journal(database, "new", drives=[OURS, NEWER])
    await old.renew(60.0)
    ours, newer = acceptance(OURS), acceptance(NEWER)
    for item in (ours, newer):
        # Of a replica that never renewed a lease: anybody may take it.
        await old.accept_behind(dataclasses.replace(item, owner="gone"))
    assert await old.claim([], limit=10, newest_first=False) == [ours.saga_id]
    assert await new.claim([], limit=10, newest_first=False) == [newer.saga_id]
    await database.close()


async def test_a_saga_that_nobody_knows_is_taken_in_the_end_so_that_it_parks(
    new_database: Callable[..., str],
) -> None:
    database = await Database.open(new_database("orchestrator"), application_name="upgrade")
    old = Journal(database, "old", drives=[OURS])
    newer = acceptance(NEWER)
    await old.accept_behind(newer)
    assert await old.claim([], limit=10, newest_first=True) == []
    await database.fetch(AGE, {"seconds": STRANGE_SECONDS + 1})
    assert await old.claim([], limit=10, newest_first=True) == [newer.saga_id]
    await database.close()
