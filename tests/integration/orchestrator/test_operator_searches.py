"""What operators look for is found by an index, whatever else the journal holds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from chassis.postgres import Database
from orchestrator import queries
from orchestrator import statements as sql
from orchestrator.entries import State
from orchestrator.queries import NOT_ENDED, Search, search, search_statement

pytestmark = pytest.mark.integration

FINISHED = 200_000
PER_STATE = 40
LIMIT = 50
# What one search may look at: some pages of the index's entries, far from a walk.
MAX_ROWS_LOOKED_AT = 2_000
KEY = UUID("018f7e9c-5d1a-7c3e-9b1f-000000000001")
OPEN_STATES = "'RUNNING', 'COMPENSATING', 'WAITING', 'PAUSED', 'PARKED'"

# Ids as UUIDv7: one second apart, the newest a minute ago. No context: nobody loads these.
_FILL = """
    INSERT INTO {table} (id, kind, version, definition_hash, key, state, seq, epoch, context, deadline,
                         create_time, update_time, step, error_fingerprint)
    SELECT left(lpad(to_hex(((extract(epoch FROM now()) - {age}) * 1000)::bigint), 12, '0') || md5({salt}),
                32)::uuid,
           {kind}, 1, 'hash', {key}, {state}, 5, 1, 'null', now(),
           now() - make_interval(secs => {age}), now(), {step}, {fingerprint}
      FROM generate_series(1, {count}) AS n
