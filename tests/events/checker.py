"""What must hold of a world at rest; findings are of kinds, so that planted bugs can be told apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from tests.events.world import Fact, Published, World

MAX_NAMED = 5


class Kind(StrEnum):
    """What can be broken."""

    LOST = "a committed event without an effect"
    DOUBLE = "an event with more than one effect"
    INVENTED = "an effect or a message of an event that was not committed"
    ORDER = "effects of one aggregate out of order"
    LOG_ORDER = "first occurrences of one aggregate in Kafka out of order"
    PARTITIONS = "one key in two partitions"
    OUTBOX = "events left in the outbox"
    PARKED = "events among the dead letters"
    MARKS = "a mark that differs from the aggregate's last effect"


class Broken(NamedTuple):
    """Something that is broken, with examples."""

    kind: Kind
    examples: list[str]


async def broken(world: World) -> list[Broken]:
    """Compare the source, Kafka's log and the sink (P7, I20-I23)."""
    facts, effects, log = await world.facts(), await world.effects(), await world.published()
    found: dict[Kind, list[str]] = defaultdict(list)
    for kind, example in (
        *_applied_once(facts, effects),
        *_in_order(effects, Kind.ORDER),
        *_in_order(_firsts(log), Kind.LOG_ORDER),
        *_of_committed(facts, effects, log),
        *_one_partition(log),
        *_marked(effects, await world.marks()),
    ):
        found[kind].append(example)
    if left := await world.in_outbox():
        found[Kind.OUTBOX].append(str(left))
    if parked := await world.parked():
        found[Kind.PARKED].append(str(parked))
    return [Broken(kind, examples[:MAX_NAMED]) for kind, examples in found.items()]


def kinds(found: list[Broken]) -> set[Kind]:
    """Which kinds were found."""
    return {one.kind for one in found}


def duplicates(log: list[Published]) -> int:
    """How many messages in Kafka's log repeat an earlier one."""
    return len(log) - len({published.fact.event_id for published in log})


def _applied_once(facts: list[Fact], effects: list[Fact]) -> Iterator[tuple[Kind, str]]:
    times = Counter(effect.event_id for effect in effects)
    for fact in facts:
        if not times[fact.event_id]:
            yield Kind.LOST, f"{fact.aggregate} {fact.sequence}"
        elif times[fact.event_id] > 1:
            yield Kind.DOUBLE, f"{fact.aggregate} {fact.sequence}"


def _in_order(happened: list[Fact], kind: Kind) -> Iterator[tuple[Kind, str]]:
    last: dict[str, int] = defaultdict(int)
    for fact in happened:
        if fact.sequence != last[fact.aggregate] + 1:
            yield kind, f"{fact.aggregate}: {fact.sequence} after {last[fact.aggregate]}"
        last[fact.aggregate] = max(last[fact.aggregate], fact.sequence)


def _firsts(log: list[Published]) -> list[Fact]:
    seen: set[str] = set()
    firsts = []
    for one in log:
        if one.fact.event_id not in seen:
            seen.add(one.fact.event_id)
            firsts.append(one.fact)
    return firsts


def _of_committed(facts: list[Fact], effects: list[Fact], log: list[Published]) -> Iterator[tuple[Kind, str]]:
    committed = set(facts)
    for fact in {*effects, *(published.fact for published in log)} - committed:
        yield Kind.INVENTED, f"{fact.aggregate} {fact.sequence}"


def _one_partition(log: list[Published]) -> Iterator[tuple[Kind, str]]:
    partitions: dict[str, set[int]] = defaultdict(set)
    for published in log:
        partitions[published.fact.aggregate].add(published.partition)
    for aggregate, where in partitions.items():
        if len(where) > 1:
            yield Kind.PARTITIONS, f"{aggregate}: {sorted(where)}"


def _marked(effects: list[Fact], marks: dict[str, int]) -> Iterator[tuple[Kind, str]]:
    last: dict[str, int] = defaultdict(int)
    for effect in effects:
        last[effect.aggregate] = max(last[effect.aggregate], effect.sequence)
    for aggregate in last.keys() | marks.keys():
        if last.get(aggregate, 0) != marks.get(aggregate, 0):
            yield Kind.MARKS, f"{aggregate}: {marks.get(aggregate, 0)}, applied {last.get(aggregate, 0)}"
