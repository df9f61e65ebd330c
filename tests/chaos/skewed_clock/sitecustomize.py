"""On the path of a Python process, this puts its clock wrong by SAGACITY_TEST_CLOCK_OFF_SECONDS.

Only the time of day: what measures how long something takes is the kernel's monotonic clock, as on a host
whose clock is wrong.
"""

import os
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import chassis.clock
import chassis.ids

_OFF_SECONDS = float(os.environ["SAGACITY_TEST_CLOCK_OFF_SECONDS"])  # noqa: TID251 - before there are settings
_ids: Any = chassis.ids
_clock: Any = chassis.clock.SystemClock
_right_time, _right_now, _right_id = time.time, _clock.now, _ids.uuid7


def _wrong_time() -> float:
    return _right_time() + _OFF_SECONDS


def _wrong_now(clock: object) -> datetime:
    now: datetime = _right_now(clock)
    return now + timedelta(seconds=_OFF_SECONDS)


def _wrong_id() -> UUID:
    made: UUID = _right_id(nanoseconds=int(_wrong_time() * 1e9))
    return made


time.time = _wrong_time
_clock.now = _wrong_now
_ids.uuid7 = _wrong_id
