"""Debezium's configuration: of documented properties only, and making what our consumers read."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from chassis.cloud_events import ReceivedEvent, from_record, to_message
from chassis.ids import new_id
from chassis.outbox import Event, append
from chassis.postgres import Database

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "debezium"
PAGE = ROOT / "docs" / "how-to" / "debezium.md"
CONTEXTS = ("users", "inventory", "payments", "orders")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COLUMNS = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'outbox'"
# How Debezium represents a column, by its type in PostgreSQL; others are not placed into headers.
SENT_AS: dict[str, Callable[[Any], str]] = {
    "uuid": str,
    "text": str,
    "bigint": str,
    "timestamp with time zone": lambda moment: moment.isoformat(timespec="microseconds")[:-6] + "Z",
}


def connector(context: str) -> dict[str, Any]:
    template = (FOLDER / "outbox-connector.json").read_text("utf-8")
    made: dict[str, Any] = json.loads(template.replace("@CONTEXT@", context))
    return made


def placements(config: dict[str, str]) -> list[tuple[str, str]]:
    """Return (column, header) of what the router places into headers."""
    listed = config["transforms.outbox.table.fields.additional.placement"].split(",")
    parts = [entry.split(":") for entry in listed]
    return [(column, header) for column, placement, header in parts if placement == "header"]


def faults(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """What of a value its JSON schema does not allow; fails at a keyword that it does not know."""
    known = {"$schema", "title", "description", "type", "const", "enum", "pattern", "minLength"}
    assert set(schema) <= known | {"additionalProperties", "required", "properties"}
    if schema["type"] == "object":
        assert schema["additionalProperties"] is False
        properties = schema["properties"]
        yield from (f"{at}.{name}: missing" for name in schema["required"] if name not in value)
        yield from (f"{at}.{name}: unknown" for name in value if name not in properties)
        for name in value.keys() & properties.keys():
            yield from faults(value[name], properties[name], f"{at}.{name}")
    elif not isinstance(value, str):
        yield f"{at}: not of type string"
    elif value != schema.get("const", value) or value not in schema.get("enum", [value]):
        yield f"{at}: not one of the values"
    elif not re.search(schema.get("pattern", ""), value) or len(value) < schema.get("minLength", 0):
        yield f"{at}: not of the form"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema of the documented properties."""
    read: dict[str, Any] = json.loads((FOLDER / "connector.schema.json").read_text("utf-8"))
    return read


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_property_of_the_connector_is_a_documented_one_with_an_allowed_value(
    context: str, schema: dict[str, Any]
) -> None:
    assert list(faults(connector(context), schema)) == []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("snapshot.mod", "initial", ".config.snapshot.mod: unknown"),
        ("snapshot.mode", "initally", ".config.snapshot.mode: not one of the values"),
        ("slot.name", "Sagacity-Orders", ".config.slot.name: not of the form"),
        ("tasks.max", 1, ".config.tasks.max: not of type string"),
        ("publication.name", None, ".config.publication.name: missing"),
    ],
)
def test_a_mistake_in_the_configuration_is_found(
    name: str, value: object, fault: str, schema: dict[str, Any]
) -> None:
    made = connector("orders")
    made["config"].pop(name, None)
    if value is not None:
        made["config"][name] = value
    assert list(faults(made, schema)) == [fault]


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_connector_publishes_to_the_topic_of_its_context(context: str) -> None:
    topic = importlib.import_module(f"services.{context}.events").TOPIC
    config = connector(context)["config"]
    assert config["transforms.outbox.route.topic.replacement"] == topic
    assert config["transforms.source.value.literal"] == topic
    assert config["database.dbname"] == context


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_column_that_the_connector_names_is_in_the_outbox(context: str, new_database: Any) -> None:
    with psycopg.connect(new_database(f"services.{context}")) as connection:
        columns: dict[str, str] = dict(connection.execute(COLUMNS).fetchall())
    config = connector(context)["config"]
    router = "transforms.outbox"
    assert columns[config[f"{router}.table.field.event.payload"]] == "bytea"
    assert columns[config[f"{router}.table.field.event.key"]] == "text"
    assert columns[config[f"{router}.table.field.event.id"]] == "uuid"
    assert config[f"{router}.route.by.field"] in columns
    assert {columns[column] for column, _ in placements(config)} <= set(SENT_AS)


def by_debezium(row: dict[str, Any], types: dict[str, str], config: dict[str, str]) -> SimpleNamespace:
    """The record that the router makes of a row, as documented: id, placed columns, then literals."""
    router = "transforms.outbox"
    headers: list[tuple[str, bytes | None]] = [
        ("id", str(row[config[f"{router}.table.field.event.id"]]).encode())
    ]
    for column, header in placements(config):
        text = None if row[column] is None else SENT_AS[types[column]](row[column])
        headers.append((header, None if text is None else text.encode()))
    headers += [
        (config[f"transforms.{name}.header"], config[f"transforms.{name}.value.literal"].encode())
        for name in config["transforms"].split(",")[1:]
    ]
    return SimpleNamespace(
        key=row[config[f"{router}.table.field.event.key"]].encode(),
        value=bytes(row[config[f"{router}.table.field.event.payload"]]),
        headers=headers,
        topic=config[f"{router}.route.topic.replacement"],
        partition=0,
        offset=0,
    )


