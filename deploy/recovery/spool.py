"""The file of a topic: its first line says where it is from, each other line is a record that is true.

What is left out is in a file of its own, `discarded`, with its offset and why.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chassis.cloud_events import from_record
from chassis.kafka import KafkaCluster
from deploy.recovery import topic_log
from deploy.recovery.topic_log import Span


class SpoolError(Exception):
    """A spool that does not fit to what is in Kafka; nothing more was changed."""


@dataclass(frozen=True, slots=True)
class Header:
    """Where the records are from: the cluster, the topic, and what each partition held."""

    cluster_id: str
    topic: str
    spans: Mapping[int, Span]


async def spool(
    kafka: KafkaCluster, topic: str, facts: Mapping[str, int], into: tuple[Path, Path] | None
) -> Counter[str]:
    """Sort the records of a topic by whether they are true; return how many are kept and left out.

    Args:
        kafka: Where it is.
        topic: what is read, up to where it ends now.
        facts: the number of the last fact of each aggregate.
        into: the files for what is kept and what is left out, on disk when this returns; None: only count.
    """
    header = Header(await topic_log.cluster_id(kafka), topic, await topic_log.spans(kafka, topic))
    kept, left_out = into or (Path(os.devnull), Path(os.devnull))
    counted: Counter[str] = Counter()
    with kept.open("w", encoding="utf-8") as true, left_out.open("w", encoding="utf-8") as discarded:
        true.write(json.dumps(asdict(header)) + "\n")
        async for record in topic_log.records(kafka, topic, header.spans):
            verdict = _verdict(record, facts)
            counted[verdict] += 1
            if verdict == "kept":
                true.write(json.dumps(_packed(record)) + "\n")
            else:
                reason = {"why": verdict, "offset": record.offset}
                discarded.write(json.dumps({**reason, **_packed(record)}) + "\n")
        if into:
            for file in (true, discarded):
                file.flush()
                os.fsync(file.fileno())
    return counted


def _verdict(record: Any, facts: Mapping[str, int]) -> str:
    try:
        event = from_record(record)
    except ValueError:
        return "unreadable"
    return "kept" if event.sequence <= facts.get(event.aggregate_id, 0) else "unknown"


def read_header(file: Path) -> Header:
    """Return the first line of a spool.

    Raises:
        SpoolError: the file is no spool.
    """
    with file.open(encoding="utf-8") as lines:
        try:
            found = json.loads(lines.readline())
            spans = {int(partition): Span(*span) for partition, span in found["spans"].items()}
            return Header(found["cluster_id"], found["topic"], spans)
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{file} does not begin as a spool does") from error


def read_messages(file: Path) -> Iterator[dict[str, Any]]:
    """Yield what a spool keeps, as a producer takes it: in each partition in its order."""
    with file.open(encoding="utf-8") as lines:
        lines.readline()
        for line in lines:
            packed = json.loads(line)
            headers = [(name, _bytes(value)) for name, value in packed["headers"]]
            yield {
                **packed,
                "key": _bytes(packed["key"]),
                "value": _bytes(packed["value"]),
                "headers": headers,
            }


def _packed(record: Any) -> dict[str, Any]:
    return {
        "partition": record.partition,
        "timestamp_ms": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [(name, _text(value)) for name, value in record.headers],
    }


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