"""


def fill(connection: psycopg.Connection, table: str, count: int, **values: str) -> None:
    columns = {
        "age": "(n + 60)",
        "salt": "'x' || n",
        "kind": "CASE WHEN n % 49 = 0 THEN 'refund_order' ELSE 'place_order' END",
        "key": "gen_random_uuid()",
        "state": "CASE WHEN n % 10 = 0 THEN 'COMPENSATED' ELSE 'COMPLETED' END",
        "step": "CASE WHEN n % 10 = 0 THEN 'payment' ELSE '' END",
        "fingerprint": "CASE WHEN n % 10 = 0 THEN 'declined' ELSE '' END",
    }
    connection.execute(_FILL.format(table=table, count=count, **(columns | values)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def full_dsn(new_database: Callable[..., str]) -> str:
    """A journal with many finished sagas, some open ones of every age, and an archive."""
    dsn = new_database("orchestrator")
    with psycopg.connect(dsn, autocommit=True) as connection:
        fill(connection, "saga", FINISHED)
        fill(connection, "saga_archive", FINISHED // 4, salt="'archived' || n")
        for state in NOT_ENDED:
            fill(
                connection,
                "saga",
                PER_STATE,
                salt=f"'{state}' || n",
                age=f"(n * {FINISHED // PER_STATE})",
                state=f"'{state}'",
                step="CASE WHEN n % 2 = 0 THEN 'payment' ELSE 'stock' END",
                fingerprint="CASE WHEN n % 2 = 0 THEN 'away' ELSE '' END",
            )
        connection.execute(
            "UPDATE saga SET key = %s WHERE id = (SELECT id FROM saga ORDER BY id DESC LIMIT 1)", [KEY]
        )
        connection.execute("VACUUM ANALYZE")
    return dsn


@pytest.fixture
async def database(full_dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(full_dsn, application_name="test")
    yield opened
    await opened.close()


_STATES: list[dict[str, Any]] = [{}, {"open": True}, *({"state": state} for state in State)]
_OTHERS: list[dict[str, Any]] = [
    {},
    {"kind": "place_order"},
    {"kind": "refund_order"},
    {"step": "payment"},
    {"error_fingerprint": "away"},
    {"error_fingerprint": "declined"},
    {"older_than_seconds": 3_600.0},
    {"older_than_seconds": FINISHED * 0.9},
    {"key": KEY},
    {"kind": "place_order", "older_than_seconds": 3_600.0},
    {"kind": "place_order", "step": "payment"},
    {"step": "payment", "older_than_seconds": 3_600.0},
    {"kind": "place_order", "error_fingerprint": "away", "older_than_seconds": 3_600.0},
]
SEARCHES = [
    Search(**chosen, **others)
    for chosen, others in itertools.product(_STATES, _OTHERS)
    if not Search(**chosen, **others).is_empty
]
BEFORE = [None, UUID("ffffffff-0000-7000-8000-000000000000")]


def explained(connection: psycopg.Connection, sql: str, params: dict[str, Any]) -> dict[str, Any]:
    """The plan as the pool's connections make it, with what it really looked at."""
    names = list(params)
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", sql).replace("%%", "%")
    values = ", ".join(psycopg.sql.Literal(str(params[name])).as_string(connection) for name in names)
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute("SET jit = off")
    connection.execute(f"PREPARE looked_for AS {numbered}")  # type: ignore[arg-type]
    execute = f"EXECUTE looked_for({values})" if names else "EXECUTE looked_for"
    row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {execute}").fetchone()  # type: ignore[arg-type]
    connection.execute("DEALLOCATE looked_for")
    assert row is not None
    plan = row[0][0] if not isinstance(row[0], str) else json.loads(row[0])[0]
    return dict(plan["Plan"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def looked_at(plan: dict[str, Any]) -> int:
    """How many rows all scans of a plan have seen."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if "Scan" in node["Node Type"] and "Relation Name" in node
    )


def params_of(wanted: Search, before: UUID | None) -> dict[str, Any]:
    params = queries._params(wanted) | {"limit": LIMIT + 1}
    return params | ({"before": before} if before else {})


def test_no_search_of_the_journal_walks_over_the_finished_sagas(full_dsn: str) -> None:
    bad = []
    with psycopg.connect(full_dsn, autocommit=True) as connection:
        for wanted, before in itertools.product(SEARCHES, BEFORE):
            if wanted.state is State.COMPLETED and wanted.error_fingerprint:
                continue  # rare, and it looks at all that failed in this way
            params = params_of(wanted, before)
            plan = explained(connection, search_statement(wanted, frozenset(params)).sql, params)
            scans = {node["Node Type"] for node in nodes(plan)}
            if "Seq Scan" in scans or looked_at(plan) > MAX_ROWS_LOOKED_AT:
                bad.append((wanted, before, looked_at(plan), scans))
    assert bad == []
    assert len(SEARCHES) > 80


@pytest.mark.parametrize(
    "wanted",
    [
        Search(archived=True),
        Search(archived=True, key=KEY),
        Search(archived=True, kind="no_such_kind"),
        Search(archived=True, state=State.COMPENSATED, error_fingerprint="away"),
        Search(archived=True, step="stock", older_than_seconds=3_600.0),
    ],
)
async def test_a_page_of_the_archive_looks_at_one_window_of_it(
    full_dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch, wanted: Search
) -> None:
    monkeypatch.setattr(queries, "ARCHIVE_WINDOW", 1_000)
    seen: list[Any] = []
    original = database.fetch

    async def fetch(statement: Any, params: Any) -> Any:
        seen.append((statement, params))
        return await original(statement, params)

    monkeypatch.setattr(database, "fetch", fetch)
    await search(database, wanted, before=None, limit=LIMIT)
    with psycopg.connect(full_dsn, autocommit=True) as connection:
        plans = [explained(connection, statement.sql, dict(params)) for statement, params in seen]
    assert {node["Node Type"] for plan in plans for node in nodes(plan)}.isdisjoint({"Seq Scan"})
    assert max(looked_at(plan) for plan in plans) <= MAX_ROWS_LOOKED_AT


async def test_the_archive_is_searched_to_its_end_by_short_pages(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "ARCHIVE_WINDOW", 7_000)
    wanted = Search(archived=True, kind="refund_order", state=State.COMPENSATED)
    found: list[UUID] = []
    before, pages = None, 0
    while pages == 0 or before is not None:
        page = await search(database, wanted, before=before, limit=200)
        found += [row["id"] for row in page.rows]
        before, pages = page.next_before, pages + 1
    assert len(found) == len(set(found)) == FINISHED // 4 // (49 * 10)
    assert found == sorted(found, reverse=True)
    assert pages > FINISHED // 4 // 7_000


async def test_a_search_finds_what_its_filters_say_newest_first(full_dsn: str, database: Database) -> None:
    for wanted in SEARCHES:
        page = await search(database, wanted, before=None, limit=LIMIT)
        found = [row["id"] for row in page.rows]
        expected = selected(full_dsn, wanted)
        # Time goes by between the two: at the edge of an age one more is old enough.
        edge = 0 if wanted.older_than_seconds is None else LIMIT
        assert len(set(found) ^ set(expected)) <= edge, wanted
        assert found == sorted(found, reverse=True), wanted
        assert bool(found) == bool(expected), wanted


def selected(dsn: str, wanted: Search) -> list[UUID]:
    """What a search should find, the simple way."""
    conditions = [f"state = '{wanted.state}'"] if wanted.state else []
    conditions += [f"state IN ({OPEN_STATES})"] if wanted.open else []
    if wanted.step and wanted.state is None:
        conditions.append(f"state IN ({OPEN_STATES})")
    columns = {"kind": wanted.kind, "key": wanted.key, "step": wanted.step}
    columns["error_fingerprint"] = wanted.error_fingerprint
    conditions += [f"{name} = '{value}'" for name, value in columns.items() if value]
    if wanted.older_than_seconds is not None:
        conditions.append(f"create_time <= now() - make_interval(secs => {wanted.older_than_seconds})")
    where = " AND ".join(conditions) or "true"
    query: Any = f"SELECT id FROM saga WHERE {where} ORDER BY id DESC LIMIT {LIMIT}"  # noqa: S608
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(query)]


async def test_pages_follow_each_other_without_gap_or_repetition(database: Database) -> None:
    wanted = Search(open=True, step="payment")
    whole = await search(database, wanted, before=None, limit=200)
    found: list[UUID] = []
    before = None
    for _ in range(200):
        page = await search(database, wanted, before=before, limit=7)
        found += [row["id"] for row in page.rows]
        before = page.next_before
        if before is None:
            break
    assert found == [row["id"] for row in whole.rows]
    assert len(found) == PER_STATE // 2 * len(NOT_ENDED)


@pytest.mark.parametrize(
    "wanted",
    [
        Search(open=True, state=State.COMPLETED),
        Search(open=True, archived=True),
        Search(state=State.COMPLETED, step="payment"),
        Search(kind="a\x00b"),
        Search(step="\x00"),
        Search(error_fingerprint="\x00"),
    ],
)
async def test_what_cannot_be_is_not_looked_for(database: Database, wanted: Search) -> None:
    assert await search(database, wanted, before=None, limit=LIMIT) == queries.Found((), None)


async def test_an_age_beyond_the_calendar_finds_nothing_and_breaks_nothing(database: Database) -> None:
    page = await search(database, Search(older_than_seconds=3e11), before=None, limit=LIMIT)
    assert (list(page.rows), page.next_before) == ([], None)


def test_the_open_sagas_and_the_definitions_are_counted_without_the_finished_ones(full_dsn: str) -> None:
    with psycopg.connect(full_dsn, autocommit=True) as connection:
        for statement, params in (
            (queries.OPEN_SAGAS, {"limit": 200}),
            (queries.DEFINITION_USES, {}),
            (queries.FIND_SAGA, {"id": KEY}),
            (queries.FIND_EVENTS, {"id": KEY, "after": 0}),
        ):
            plan = explained(connection, statement.sql, params)
            scans = {
                node["Node Type"]
                for node in nodes(plan)
                if node.get("Relation Name") in {"saga", "saga_archive"}
            }
            assert (statement.name, "Seq Scan" in scans) == (statement.name, False)
            assert looked_at(plan) <= MAX_ROWS_LOOKED_AT


def test_sweeping_and_counting_look_at_open_sagas_only(full_dsn: str) -> None:
    claim: dict[str, Any] = {
        "replica": "replica",
        "drives": "{place_order 1 hash}",
        "strange": 60.0,
        "in_memory": "{}",
        "grace": 2.0,
        "limit": 64,
    }
    with psycopg.connect(full_dsn) as connection:
        for statement, params in (
            (sql.CLAIM_OLDEST, claim),
            (sql.CLAIM_NEWEST, claim),
            (sql.START_WAITING, {"limit": 64}),
            (sql.WAKE, {"participant": "payments", "limit": 10_000, "rate": 20.0}),
            (sql.FIND_HOLDER, {"key": KEY}),
            (sql.REMOVE_REPLICA, {"id": "replica"}),
            (sql.REMOVE_EXPIRED_REPLICAS, {"lease": 3.0}),
            (sql.CENSUS, {}),
        ):
            plan = explained(connection, statement.sql, params)
            scans = {node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "saga"}
            assert (statement.name, "Seq Scan" in scans) == (statement.name, False)
            assert (statement.name, looked_at(plan) <= MAX_ROWS_LOOKED_AT) == (statement.name, True)
            connection.rollback()
