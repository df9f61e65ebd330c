from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from chassis.clock import SystemClock
from chassis.ids import moment_of, new_id, uuid7_floor


def test_the_clock_tells_an_aware_time_in_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)


def test_ids_sort_by_the_time_of_their_making() -> None:
    made = [new_id() for _ in range(1_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


# The example of RFC 9562, appendix A.6.
EXAMPLE = UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
EXAMPLE_MOMENT = datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_an_id_tells_when_it_was_made() -> None:
    assert moment_of(EXAMPLE) == EXAMPLE_MOMENT


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("919108f7-52d1-4320-9bac-f847db4148a8", "not a UUIDv7"),
        ("017f22e2-79b0-7cc3-18c4-dc0c0c07398f", "not a UUIDv7"),  # the variant is another
        ("ffffffff-ffff-7cc3-98c4-dc0c0c07398f", "of a year"),
    ],
)
def test_an_id_of_another_kind_tells_no_time(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        moment_of(UUID(text))


def test_the_floor_of_a_moment_is_the_lowest_id_of_its_millisecond() -> None:
    floor = uuid7_floor(EXAMPLE_MOMENT)
    assert floor == UUID("017f22e2-79b0-7000-8000-000000000000")
    assert moment_of(floor) == EXAMPLE_MOMENT
    assert uuid7_floor(EXAMPLE_MOMENT + timedelta(microseconds=999)) == floor
    assert floor < EXAMPLE < uuid7_floor(EXAMPLE_MOMENT + timedelta(milliseconds=1))


def test_the_floor_of_now_is_above_the_ids_of_before_and_not_above_those_to_come() -> None:
    before = new_id()
    floor = uuid7_floor(moment_of(before) + timedelta(milliseconds=1))
    after = uuid7_floor(SystemClock().now())
    assert before < floor
    assert after <= new_id()


def test_there_is_no_floor_before_1970_nor_without_a_time_zone() -> None:
    assert uuid7_floor(datetime(1970, 1, 1, tzinfo=UTC)).int >> 80 == 0
    with pytest.raises(ValueError, match="before 1970"):
        uuid7_floor(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC))
    with pytest.raises(ValueError, match="time zone"):
        uuid7_floor(datetime(2022, 2, 22))  # noqa: DTZ001 - that is the point
