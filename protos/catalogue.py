"""Writes the catalogue in docs/events.md from the protos: `python -m protos.catalogue [PAGE]`.

Only what stands between the two markers; the rest of the page is written by hand. The examples are the newest
golden bytes (protos/golden.py), decoded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor

from protos.event_protos import PROTOS, Event, EventProtos, type_name
from protos.golden import Golden, goldens

PAGE = PROTOS.parent / "docs" / "events.md"
BEGIN = "<!-- Generated from the protos by `make gen`: begin. -->"
END = "<!-- Generated from the protos by `make gen`: end. -->"


def written(page: str, catalogue: str) -> str:
    """Returns the page with the catalogue in place of the one that is there.

    Raises:
        ValueError: The page has not each marker once, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError("the page must have each marker of the catalogue once")
    return f"{before}{BEGIN}\n\n{catalogue}\n{END}{after}"


def catalogue(protos: EventProtos) -> str:
    """Returns the catalogue: a table of all events, then each of them, then what they are made of."""
    events = sorted(protos.events(), key=lambda event: _TOPIC_ORDER.get(event.topic, len(_TOPIC_ORDER)))
    return "\n".join(
        [
            *_overview(events),
            *(line for event in events for line in _section(protos, event)),
            *(line for part in protos.parts() for line in _part(protos, part)),
        ]
    )


# As an order meets them; a context that is not here yet comes last.
_TOPIC_ORDER = {
    f"sagacity.{context}.v1": place
    for place, context in enumerate(("users", "inventory", "payments", "orders"))
}


def _overview(events: list[Event]) -> Iterator[str]:
    yield "| topic | event | key | when |"
    yield "|---|---|---|---|"
    topic = ""
    for event in events:
        named = f"`{event.topic}` " if event.topic != topic else ""
        topic = event.topic
        yield f"| {named}| `{event.message.name}` | {event.key} | {_cell(event.when)} |"
    yield ""


def _section(protos: EventProtos, event: Event) -> Iterator[str]:
    versions = goldens(event.message.full_name)
    yield f"### {event.message.name}"
    yield ""
    yield f"`{event.message.full_name}`: {event.when} Key: {event.key}."
    yield ""
    yield "| field | number | since | type | says |"
    yield "|---|---|---|---|---|"
    for field in event.message.fields:
        says = protos.member_comment(event.message, field.name)
        since = _since(versions, field.name)
        yield f"| `{field.name}` | {field.number} | {since} | `{type_name(field)}` | {_cell(says)} |"
    yield ""
    if versions:
        yield "```json"
        yield json.dumps(versions[-1].decoded, indent=2)
        yield "```"
        yield ""


def _since(versions: list[Golden], field: str) -> str:
    return next((f"v{golden.version}" for golden in versions if field in golden.decoded), "")


def _part(protos: EventProtos, part: Descriptor | EnumDescriptor) -> Iterator[str]:
    yield f"### {part.name}"
    yield ""
    yield f"`{part.full_name}`, a part of events. {protos.comment(part)}"
    yield ""
    if isinstance(part, EnumDescriptor):
        yield "| value | number | says |"
        yield "|---|---|---|"
        for value in part.values:
            says = protos.member_comment(part, value.name)
            yield f"| `{value.name}` | {value.number} | {_cell(says)} |"
    else:
        yield "| field | number | type | says |"
        yield "|---|---|---|---|"
        for field in part.fields:
            says = protos.member_comment(part, field.name)
            yield f"| `{field.name}` | {field.number} | `{type_name(field)}` | {_cell(says)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(written(PAGE.read_text("utf-8"), catalogue(EventProtos())), "utf-8")
