from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from chassis.clock import SystemClock
from chassis.ids import minted_at, new_id


def test_the_clock_tells_an_aware_time_in_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)


def test_ids_sort_by_the_time_of_their_making() -> None:
    made = [new_id() for _ in range(1_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_id_tells_when_it_was_made() -> None:
    # The example of RFC 9562, appendix A.6.
    example = UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
    assert minted_at(example) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_an_id_of_another_version_tells_no_time() -> None:
    with pytest.raises(ValueError, match="not a UUIDv7"):
        minted_at(UUID("919108f7-52d1-4320-9bac-f847db4148a8"))
