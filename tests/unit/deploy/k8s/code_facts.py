"""What the code does by the network: whom it calls, who consumes, who publishes. Read from its source."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from deploy.local.programs import PROGRAMS
from orchestrator.__main__ import PARTICIPANTS
from tests.unit.deploy.k8s.manifests import ROOT, WORKLOADS

# What a package of a process calls or reads when it has to do with Kafka.
KAFKA_NAMES = {"start_relay", "start_consumer", "kafka"}


def sources(module: str) -> list[Path]:
    folder = ROOT / module.replace(".", "/")
    return sorted(path for path in folder.rglob("*.py") if "migrations" not in path.parts)


def _names(module: str) -> Iterator[str]:
    for path in sources(module):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.Name):
                yield node.id


@functools.cache
def names_in(module: str) -> frozenset[str]:
    return frozenset(_names(module))


def calls() -> set[tuple[str, str]]:
    """Return who calls whom: whose addresses a process's code reads; of the orchestrator its own table."""
    edges = {("orchestrator", participant) for participant in PARTICIPANTS}
    for program in PROGRAMS:
        for other in WORKLOADS:
            if f"{other}_address" in names_in(program.module):
                edges.add((program.name, other))
    return edges


def speak_to_kafka() -> set[str]:
    return {program.name for program in PROGRAMS if KAFKA_NAMES & names_in(program.module)}


def consumers_in_groups() -> set[str]:
    """Return those whose replicas share the partitions of a topic."""
    return {program.name for program in PROGRAMS if "start_consumer" in names_in(program.module)}
