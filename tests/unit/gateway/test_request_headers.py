"""Idempotency-Key and Prefer."""

import pytest

from gateway.idempotency import Preference, preference, required_key
from gateway.problems import ProblemError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Preference(5, "")),
        (["wait=0"], Preference(0, "wait=0")),
        (["wait=30"], Preference(30, "wait=30")),
        (['Wait="7"'], Preference(7, "wait=7")),
        (["respond-async"], Preference(0, "respond-async")),
        (["respond-async, wait=10"], Preference(10, "wait=10")),
        (["wait=3", "wait=9"], Preference(3, "wait=3")),
        (["return=minimal; foo=bar, wait=2 ; x"], Preference(2, "wait=2")),
        (["handling=lenient"], Preference(5, "")),
    ],
)
def test_a_preference_is_read(values: list[str], expected: Preference) -> None:
    assert preference(values) == expected


@pytest.mark.parametrize(
    "value", ["wait", "wait=", "wait=-1", "wait=31", "wait=1.5", "wait=x", "wait=9" * 300, 'wait="1']
)
def test_a_malformed_wait_is_refused_by_name(value: str) -> None:
    with pytest.raises(ProblemError) as caught:
        preference([value])
    assert caught.value.problem.status == 400
    assert caught.value.problem.errors[0].field == "Prefer"


def test_wait_takes_no_unicode_digits() -> None:
    with pytest.raises(ProblemError):
        preference(["wait=٣"])


@pytest.mark.parametrize("values", [[], [""], ["a b"], ["a" * 256], ["a", "a"], ["ä"], ["a\n"]])
def test_a_bad_idempotency_key_is_refused_by_name(values: list[str]) -> None:
    with pytest.raises(ProblemError) as caught:
        required_key(values)
    assert caught.value.problem.status == 400
    assert caught.value.problem.errors[0].field == "Idempotency-Key"


def test_a_good_idempotency_key_is_taken_as_it_is() -> None:
    assert required_key(["order-1:{}~!"]) == "order-1:{}~!"
