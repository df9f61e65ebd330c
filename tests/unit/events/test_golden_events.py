"""The bytes of every version of every event are read as they were meant, for ever."""

from __future__ import annotations

import importlib
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from protos.event_protos import EventProtos
from protos.golden import FOLDER, Golden, add_missing, encoded, fields_in, fields_of, goldens
from tests.unit.events.proto_copies import copied, replaced

NAMES = sorted(path.name for path in FOLDER.iterdir())
GOLDENS = [golden for name in NAMES for golden in goldens(name)]
ORDER_PLACED = "sagacity.orders.v1.OrderPlaced"


def stub(name: str) -> Any:
    """Return the message class that the suite itself uses."""
    importlib.import_module(f"{name.rpartition('.')[0]}.events_pb2")
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))


def as_id(golden: Golden) -> str:
    return f"{golden.event}-v{golden.version}"


def test_every_event_of_the_protos_has_golden_bytes_and_none_was_taken_away() -> None:
    assert [event.message.full_name for event in EventProtos().events()]
    assert sorted(event.message.full_name for event in EventProtos().events()) == NAMES


@pytest.mark.parametrize("golden", GOLDENS, ids=as_id)
def test_golden_bytes_say_what_they_said_when_they_were_written(golden: Golden) -> None:
    message = stub(golden.event).FromString(golden.payload)
    assert json_format.MessageToDict(message, preserving_proto_field_name=True) == golden.decoded


@pytest.mark.parametrize("golden", GOLDENS, ids=as_id)
def test_the_same_fact_is_written_with_the_same_bytes_today(golden: Golden) -> None:
    assert encoded(stub(golden.event).DESCRIPTOR, golden.decoded) == golden.payload


@pytest.mark.parametrize("name", NAMES)
def test_a_version_has_the_fields_of_the_one_before_and_more(name: str) -> None:
    versions = [fields_in(golden.decoded) for golden in goldens(name)]
    assert versions
    for before, after in itertools.pairwise(versions):
        assert before < after


@pytest.mark.parametrize("name", NAMES)
def test_the_newest_golden_bytes_have_every_field_set(name: str) -> None:
    """Where this fails, a message is new or gained a field: `make golden`."""
    assert fields_in(goldens(name)[-1].decoded) == fields_of(stub(name).DESCRIPTOR)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "golden"))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.json")}


def test_golden_bytes_that_are_there_are_never_written_again(folder: Path) -> None:
    before = contents(folder)
    assert list(add_missing(EventProtos(), folder)) == []
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("proto", "old", "new", "events"),
    [
        ("orders/v1/events.proto", "repeated OrderedItem items = 6;", "bytes extra = 77;", {"OrderPlaced"}),
        ("orders/v1/events.proto", "int64 quantity = 2;", "bool extra = 77;", {"OrderPlaced"}),
        ("users/v1/events.proto", "Timestamp register_time = 2;", "Duration extra = 77;", {"UserRegistered"}),
    ],
)
def test_an_event_that_gains_a_field_even_in_a_part_of_it_gains_a_version(
    *, tmp_path: Path, folder: Path, proto: str, old: str, new: str, events: set[str]
) -> None:
    protos = copied(tmp_path)
    package = "google.protobuf." if "Duration" in new else ""
    replaced(protos, proto, old, f"{old}\n  // New.\n  {package}{new}")
    if package:
        replaced(protos, proto, 'import "', 'import "google/protobuf/duration.proto";\nimport "')
    before = contents(folder)
    added = list(add_missing(EventProtos(protos), folder))
    assert {path.parent.name.rpartition(".")[2] for path in added} == events
    after = contents(folder)
    assert {name: text for name, text in after.items() if name in before} == before
    [path] = added
    newest = goldens(path.parent.name, folder)[-1]
    assert path.name == f"v{newest.version}.json"
    assert any(name.rpartition(".")[2] == "extra" for name in fields_in(newest.decoded))
    assert list(add_missing(EventProtos(protos), folder)) == []


def test_a_missing_version_is_noticed(folder: Path) -> None:
    (folder / ORDER_PLACED / "v1.json").unlink()
    with pytest.raises(ValueError, match=r"v1\.json is missing"):
        goldens(ORDER_PLACED, folder)
