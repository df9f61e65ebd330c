"""How long a saga waits before it asks again (capped backoff with full jitter), and what is an alarm."""

import random
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from orchestrator.breaker import Breakers
from orchestrator.calling import (
    BACKOFF_BASE_SECONDS,
    BACKOFF_CAP_SECONDS,
    Caller,
    Participants,
    backoff_seconds,
)
from orchestrator.entries import Call, Result, State
from orchestrator.progress import Progress
from orchestrator.saga import Action, Operation, Outcome
from orchestrator.sagas.cancel_order import CANCEL_ORDER, CancelOrder
from tests.unit.orchestrator.saga_walks import ORDER, USER

ATTEMPTS = st.integers(min_value=1, max_value=2**31 - 1)
SEEDS = st.integers(min_value=0, max_value=2**32)
SECONDS = st.floats(min_value=0, max_value=1e6)
MANY = 500


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def unknown(retry_after: float | None = None) -> Result:
    action = Action("sagacity.orders.v1.Orders", "CreateOrder", lambda _: None)  # type: ignore[arg-type, return-value]
    fault = Fault(
        FaultKind.UNAVAILABLE,
        "AWAY",
        "away",
        retry_after=None if retry_after is None else timedelta(seconds=retry_after),
    )
    return Result(Call("a", Operation.DO, action, b"", 1), Outcome.UNKNOWN, fault=fault)


@given(SEEDS, ATTEMPTS)
def test_a_pause_is_between_nothing_and_a_ceiling_that_doubles_up_to_the_cap(
    seed: int, attempts: int
) -> None:
    ceiling = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(attempts, 64))
    assert 0 <= backoff_seconds(seeded(seed), attempts, [unknown()]) <= ceiling


@given(SEEDS)
def test_the_jitter_is_full_so_that_sagas_that_failed_together_do_not_come_back_together(seed: int) -> None:
    rng = seeded(seed)
    pauses = [backoff_seconds(rng, 20, [unknown()]) for _ in range(MANY)]
    tenths = {int(pause / BACKOFF_CAP_SECONDS * 10) for pause in pauses}
    assert tenths >= set(range(10))


@given(SEEDS, ATTEMPTS, SECONDS)
def test_what_a_participant_asks_for_is_the_least_pause_up_to_the_cap(
    seed: int, attempts: int, asked: float
) -> None:
    pause = backoff_seconds(seeded(seed), attempts, [unknown(), unknown(asked)])
    assert min(asked, BACKOFF_CAP_SECONDS) - 1e-6 <= pause <= BACKOFF_CAP_SECONDS


@given(SEEDS, st.lists(st.floats(min_value=0, max_value=30), min_size=1, max_size=5))
def test_of_several_that_ask_the_longest_pause_counts(seed: int, asked: list[float]) -> None:
    pause = backoff_seconds(seeded(seed), 1, [unknown(seconds) for seconds in asked])
    assert pause >= max(asked) - 1e-6


# --- what needs attention at once ---


class Answering(Participants):
    """A participant that answers every call with one fault."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        raise self._fault

    @override
    async def probe(self, participant: str) -> bool:
        return True


async def nothing(_: str) -> None:
    pass


@pytest.mark.parametrize("kind", FaultKind)
async def test_what_does_not_go_away_by_itself_is_unknown_and_an_alarm_at_once(kind: FaultKind) -> None:
    participants = Answering(Fault(kind, "NO", "no", domain="sagacity.orders"))
    caller = Caller(participants, Breakers(participants.probe, nothing, seeded(0)))
    params = CancelOrder(ORDER, USER, "changed my mind")
    progress = Progress(CANCEL_ORDER, UUID(ORDER), params, State.RUNNING, epoch=1, sequence=0)
    progress.begin()
    with capture_logs() as logs:
        (result,) = await caller.call_all(progress, None)
    alarms = [
        (entry["log_level"], entry["kind"]) for entry in logs if entry["event"] == "call_needs_attention"
    ]
    if kind in {FaultKind.UNIMPLEMENTED, FaultKind.UNAUTHENTICATED, FaultKind.DATA_LOSS}:
        assert result.outcome is Outcome.UNKNOWN
        assert alarms == [("error", kind)]
    else:
        assert alarms == []
