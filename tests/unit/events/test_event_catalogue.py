from __future__ import annotations

from pathlib import Path

import pytest

from protos.catalogue import BEGIN, END, catalogue, written
from protos.event_protos import EventProtos
from tests.unit.events.proto_copies import copied, replaced

NEW = """
// A drawer was
// opened | closed. Key: the
// drawer's number.
message DrawerOpened {
  // What of it.
  repeated Drawer drawers = 3;
}

// A drawer.
message Drawer {
  // Its number.
  int64 number = 1;
}

// A part of nothing.
message Unused {
  // Anything.
  string text = 1;
}

// An order is on its way."""


def test_an_event_that_is_new_in_the_protos_is_in_the_catalogue_with_what_it_is_made_of(
    tmp_path: Path,
) -> None:
    protos = copied(tmp_path)
    replaced(protos, "orders/v1/events.proto", "\n// An order is on its way.", NEW)
    lines = catalogue(EventProtos(protos)).splitlines()
    assert r"| | `DrawerOpened` | the drawer's number | A drawer was opened \| closed. |" in lines
    assert "| `drawers` | 3 |  | `repeated Drawer` | What of it. |" in lines
    assert "`sagacity.orders.v1.Drawer`, a part of events. A drawer." in lines
    assert "| `number` | 1 | `int64` | Its number. |" in lines
    assert not any("Unused" in line for line in lines)


def test_the_catalogue_has_for_each_event_a_section_with_an_example_of_all_its_fields() -> None:
    protos = EventProtos()
    text = catalogue(protos)
    for event in protos.events():
        section = text.split(f"### {event.message.name}\n")[1].split("\n### ")[0]
        assert event.when in section
        example = section.split("```json\n")[1]
        for field in event.message.fields:
            assert f"| `{field.name}` | {field.number} | v" in section
            assert f'  "{field.name}": ' in example


def test_only_what_is_between_the_markers_is_written() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert written(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert written(written(page, "new\n"), "new\n") == written(page, "new\n")


@pytest.mark.parametrize(
    "page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        written(page, "new")
