"""A topic whose records are replaced by those of its spool, and what of it an earlier run has done."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chassis.kafka import KafkaCluster
from deploy.recovery import topic_log
from deploy.recovery.spool import SpoolError, read_header, read_messages
from deploy.recovery.topic_log import Span


async def replace(kafka: KafkaCluster, topic: str, file: Path) -> int:
    """Delete what was spooled, and append the records in `file`, each to the partition that it was in.

    It may be run again wherever it ended: what it appended before is found in Kafka itself. A batch of a run
    that was killed may still arrive after that was looked at, and is there twice then; consumers drop the
    second ones by their marks.

    Returns:
        How many records it appended.

    Raises:
        SpoolError: the topic is not as the file and an earlier run left it, so that somebody has published
            since. Nothing is deleted then, and nothing appended.
    """
    header = read_header(file)
    there = await topic_log.cluster_id(kafka), topic
    if (header.cluster_id, header.topic) != there:
        raise SpoolError(
            f"{file} is of {header.topic} in the cluster {header.cluster_id}, not of {topic} in {there[0]}"
        )
    now = await topic_log.spans(kafka, topic)
    ends = {partition: span.end for partition, span in header.spans.items()}
    if now.keys() != ends.keys():
        raise SpoolError(f"{topic} has {len(now)} partitions, and had {len(ends)} when {file} was written")
    untouched = {each: ends[each] for each, span in now.items() if span.begin < ends[each]}
    for each, span in now.items():
        if span.end != ends[each] and (each in untouched or span.end < ends[each]):
            raise _moved(topic, each, f"ended at {ends[each]} when it was read, and ends at {span.end}")
    written = {each: Span(span.begin - ends[each], span.end - ends[each]) for each, span in now.items()}
    appended = {each: Span(0, 0) if each in untouched else span for each, span in written.items()}
    await _compare(kafka, topic, appended, ends, file)
    await topic_log.delete_before(kafka, topic, untouched)
    counted: Counter[str] = Counter()
    await topic_log.append(kafka, topic, _missing(file, appended, counted))
    return counted["missing"]


async def _compare(
    kafka: KafkaCluster, topic: str, appended: Mapping[int, Span], ends: Mapping[int, int], file: Path
) -> None:
    """Raise SpoolError where what is behind the spooled ends is not how the spool begins."""
    spans = {each: Span(*(ends[each] + count for count in span)) for each, span in appended.items()}
    theirs, ours = {each: hashlib.sha256() for each in spans}, {each: hashlib.sha256() for each in spans}
    async for record in topic_log.records(kafka, topic, spans):
        theirs[record.partition].update(_content(record.key, record.value, record.headers))
    seen: Counter[int] = Counter()
    for message in read_messages(file):
        partition = message["partition"]
        # Those before `begin` were appended, and are gone by the topic's retention.
        if appended[partition].begin <= seen[partition] < appended[partition].end:
            ours[partition].update(_content(message["key"], message["value"], message["headers"]))
        seen[partition] += 1
    for each, span in appended.items():
        if span.end > seen[each] or ours[each].digest() != theirs[each].digest():
            raise _moved(topic, each, f"holds others than the {seen[each]} of {file} from {ends[each]} on")


def _content(key: bytes | None, value: bytes | None, headers: Any) -> bytes:
    return repr((key, value, [(name, content) for name, content in headers])).encode()


def _missing(file: Path, appended: Mapping[int, Span], counted: Counter[str]) -> Iterator[dict[str, Any]]:
    seen: Counter[int] = Counter()
    for message in read_messages(file):
        partition = message["partition"]
        if seen[partition] >= appended[partition].end:
            counted["missing"] += 1
            yield message
        seen[partition] += 1


def _moved(topic: str, partition: int, how: str) -> SpoolError:
    return SpoolError(
        f"{topic}, partition {partition}, {how}: somebody has published since; nothing is changed"
    )
