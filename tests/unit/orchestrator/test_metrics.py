"""What the gauges show of a census, and that counts are found again under their labels."""

from chassis.telemetry import REGISTRY
from orchestrator import metrics


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def census(
    state: str, sagas: int, oldest: float, stillest: float = 0.0, overdue: int = 0
) -> dict[str, object]:
    return {
        "state": state,
        "sagas": sagas,
        "oldest_seconds": oldest,
        "stillest_seconds": stillest,
        "overdue": overdue,
    }


def test_the_gauges_are_those_of_the_census() -> None:
    metrics.show_census([census("RUNNING", 3, 10.0, overdue=1), census("PARKED", 2, 70.0, 60.0, overdue=2)])
    assert value("saga_open", state="RUNNING") == 3
    assert value("saga_open", state="PARKED") == 2
    assert value("saga_oldest_open_seconds") == 70.0
    assert value("saga_parked_age_seconds") == 60.0
    assert value("saga_overdue") == 3


def test_states_without_sagas_are_shown_with_nothing_and_not_with_what_was() -> None:
    metrics.show_census([census("PARKED", 2, 70.0, 60.0, overdue=2)])
    metrics.show_census([])
    for state in ("RUNNING", "COMPENSATING", "WAITING", "PAUSED", "PARKED"):
        assert value("saga_open", state=state) == 0
    assert value("saga_oldest_open_seconds") == 0
    assert value("saga_parked_age_seconds") == 0
    assert value("saga_overdue") == 0


def test_finished_sagas_are_no_part_of_the_open_ones() -> None:
    assert {str(state) for state in metrics.OPEN} == {
        "RUNNING",
        "COMPENSATING",
        "WAITING",
        "PAUSED",
        "PARKED",
    }


def test_what_is_counted_under_the_same_labels_is_one_count() -> None:
    for _ in range(2):
        metrics.started("unit_test")()
        metrics.finished("unit_test", "COMPLETED")()
        metrics.step_attempts("unit_test", "a", "do")(3)
        metrics.step_seconds("unit_test", "a", "do", "done")(0.002)
    assert value("saga_started_total", kind="unit_test") == 2
    assert value("saga_finished_total", kind="unit_test", outcome="COMPLETED") == 2
    labels = {"kind": "unit_test", "step": "a", "operation": "do"}
    assert value("saga_step_attempts_sum", **labels) == 6
    assert value("saga_step_seconds_count", **labels, outcome="done") == 2


def test_batches_are_counted_by_what_they_write() -> None:
    before = value("saga_group_commit_size_sum", operation="unit_test") or 0
    metrics.group_commit("unit_test")(7)
    assert value("saga_group_commit_size_sum", operation="unit_test") == before + 7


def test_a_participant_is_shown_with_a_closed_breaker_before_it_fails() -> None:
    assert value("saga_breaker_open", participant="unit_test") is None
    metrics.show_from_the_beginning("unit_test")
    assert value("saga_breaker_open", participant="unit_test") == 0
    assert value("saga_calls_held_total", participant="unit_test") == 0
