"""Breakers and retry budgets, without a journal: when calls are held back, and who hears of the end of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from chassis.errors import Fault, FaultKind
from chassis.telemetry import REGISTRY
from orchestrator import breaker
from orchestrator.breaker import BUDGET_MAX, BUDGET_PER_FIRST_CALL, FAILURES_TO_OPEN, Breakers

PATIENCE_SECONDS = 10.0
ALIVE, SILENT = True, False
AWAY = Fault(FaultKind.UNAVAILABLE, "AWAY", "away")
OUTAGES = [FaultKind.UNAVAILABLE, FaultKind.DEADLINE_EXCEEDED, FaultKind.RESOURCE_EXHAUSTED]
BUSINESS = [kind for kind in FaultKind if kind not in OUTAGES]


class Participant:
    """Answers probes by script, and remembers whom a closed breaker woke."""

    def __init__(self, *probes: bool | Fault) -> None:
        self.probes = list(probes)
        self.asked = 0
        self.woken: list[str] = []
        self.waking_fails = 0

    async def probe(self, _participant: str) -> bool:
        self.asked += 1
        said = self.probes.pop(0) if self.probes else True
        if isinstance(said, Fault):
            raise said
        return said

    async def wake(self, participant: str) -> None:
        self.woken.append(participant)
        if self.waking_fails:
            self.waking_fails -= 1
            raise AWAY


def breakers_of(participant: Participant) -> Breakers:
    return Breakers(participant.probe, participant.wake, random.Random(7))  # noqa: S311


@asynccontextmanager
async def running(breakers: Breakers) -> AsyncIterator[None]:
    task = asyncio.create_task(breakers.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PROBE_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(breaker, "PROBE_CAP_SECONDS", 0.004)


def call(breakers: Breakers, fault: Fault | None, times: int = 1, name: str = "payments") -> None:
    """Make first calls that are answered, or not."""
    for _ in range(times):
        assert breakers.allows(name, attempt=1)
        if fault is None:
            breakers.succeeded(name)
        else:
            breakers.failed(name, fault)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", OUTAGES)
async def test_a_breaker_opens_after_so_many_outages_in_a_row_and_holds_every_call(kind: FaultKind) -> None:
    breakers = breakers_of(Participant())
    call(breakers, Fault(kind, "AWAY", "away"), FAILURES_TO_OPEN - 1)
    assert not breakers.is_open("payments")
    call(breakers, Fault(kind, "AWAY", "away"))
    assert breakers.is_open("payments")
    assert not breakers.allows("payments", attempt=1)
    assert not breakers.allows("payments", attempt=2)


async def test_an_answer_in_between_starts_the_count_anew() -> None:
    breakers = breakers_of(Participant())
    call(breakers, AWAY, FAILURES_TO_OPEN - 1)
    call(breakers, None)
    call(breakers, AWAY, FAILURES_TO_OPEN - 1)
    assert not breakers.is_open("payments")


@pytest.mark.parametrize("kind", BUSINESS)
async def test_faults_that_are_no_outage_open_nothing(kind: FaultKind) -> None:
    breakers = breakers_of(Participant())
    call(breakers, Fault(kind, "OTHER", "other"), 3 * FAILURES_TO_OPEN)
    assert not breakers.is_open("payments")


async def test_a_breaker_is_of_one_participant_alone() -> None:
    breakers = breakers_of(Participant())
    call(breakers, AWAY, FAILURES_TO_OPEN)
    assert breakers.allows("inventory", attempt=1)
    assert not breakers.is_open("inventory")


async def test_an_open_breaker_probes_until_the_participant_answers_then_wakes_who_waits() -> None:
    participant = Participant(SILENT, AWAY, SILENT, ALIVE)
    breakers = breakers_of(participant)
    async with running(breakers):
        call(breakers, AWAY, FAILURES_TO_OPEN)
        await until(lambda: bool(participant.woken))
    assert participant.asked == 4
    assert participant.woken == ["payments"]
    assert not breakers.is_open("payments")
    assert breakers.allows("payments", attempt=1)


async def test_calls_that_were_under_way_when_it_opened_do_not_open_it_twice() -> None:
    participant = Participant()
    breakers = breakers_of(participant)
    for _ in range(3 * FAILURES_TO_OPEN):
        assert breakers.allows("payments", attempt=1)
    for _ in range(3 * FAILURES_TO_OPEN):
        breakers.failed("payments", AWAY)
    async with running(breakers):
        await until(lambda: bool(participant.woken))
    assert participant.woken == ["payments"]


async def test_after_it_has_closed_it_takes_as_many_outages_again() -> None:
    participant = Participant()
    breakers = breakers_of(participant)
    async with running(breakers):
        call(breakers, AWAY, FAILURES_TO_OPEN)
        await until(lambda: len(participant.woken) == 1)
        call(breakers, AWAY, FAILURES_TO_OPEN - 1)
        assert not breakers.is_open("payments")
        call(breakers, AWAY)
        assert breakers.is_open("payments")
        await until(lambda: len(participant.woken) == 2)
    assert participant.woken == ["payments", "payments"]


async def test_a_journal_that_is_away_when_a_breaker_closes_does_not_end_the_breakers() -> None:
    participant = Participant()
    participant.waking_fails = 1
    breakers = breakers_of(participant)
    async with running(breakers):
        call(breakers, AWAY, FAILURES_TO_OPEN)
        await until(lambda: len(participant.woken) == 1)
        call(breakers, AWAY, FAILURES_TO_OPEN)
        await until(lambda: len(participant.woken) == 2)
    assert not breakers.is_open("payments")


async def test_the_gauge_says_whether_a_breaker_is_open() -> None:
    participant = Participant()
    breakers = breakers_of(participant)
    labels = {"participant": "gauged"}
    call(breakers, AWAY, FAILURES_TO_OPEN, name="gauged")
    assert REGISTRY.get_sample_value("saga_breaker_open", labels) == 1
    async with running(breakers):
        await until(lambda: bool(participant.woken))
    assert REGISTRY.get_sample_value("saga_breaker_open", labels) == 0


# --- the budget ---


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "BUDGET_PER_SECOND", 0.0)


def spend(breakers: Breakers) -> int:
    """Retry until the budget refuses; how many went through."""
    sent = 0
    while breakers.allows("payments", attempt=2):
        sent += 1
    return sent


@pytest.mark.usefixtures("no_refill")
async def test_the_budget_ends_a_storm_of_retries_but_never_refuses_a_first_call() -> None:
    breakers = breakers_of(Participant())
    assert spend(breakers) == BUDGET_MAX
    assert not breakers.allows("payments", attempt=2)
    assert all(breakers.allows("payments", attempt=1) for _ in range(int(BUDGET_MAX)))


@pytest.mark.usefixtures("no_refill")
async def test_first_calls_earn_retries_as_a_share() -> None:
    breakers = breakers_of(Participant())
    spend(breakers)
    calls = 50
    call(breakers, None, calls)
    assert spend(breakers) == pytest.approx(calls * BUDGET_PER_FIRST_CALL, abs=1)


@pytest.mark.usefixtures("no_refill")
async def test_the_budget_has_a_bound_however_many_first_calls_there_were() -> None:
    breakers = breakers_of(Participant())
    call(breakers, None, int(3 * BUDGET_MAX / BUDGET_PER_FIRST_CALL))
    assert spend(breakers) == BUDGET_MAX


async def test_time_gives_a_few_retries_back_so_that_a_quiet_replica_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    breakers = breakers_of(Participant())
    assert spend(breakers) == BUDGET_MAX
    now[0] += 2.0
    assert spend(breakers) == 2 * breaker.BUDGET_PER_SECOND
