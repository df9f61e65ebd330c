"""Throughput with very many finished sagas in the journal, against that with an empty one."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import sql

from deploy.local.postgres import Access
from tests.bench.engine.bench import Bench
from tests.bench.engine.children import Measured, Worker, load
from tests.bench.engine.figures import Figures, median
from tests.bench.engine.under_test import Wiring

FILL_BATCH = 20_000
# How old the oldest of the finished sagas is: younger than what an archive would take.
SPREAD_SECONDS = 3_600
# Per table: which column says whose saga a row is, and which others are different for each saga.
PER_SAGA = {
    "saga": ("id", {"key": "m.id"}),
    "saga_event": ("saga_id", {}),
    "idempotency": ("saga_id", {"key": "m.id::text"}),
}


async def with_a_full_journal(bench: Bench) -> Figures:
    """Both journals in turn; which comes first changes with each round."""
    sizes = bench.sizes
    empty_access, full_access = await asyncio.to_thread(
        lambda: (bench.server.journal("empty"), bench.server.journal("full"))
    )
    async with (
        bench.workers.engine(Wiring(empty_access.service_dsn, "empty", "done")) as empty,
        bench.workers.engine(Wiring(full_access.service_dsn, "full", "done")) as full,
    ):
        await full.measure(**load(concurrent=1, sagas=1))
        await asyncio.to_thread(fill, bench, full_access, sizes.finished)
        seen: dict[Worker, list[Measured]] = {empty: [], full: []}
        for worker in seen:
            await bench.warm_up(worker)
        for number in range(sizes.rounds):
            for worker in (empty, full) if number % 2 == 0 else (full, empty):
                what = "an empty journal" if worker is empty else f"{sizes.finished:,} finished sagas"
                seen[worker].append(await bench.loaded(worker, what))
    rates = {worker: median([one.rate("COMPLETED") for one in runs]) for worker, runs in seen.items()}
    return {
        "finished_sagas_in_the_full_journal": sizes.finished,
        "full_journal_sagas_per_second": rates[full],
        "empty_journal_sagas_per_second": rates[empty],
        "full_journal_ratio": round(rates[full] / rates[empty], 3),
    }


def fill(bench: Bench, access: Access, sagas: int) -> None:
    """Copy the one finished saga that is there so many times, whatever columns its tables have."""
    with psycopg.connect(access.owner_dsn, autocommit=True) as owner:
        template = owner.execute("SELECT id FROM saga WHERE state = 'COMPLETED'").fetchone()
        assert template is not None, "a saga that has ended is what the others are made of"
        owner.execute(
            "CREATE TEMP TABLE made AS"
            " SELECT n, uuidv7(make_interval(secs => (n - %(sagas)s) * %(apart)s)) AS id"
            " FROM generate_series(1, %(sagas)s::int) AS n",
            {"sagas": sagas, "apart": SPREAD_SECONDS / sagas},
        )
        owner.execute("CREATE INDEX ON made (n)")
        owner.execute("ANALYZE made")
        for first in range(1, sagas + 1, FILL_BATCH):
            bench.say(f"filling a journal: {first - 1:,} of {sagas:,}")
            for table in PER_SAGA:
                owner.execute(
                    _copies(owner, table),
                    {"template": template[0], "first": first, "next": first + FILL_BATCH},
                )
        bench.say("filling a journal: VACUUM ANALYZE")
        owner.execute("VACUUM ANALYZE")


def _copies(owner: psycopg.Connection, table: str) -> sql.Composed:
    whose, others = PER_SAGA[table]
    columns = [
        str(row[0])
        for row in owner.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER'"
            " AND is_identity = 'NO' ORDER BY ordinal_position",
            [table],
        )
    ]
    different = {whose: "m.id", **others}
    values = [
        sql.SQL(different[name]) if name in different else sql.SQL("t.{}").format(sql.Identifier(name))
        for name in columns
    ]
    return sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM {table} t, made m"
        " WHERE t.{whose} = %(template)s AND m.n >= %(first)s AND m.n < %(next)s ORDER BY m.n"
    ).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(values),
        whose=sql.Identifier(whose),
    )
