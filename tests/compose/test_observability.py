"""The profile `obs` of deploy/compose.yaml for real: what the processes tell is found where it is looked for.

The processes are made anew with the collector's address, as a first start with the profile gives it to them.
At the end the profile's containers are gone; the processes keep the address of a collector that is away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import yaml

from chassis.tracing import ENDPOINT
from deploy.local.children import LOOPBACK
from deploy.local.programs import PROGRAMS
from tests import docker_engine
from tests.compose.stack import FILE, PROCESSES, SERVICES, STAND_INS, Stack, inspect, run
from tests.compose.traffic import CONFIRMED, insist
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Market
from tests.e2e.traces import CLIENTS_SPAN

pytestmark = [pytest.mark.compose, pytest.mark.timeout(4500)]

# Of a stand-in that is made for the first time: Jaeger has two thousand packages.
BUILD_SECONDS = 3600
ANSWER_SECONDS = 10
# A few looks of Prometheus, which looks every 15 s.
LOOKS_SECONDS = 90.0
MAX_MEMORY_PERCENT = 80.0
COLLECTOR = "http://otel-collector:4317"
OBS = tuple(name for name, service in SERVICES.items() if service.get("profiles") == ["obs"])
# What make.sh can make: not Grafana.
WITH_STAND_INS = {"prometheus", "otel-collector", "jaeger"}
RULES = FILE.parent / "prometheus" / "rules"
TRACED = {f"sagacity-{program.name}" for program in PROGRAMS}


@dataclass(frozen=True)
class Watched:
    """The stack with the containers that look at it."""

    stack: Stack
    services: tuple[str, ...]

    async def ask(self, service: str, port: int, path: str) -> Any:
        """Return what a published port answers, from JSON; None where there is no such thing yet."""
        container = inspect("container", self.stack.container(service))
        (published,) = container["NetworkSettings"]["Ports"][f"{port}/tcp"]
        assert published["HostIp"] == LOOPBACK
        async with httpx2.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as client:
            answer = await client.get(f"http://{LOOPBACK}:{published['HostPort']}{path}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def prometheus(self, what: str) -> Any:
        """Return what Prometheus knows of its targets, its rules or a query."""
        return (await self.ask("prometheus", 9090, f"/api/v1/{what}"))["data"]


@dataclass(frozen=True)
class Span:
    """A span as Jaeger tells it."""

    process: str
    span_id: str
    parent_id: str


def prepare() -> tuple[str, ...]:
    """Have the profile's images, pulled or made; return the services that can be started."""
    there = []
    for name in OBS:
        if docker_engine.can_run(SERVICES[name]["image"]):
            there.append(name)
        elif name in WITH_STAND_INS:
            run([str(STAND_INS), name], seconds=BUILD_SECONDS)
            there.append(name)
    return tuple(there)


@pytest.fixture(scope="module")
async def watched(stack: Stack) -> AsyncIterator[Watched]:
    """The containers of the profile, up, and the processes with the address of the collector."""
    services = await asyncio.to_thread(prepare)
    assert set(services) >= WITH_STAND_INS
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COMPOSE_PROFILES", "obs")
        environment.setenv(ENDPOINT, COLLECTOR)
        for name in services:
            # Any free port of the host.
            environment.setenv(f"SAGACITY_{name.upper().replace('-', '_')}_PORT", "0")
        try:
            await asyncio.to_thread(stack.up, *services, *PROCESSES)
            yield Watched(stack, services)
        finally:
            await asyncio.to_thread(stack.compose, "rm", "--stop", "--force", *services)


async def test_prometheus_finds_every_process_and_whoever_takes_their_traces(watched: Watched) -> None:
    jobs = yaml.safe_load((RULES.parent / "prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    wanted = {target for job in jobs for some in job["static_configs"] for target in some["targets"]}

    async def health() -> dict[str, tuple[str, str]]:
        targets = (await watched.prometheus("targets?state=active"))["activeTargets"]
        return {
            each["discoveredLabels"]["__address__"]: (each["health"], each["lastError"]) for each in targets
        }

    up = dict.fromkeys(wanted, ("up", ""))
    assert await eventually(health, until=lambda seen: seen == up, within_seconds=LOOKS_SECONDS)


async def test_prometheus_has_evaluated_every_rule(watched: Watched) -> None:
    files = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(RULES.glob("*.yaml"))]
    written = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    wanted = sorted((rule.get("alert") or rule["record"], "ok", "") for rule in written)

    async def rules() -> list[tuple[str, str, str]]:
        groups = (await watched.prometheus("rules"))["groups"]
        told = [rule for group in groups for rule in group["rules"]]
        return sorted((rule["name"], rule["health"], rule.get("lastError", "")) for rule in told)

    assert await eventually(rules, until=lambda seen: seen == wanted, within_seconds=LOOKS_SECONDS)


async def test_an_order_is_one_trace_in_jaeger_with_spans_of_every_process(
    watched: Watched, market: Market
) -> None:
    shopper = await market.shopper("tok_success")
    sku = await market.product(stock=10)
    trace_id = secrets.token_hex(16)
    shopper.trace(f"00-{trace_id}-{CLIENTS_SPAN}-01")
    assert (await insist(shopper, sku)).status == CONFIRMED

    async def spans() -> list[Span]:
        return _spans(await watched.ask("jaeger", 16686, f"/api/traces/{trace_id}"))

    def is_whole(seen: list[Span]) -> bool:
        missing = {span.parent_id for span in seen} - {span.span_id for span in seen} - {CLIENTS_SPAN}
        return {span.process for span in seen} == TRACED and not missing

    assert await eventually(spans, until=is_whole, within_seconds=LOOKS_SECONDS)


def _spans(answer: Any) -> list[Span]:
    if answer is None:
        return []
    (trace,) = answer["data"]
    return [
        Span(
            process=trace["processes"][span["processID"]]["serviceName"],
            span_id=span["spanID"],
            parent_id=next((of["spanID"] for of in span["references"]), ""),
        )
        for span in trace["spans"]
    ]


async def test_nothing_of_the_profile_died_or_comes_near_to_its_memory(watched: Watched) -> None:
    for name in watched.services:
        state = await asyncio.to_thread(watched.stack.state, name)
        assert (state["Status"], state["OOMKilled"], state["RestartCount"]) == ("running", False, 0), name
        container = watched.stack.container(name)
        used = run(["docker", "stats", "--no-stream", "--format", "{{.MemPerc}}", container])
        assert 0 < float(used.strip().rstrip("%")) < MAX_MEMORY_PERCENT, (name, used)
