"""On the path of a Python process, this puts its clock wrong by SAGACITY_TEST_CLOCK_OFF_SECONDS.

Only the time of day: what measures how long something takes is the kernel's monotonic clock, as on a host
whose clock is wrong.
"""

import os
import time
from datetime import datetime, timedelta
from uuid import UUID

import chassis.clock
import chassis.ids

_OFF_SECONDS = float(os.environ["SAGACITY_TEST_CLOCK_OFF_SECONDS"])  # noqa: TID251 - before there are settings
_right_time, _right_now, _right_id = time.time, chassis.clock.SystemClock.now, chassis.ids.uuid7


def _wrong_time() -> float:
    return _right_time() + _OFF_SECONDS


def _wrong_now(clock: chassis.clock.SystemClock) -> datetime:
    return _right_now(clock) + timedelta(seconds=_OFF_SECONDS)


def _wrong_id() -> UUID:
    return _right_id(int(_wrong_time()))


time.time = _wrong_time
chassis.clock.SystemClock.now = _wrong_now  # type: ignore[method-assign]
chassis.ids.uuid7 = _wrong_id
