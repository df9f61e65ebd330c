"""What operators look for in the saga log: searches made of the filters that are given, and nothing else.

Every connection plans without looking at the parameters (docs/adr/0008), so an `x IS NULL OR ...` would be
planned as if each filter were given and missing at once, and a partial index is used only where its condition
is written out. States are therefore literals, of a closed set; everything else is a parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chassis.postgres import Database, Row, Statement, statement
from orchestrator.entries import TERMINAL_STATES, State

# Ids are minted by the replicas' clocks, ages are the database's.
CLOCK_SLACK_SECONDS = 600.0
# The archive has few indexes: one page looks at no more than so many of its sagas. It may be short, then, and
# says where to go on.
ARCHIVE_WINDOW = 10_000
MAX_STATEMENTS = 500
# More than any saga's age; further back PostgreSQL's calendar ends.
MAX_AGE_SECONDS = 100 * 365 * 86_400.0

NOT_ENDED = tuple(state for state in State if state not in TERMINAL_STATES)

_COLUMNS = """
    id, kind, version, definition_hash, key, state, seq, epoch, owner, attempts, pivot_intended, refusal,
    next_run, deadline, create_time, update_time, step, waiting_for, error_fingerprint, last_error
"""
_COMPUTED = "deadline < clock_timestamp() AS late"
_EVENT_COLUMNS = "seq, step, op, attempt, outcome, detail, at, actor, reason"

# One statement each, so that a saga that is being archived is seen in one place or in the other.
FIND_SAGA = statement(
    "find_saga",
    f"""
    SELECT {_COLUMNS}, {_COMPUTED} FROM saga WHERE id = %(id)s::uuid
    UNION ALL
    SELECT {_COLUMNS}, {_COMPUTED} FROM saga_archive WHERE id = %(id)s::uuid
    """,  # noqa: S608 - put together from constants above
)

FIND_EVENTS = statement(
    "find_events",
    f"""
    SELECT {_EVENT_COLUMNS} FROM saga_event WHERE saga_id = %(id)s::uuid AND seq > %(after)s::bigint
    UNION ALL
    SELECT {_EVENT_COLUMNS} FROM saga_event_archive
     WHERE saga_id = %(id)s::uuid AND seq > %(after)s::bigint
    ORDER BY seq
    """,  # noqa: S608 - put together from constants above
)

DEFINITION_USES = statement(
    "definition_uses",
    f"""
    SELECT kind, version, definition_hash, count(*)::bigint AS open,
           count(*) FILTER (WHERE state = 'PARKED')::bigint AS parked
      FROM saga WHERE state = ANY ('{{{",".join(NOT_ENDED)}}}'::text[]) AND state <> 'COMPLETED'
     GROUP BY kind, version, definition_hash ORDER BY kind, version, definition_hash
    """,  # noqa: S608 - put together from constants above
)

ARCHIVE_BOUNDARY = statement(
    "archive_boundary",
    """
    SELECT id FROM saga_archive WHERE id < %(before)s::uuid ORDER BY id DESC
    OFFSET %(window)s::bigint - 1 LIMIT 1
    """,
)
_LAST_UUID = UUID(int=2**128 - 1)


@dataclass(frozen=True)
class Search:
    """Which sagas to list; what is None or empty is not asked for.

    Attributes:
        step: The step that an open saga is at; with the state COMPENSATED, the one that refused it.
        older_than_seconds: Accepted at least so long ago.
        open: Only those that have not ended.
        archived: In the archive, instead of in the journal.
    """

    state: State | None = None
    kind: str = ""
    key: UUID | None = None
    step: str = ""
    older_than_seconds: float | None = None
    error_fingerprint: str = ""
    open: bool = False
    archived: bool = False

    @property
    def states(self) -> tuple[State, ...]:
        """The states that are asked for; empty: all of them."""
        if self.open or (self.step and self.state is None and not self.archived):
            return tuple(state for state in NOT_ENDED if self.state in {None, state})
        return () if self.state is None else (self.state,)

    @property
    def is_empty(self) -> bool:
        """Whether no saga can be found: an ended one that has not ended, a completed one at a step."""
        at_a_step = bool(self.step) and self.state is State.COMPLETED
        # No text in PostgreSQL holds a NUL.
        unheard_of = "\x00" in self.kind + self.step + self.error_fingerprint
        return (self.open and (self.archived or self.state in TERMINAL_STATES)) or at_a_step or unheard_of


@dataclass(frozen=True)
class Found:
    """A page: the rows, and the id below which the next one goes on; None on the last."""

    rows: Sequence[Row]
    next_before: UUID | None


async def search(database: Database, wanted: Search, *, before: UUID | None, limit: int) -> Found:
    """Find sagas, newest first.

    Args:
        database: The saga log.
        wanted: Which.
        before: Only those below this id.
        limit: At most so many.

    Raises:
        Fault: UNAVAILABLE.
    """
    if wanted.is_empty:
        return Found((), None)
    params = _params(wanted) | {"limit": limit + 1}
    if before is not None:
        params["before"] = before
    boundary = None
    if wanted.archived and wanted.key is None:
        window = {"before": before or _LAST_UUID, "window": ARCHIVE_WINDOW}
        edges = await database.fetch(ARCHIVE_BOUNDARY, window)
        boundary = edges[0]["id"] if edges else None
        params["boundary"] = boundary or UUID(int=0)
    rows = await database.fetch(search_statement(wanted, frozenset(params)), params)
    if len(rows) > limit:
        return Found(rows[:limit], rows[limit - 1]["id"])
    return Found(rows, boundary)


async def open_sagas(database: Database, *, limit: int) -> Sequence[Row]:
    """The sagas that have not ended, oldest first."""
    return await database.fetch(OPEN_SAGAS, {"limit": limit})


def _params(wanted: Search) -> dict[str, Any]:
    older = wanted.older_than_seconds
    given = {
        "kind": wanted.kind,
        "key": wanted.key,
        "step": wanted.step,
        "fingerprint": wanted.error_fingerprint,
        "older": None if older is None else min(older, MAX_AGE_SECONDS),
    }
    return {name: value for name, value in given.items() if value not in {None, ""}}


def search_statement(wanted: Search, given: frozenset[str]) -> Statement:
    """The SQL of a search with these parameters."""
    return _search_statement(wanted.archived, wanted.states, given)


@functools.lru_cache(MAX_STATEMENTS)
def _search_statement(archived: bool, states: tuple[State, ...], given: frozenset[str]) -> Statement:
    uppers = [_UPPERS[name] for name in _UPPERS if name in given]
    upper = f"least({', '.join(uppers)})" if uppers else f"'{_LAST_UUID}'::uuid"
    conditions = [condition for name, condition in _CONDITIONS.items() if name in given]
    if archived or "key" in given:
        conditions += [f"id < {upper}", *_one_of(states)]
        return statement("search_sagas", _selected("saga_archive" if archived else "saga", conditions))
    if states and all(state in NOT_ENDED for state in states):
        parts = [_by_index("state", _literal(state), upper, conditions) for state in states]
        return statement("search_sagas", _newest(parts))
    for name in ("fingerprint", "kind"):
        if name in given:
            parts = [_by_index(*_INDEXED[name], upper, [*conditions, *_one_of(states)])]
            return statement("search_sagas", _newest(parts))
    if states == (State.COMPENSATED,):
        return statement(
            "search_sagas", _newest([_by_index("state", _literal(states[0]), upper, conditions)])
        )
    return statement("search_sagas", _selected("saga", [*conditions, f"id < {upper}", *_one_of(states)]))


_CONDITIONS = {
    "boundary": "id >= %(boundary)s::uuid",
    "key": "key = %(key)s::uuid",
    "fingerprint": "error_fingerprint = %(fingerprint)s::text AND error_fingerprint <> ''",
    "kind": "kind = %(kind)s::text",
    "step": "step = %(step)s::text",
    "older": "create_time <= now() - make_interval(secs => %(older)s::float8)",
}
# Below which id the search goes on. That of an age is later than the age, by as much as clocks may differ.
_UPPERS = {
    "before": "%(before)s::uuid",
    "older": f"""
        (lpad(to_hex(greatest(0, (extract(epoch FROM now()) - %(older)s::float8 + {CLOCK_SLACK_SECONDS})
                                 * 1000)::bigint), 12, '0') || repeat('f', 20))::uuid
    """,
}
_INDEXED = {
    "fingerprint": ("error_fingerprint", "%(fingerprint)s::text"),
    "kind": ("kind", "%(kind)s::text"),
}


def _literal(state: State) -> str:
    return f"'{state}'::text"


def _one_of(states: Sequence[State]) -> list[str]:
    return [f"state IN ({', '.join(map(_literal, states))})"] if states else []


def _selected(table: str, conditions: Sequence[str], order: str = "id DESC") -> str:
    return f"""
        SELECT {_COLUMNS}, {_COMPUTED} FROM {table} WHERE {" AND ".join(conditions)}
         ORDER BY {order} LIMIT %(limit)s::bigint
    """  # noqa: S608 - put together from constants


def _by_index(column: str, value: str, upper: str, conditions: Sequence[str]) -> str:
    """Rows with a value in a column, from the index (column, id), and from nowhere else.

    With an equality PostgreSQL may as well walk back over the primary key until enough rows have the value,
    which for a rare one is to the end; it cannot know. The bounds of a range leave it no choice.
    """
    bounds = [f"{column} >= {value}", f"({column}, id) < ({value}, {upper})"]
    partial = ["state <> 'COMPLETED'"] if column == "state" else []
    kept = [condition for condition in conditions if condition != f"{column} = {value}"]
    return _selected("saga", [*bounds, *partial, *kept], f"{column} DESC, id DESC")


def _newest(parts: Sequence[str]) -> str:
    """The newest of what parts found, each of which has its own newest."""
    return f"""
        SELECT * FROM ({" UNION ALL ".join(f"({part})" for part in parts)}) AS s
         ORDER BY id DESC LIMIT %(limit)s::bigint
    """  # noqa: S608 - put together from constants


_OLDEST_OPEN = [
    f"""
    (SELECT {_COLUMNS}, {_COMPUTED} FROM saga WHERE state = '{state}' AND state <> 'COMPLETED'
      ORDER BY state, id LIMIT %(limit)s::bigint)
    """  # noqa: S608 - put together from constants
    for state in NOT_ENDED
]
OPEN_SAGAS = statement(
    "open_sagas", f"{' UNION ALL '.join(_OLDEST_OPEN)} ORDER BY id LIMIT %(limit)s::bigint"
)
