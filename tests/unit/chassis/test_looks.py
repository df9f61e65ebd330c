"""A look at a database that fails ends nothing, and one that is refused is said once."""

import psycopg
import pytest
from psycopg import errors
from structlog.testing import capture_logs

from chassis.looks import Look
from chassis.postgres import unavailable


def refused_times(look: Look, *outcomes: Exception | None) -> int:
    with capture_logs() as logs:
        for outcome in outcomes:
            with look.may_fail():
                if outcome:
                    raise outcome
    assert {entry["event"] for entry in logs} <= {"look_refused"}
    return len(logs)


@pytest.mark.parametrize("refusal", [errors.InsufficientPrivilege, errors.FeatureNotSupported])
def test_what_is_refused_is_said_once_until_it_was_seen(refusal: type[psycopg.Error]) -> None:
    look = Look("slots")
    assert refused_times(look, refusal("no"), refusal("no"), unavailable(), refusal("no")) == 1
    assert refused_times(look, refusal("no"), None, refusal("no"), refusal("no")) == 1


def test_a_database_that_is_away_is_not_said_here() -> None:
    assert refused_times(Look("slots"), unavailable(), unavailable()) == 0


def test_what_is_wrong_in_the_code_is_raised() -> None:
    with pytest.raises(KeyError), Look("slots").may_fail():
        raise KeyError("slot")
