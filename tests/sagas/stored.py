"""Stored histories: what a release wrote into its journal, to be taken up by this code (P11).

A file `histories/<kind>.v<version>.json` holds a few ways that sagas of a version went, each with all its
events, and the saga's row at every point where a process may have died: `seq` says how many of the events
were there by then. Ids and SKUs are those of the recording; `taken_up` gives them the ids of a new case.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from chassis.postgres import Database, statement
from tests.sagas.worlds import Case

FOLDER = Path(__file__).parent / "histories"
ROW = (
    "kind", "version", "definition_hash", "state", "seq", "epoch", "context", "attempts", "pivot_intended",
    "refusal", "step", "waiting_for", "error_fingerprint", "last_error",
)  # fmt: skip
EVENT = (
    "seq", "step", "op", "attempt", "outcome", "detail", "recorded", "request", "reply", "actor", "reason",
)  # fmt: skip
BYTES = ("request", "reply")
Json = dict[str, Any]

_READ_SAGA = statement("read_saga", f"SELECT {', '.join(ROW)} FROM saga WHERE id = %(id)s::uuid")  # noqa: S608
_READ_EVENTS = statement(
    "read_events",
    f"SELECT {', '.join(EVENT)} FROM saga_event WHERE saga_id = %(id)s::uuid ORDER BY seq",  # noqa: S608
)
_WRITE_SAGA = statement(
    "write_saga",
    f"""
    INSERT INTO saga (id, key, deadline, {", ".join(ROW)})
    VALUES (%(id)s::uuid, %(key)s::uuid, clock_timestamp() + interval '5 minutes',
            {", ".join(f"%({name})s" for name in ROW)})
    """,  # noqa: S608 - constants
)
_WRITE_EVENT = statement(
    "write_event",
    f"""
    INSERT INTO saga_event (saga_id, {", ".join(EVENT)})
    VALUES (%(id)s::uuid, {", ".join(f"%({name})s" for name in EVENT)})
    """,  # noqa: S608 - constants
)
_WRITE_KEY = statement(
    "write_key",
    """
    INSERT INTO idempotency (caller, rpc, key, request_hash, saga_id, expires_at)
    VALUES ('user', %(kind)s, %(id)s::text, '', %(id)s::uuid, clock_timestamp() + interval '1 day')
    """,
)


@dataclass(frozen=True)
class Point:
    """A saga as a process left it: its row, its events so far, and ids of others that they name."""

    way: str
    saga_id: UUID
    row: Json
    events: tuple[Json, ...]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def pending(self) -> list[Json]:
        """The intents whose outcome is not known, in the order of the journal."""
        settled = {
            (event["step"], event["op"])
            for event in self.events
            if event["outcome"] in {"done", "refused"} and event["step"]
        }
        return [
            event
            for event in self.events
            if event["outcome"] == "intended"
            and event["step"]
            and (event["step"], event["op"]) not in settled
        ]


async def read_point(database: Database, way: str, saga_id: UUID, names: dict[str, str]) -> Point:
    """Read a saga as it stands now."""
    async with database.transaction() as tx:
        row = (await tx.fetch(_READ_SAGA, {"id": saga_id}))[0]
        events = await tx.fetch(_READ_EVENTS, {"id": saga_id})
    return Point(way, saga_id, row, tuple(event for event in events if event["seq"] <= row["seq"]), names)


async def write_point(database: Database, point: Point, key: UUID) -> None:
    """Leave a saga in a journal as a process left it that is gone."""
    async with database.transaction() as tx:
        await tx.fetch(_WRITE_SAGA, {**point.row, "id": point.saga_id, "key": key})
        await tx.fetch(_WRITE_KEY, {"id": point.saga_id, "kind": point.row["kind"]})
        for event in point.events:
            await tx.fetch(_WRITE_EVENT, {**event, "id": point.saga_id})


def taken_up(point: Point, case: Case) -> Point:
    """The same point with a new saga's id, and the ids and SKUs of another case instead of its own."""
    saga_id = new_id()
    names = {str(point.saga_id): str(saga_id)}
    names |= dict(_pairs(point.row["context"], _json(dataclasses.asdict(case.params))))
    names |= dict(_pairs(point.names, case.names))
    row = json.loads(_renamed(json.dumps(point.row).encode(), names))
    events = tuple(
        {
            **event,
            **{name: _renamed(event[name], names) for name in BYTES if event[name] is not None},
        }
        for event in point.events
    )
    return Point(point.way, saga_id, row, events)


def _pairs(old: Any, new: Any) -> Iterator[tuple[str, str]]:
    """The texts of two values of one shape, side by side."""
    if isinstance(old, dict):
        for name in old:
            yield from _pairs(old[name], new[name])
    elif isinstance(old, list):
        for before, after in zip(old, new, strict=True):
            yield from _pairs(before, after)
    elif isinstance(old, str) and old != new:
        # Of the same length, so that they can take each other's place inside of encoded messages.
        assert len(old) == len(new), (old, new)
        yield old, new


def _renamed(text: bytes, names: dict[str, str]) -> bytes:
    for old, new in names.items():
        text = text.replace(old.encode(), new.encode())
    return text


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


# --- files ---


def file_of(kind: str, version: int) -> Path:
    """Where the histories of a version are kept."""
    return FOLDER / f"{kind}.v{version}.json"


def save(points: list[Point]) -> None:
    """Write the file of a version; points of one way follow each other, and the last has all events."""
    ways: dict[str, Json] = {}
    for point in points:
        way = ways.setdefault(point.way, {"saga_id": str(point.saga_id), "names": point.names, "points": []})
        way["points"].append(point.row)
        way["events"] = [{**event, **_encoded(event)} for event in point.events]
    row = points[0].row
    content = {name: row[name] for name in ("kind", "version", "definition_hash")} | {"ways": ways}
    file_of(row["kind"], row["version"]).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def load(kind: str, version: int) -> list[Point]:
    """Read the file of a version."""
    content = json.loads(file_of(kind, version).read_text("utf-8"))
    return [
        Point(
            name,
            UUID(way["saga_id"]),
            row,
            tuple(_decoded(event) for event in way["events"] if event["seq"] <= row["seq"]),
            way.get("names", {}),
        )
        for name, way in content["ways"].items()
        for row in way["points"]
    ]


def _encoded(event: Json) -> Json:
    return {
        name: base64.b64encode(event[name]).decode() if event[name] is not None else None for name in BYTES
    }


def _decoded(event: Json) -> Json:
    return event | {
        name: base64.b64decode(event[name]) if event[name] is not None else None for name in BYTES
    }
