"""`sagacity events tail`: the topics themselves, as they are filled."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import typer

from chassis.config import ProcessSettings, SettingsError, variables
from chassis.kafka import KafkaCluster
from cli.connection import data_dir
from cli.event_payloads import TOPICS, SeenEvent
from cli.events_options import ContextName
from cli.failures import usage
from cli.kafka import Reader, reading
from cli.output import complain, console, document, safe

SERVERS_VARIABLE = variables("", "kafka_bootstrap_servers")[-1]
# Where `make run` leaves the address of its broker, which is another one after every start.
DEFAULT_SERVERS = "kafka-bootstrap-servers"
MAX_LAST = 10_000
_SERVERS = re.compile(r"[^:,\s]+:\d{1,5}(,[^:,\s]+:\d{1,5})*")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


class OperatorSettings(ProcessSettings):
    """How an operator speaks to Kafka, who may have a name and a password of their own there."""

    process: ClassVar[str] = "operator"


@dataclass(frozen=True)
class Wanted:
    """What is to be shown of which topics."""

    topics: tuple[str, ...]
    key: str | None
    types: frozenset[str]
    last: int | None
    from_start: bool
    follow: bool
    count: int | None

    @property
    def is_filtered(self) -> bool:
        """Whether the last so many cannot be found by their offsets."""
        return self.key is not None or bool(self.types)

    def __call__(self, record: Any) -> bool:
        """Whether a record is shown."""
        return SeenEvent.of(record).is_wanted(self.key, self.types)


Topics: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--topic", help="Read this topic; may be repeated. Else those of all contexts."),
]
TopicsOf: TypeAlias = Annotated[
    list[ContextName] | None,
    typer.Option("--context", help="Read this context's topic; may be repeated."),
]
Last: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=MAX_LAST, help="Begin with the newest so many that are wanted.")
]
Types: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--type", help="Only events of this type, such as OrderPlaced; may be repeated."),
]
Servers: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...",
        help=f"Kafka; else {SERVERS_VARIABLE}, else the broker that `make run` has started.",
    ),
]


def tail(
    *,
    topic: Topics = None,
    context: TopicsOf = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest events that there are.")
    ] = False,
    last: Last = None,
    key: Annotated[
        str | None, typer.Option(help="Only messages with this key: the id of the aggregate.")
    ] = None,
    event_type: Types = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="End with the newest event that there is now.")
    ] = False,
    bootstrap_servers: Servers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> None:
    """Show events as they come, read from Kafka itself, until Ctrl-C.

    Reading leaves no trace: it joins no consumer group and moves no offset.
    """
    _require_something(from_start=from_start, last=last, follow=not no_follow)
    wanted = Wanted(
        topics=_topics(topic or [], context or []),
        key=key,
        types=frozenset(event_type or []),
        last=last,
        from_start=from_start,
        follow=not no_follow,
        count=count,
    )
    asyncio.run(_tail(_kafka(bootstrap_servers), wanted, named=bool(topic), as_json=as_json))


def _require_something(*, from_start: bool, last: int | None, follow: bool) -> None:
    if from_start and last is not None:
        raise usage("choose one of --from-start and --last")
    if not follow and not from_start and last is None:
        raise usage("--no-follow shows nothing without --from-start or --last")


def _topics(topics: list[str], contexts: list[ContextName]) -> tuple[str, ...]:
    for topic in topics:
        if not _TOPIC.fullmatch(topic):
            raise usage(f"{safe(topic)[:80]!r} is no topic's name: letters, digits, dots, _ and - are")
    chosen = [*topics, *(TOPICS[context.value] for context in contexts)]
    return tuple(dict.fromkeys(chosen or TOPICS.values()))


def _kafka(given: str | None) -> KafkaCluster:
    """Where Kafka is, and how it is spoken to.

    Raises:
        CommandError: USAGE where nobody says where it is, or not as an address, or a setting is wrong.
    """
    try:
        settings = OperatorSettings.read()
        servers = given or settings.kafka_bootstrap_servers or _left_by_make_run()
        _require_servers(servers)
        return settings.model_copy(update={"kafka_bootstrap_servers": servers}).kafka
    except SettingsError as error:
        raise usage(str(error)) from None


def _require_servers(servers: str) -> None:
    if not servers:
        raise usage(f"where is Kafka? Name it by --bootstrap-servers or {SERVERS_VARIABLE}")
    if not _SERVERS.fullmatch(servers):
        raise usage(f"{safe(servers)[:80]!r} does not name Kafka's servers: write them as HOST:PORT,...")


def _left_by_make_run() -> str:
    try:
        return (data_dir() / DEFAULT_SERVERS).read_text("utf-8").strip()
    except OSError:
        return ""


async def _tail(kafka: KafkaCluster, wanted: Wanted, *, named: bool, as_json: bool) -> None:
    async with reading(kafka, wanted.topics) as reader:
        out = console()
        shown = 0
        async for record in _records(reader, wanted, named=named):
            seen = SeenEvent.of(record)
            if as_json:
                document(seen.document(), indent=None)
            else:
                out.print(seen.line(), soft_wrap=True)
            shown += 1
            if shown == wanted.count:
                return


async def _records(reader: Reader, wanted: Wanted, *, named: bool) -> AsyncIterator[Any]:
    everything = wanted.from_start or (wanted.last is not None and wanted.is_filtered)
    await reader.begin(back=None if everything else wanted.last or 0)
    for topic in reader.missing if named else ():
        complain("NO_SUCH_TOPIC", f"there is no topic {topic} yet")
    if wanted.last is not None:
        for record in await reader.last(wanted.last, wanted):
            yield record
    batches = reader.batches() if wanted.follow else reader.until_now()
    async for batch in batches:
        for record in filter(wanted, batch):
            yield record