@pytest.mark.parametrize("traceparent", [TRACEPARENT, None])
@pytest.mark.parametrize("microsecond", [0, 678_900])
async def test_a_consumer_reads_the_same_event_from_debezium_as_from_the_relay(
    traceparent: str | None, microsecond: int, new_database: Any
) -> None:
    dsn = new_database("services.orders")
    event = Event(
        id=new_id(),
        aggregate_type="order",
        aggregate_id=str(new_id()),
        type="sagacity.orders.v1.OrderPlaced",
        payload=b"\x00\x01\xff",
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, microsecond, tzinfo=UTC),
    )
    database = await Database.open(dsn, application_name="tests")
    try:
        async with database.transaction() as tx:
            await append(tx, event, sequence=7, traceparent=traceparent)
    finally:
        await database.close()
    with psycopg.connect(dsn, options="-c timezone=UTC") as connection:
        types: dict[str, str] = dict(connection.execute(COLUMNS).fetchall())
        row = connection.cursor(row_factory=dict_row).execute("SELECT * FROM outbox").fetchone()
    assert row is not None
    config = connector("orders")["config"]
    theirs = by_debezium(row, types, config)
    ours = SimpleNamespace(
        **to_message(row, source=config["transforms.source.value.literal"]),
        topic=theirs.topic,
        partition=0,
        offset=0,
    )
    assert (theirs.key, theirs.value) == (ours.key, ours.value)
    read: ReceivedEvent = from_record(theirs)
    assert read == from_record(ours)
    assert read.traceparent == traceparent
    mine, other = dict(ours.headers), dict(theirs.headers)
    assert other.keys() - mine.keys() - {"traceparent"} == {"id", "ce_aggregatetype"}
    assert mine.keys() - other.keys() == {"ce_subject"}
    same = mine.keys() & other.keys() - {"ce_time"}
    assert {name: other[name] for name in same} == {name: mine[name] for name in same}


@pytest.mark.parametrize("left_out", ["ce_aggregatetype", "ce_sequence", "ce_type"])
def test_an_event_that_lacks_what_the_connector_has_to_place_is_refused(left_out: str) -> None:
    row = {
        "id": new_id(),
        "aggregatetype": "order",
        "aggregateid": "order-1",
        "type": "sagacity.orders.v1.OrderPlaced",
        "payload": b"",
        "sequence": 1,
        "occurred_at": datetime(2026, 1, 2, tzinfo=UTC),
        "traceparent": None,
    }
    types = dict.fromkeys(row, "text") | {"occurred_at": "timestamp with time zone"}
    record = by_debezium(row, types, connector("orders")["config"])
    assert from_record(record).aggregate_type == "order"
    record.headers = [(name, value) for name, value in record.headers if name != left_out]
    with pytest.raises(ValueError, match="not a"):
        from_record(record)


@pytest.fixture
def prepared(new_database: Any) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Connections of owner and connector to a database on which the SQL of the page's first step was run."""
    dsn: str = new_database("services.orders")
    name = str(conninfo_to_dict(dsn)["dbname"])
    role = f"{name}_debezium"
    block = PAGE.read_text("utf-8").split("```sql\n")[1].split("```")[0]
    text = block.replace("orders_debezium", role).replace("DATABASE orders", f"DATABASE {name}")
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(text.encode())
        with psycopg.connect(make_conninfo(dsn, user=role, password="change me"), autocommit=True) as theirs:
            yield owner, theirs
        owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_the_role_of_the_page_reads_the_outbox_in_order_deletes_what_is_old_and_may_do_no_more(
    prepared: tuple[psycopg.Connection, psycopg.Connection],
) -> None:
    owner, theirs = prepared
    config = connector("orders")["config"]
    for sequence, age in enumerate(("3 days", "25 hours", "23 hours", "0"), start=1):
        owner.execute(
            "INSERT INTO outbox"
            " (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at)"
            " VALUES (gen_random_uuid(), 'order', 'a', 'T', '', %s, 1, now() - %s::interval)",
            [sequence, age],
        )
    snapshot = config["snapshot.select.statement.overrides.public.outbox"].encode()
    positions = [row[0] for row in theirs.execute(snapshot).fetchall()]
    assert len(positions) == 4
    assert positions == sorted(positions)
    theirs.execute(config["heartbeat.action.query"].encode())
    left = owner.execute("SELECT sequence FROM outbox ORDER BY position").fetchall()
    assert left == [(3,), (4,)]
    for refused in ("UPDATE outbox SET sequence = 9", "SELECT FROM outbox_lease", "SELECT FROM orders"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            theirs.execute(refused.encode())


def test_the_publication_of_the_page_is_the_one_that_the_connector_streams_from(
    prepared: tuple[psycopg.Connection, psycopg.Connection],
) -> None:
    owner, _ = prepared
    config = connector("orders")["config"]
    found = owner.execute("SELECT pubname, pubinsert, pubupdate, pubdelete FROM pg_publication").fetchall()
    assert found == [(config["publication.name"], True, False, True)]
    tables = owner.execute("SELECT schemaname || '.' || tablename FROM pg_publication_tables").fetchall()
    assert tables == [(config["table.include.list"],)]


def test_the_query_of_the_page_that_watches_the_slots_is_one(
    prepared: tuple[psycopg.Connection, psycopg.Connection],
) -> None:
    owner, _ = prepared
    query = PAGE.read_text("utf-8").split("```sql\n")[2].split("```")[0].strip().rstrip(";")
    assert owner.execute(query.encode()).fetchall() == []
    slot = connector("orders")["config"]["slot.name"]
    assert slot.startswith("sagacity_")
    assert f"pg_drop_replication_slot('{slot}')" in PAGE.read_text("utf-8")
