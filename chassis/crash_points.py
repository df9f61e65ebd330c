"""Named places where a test can end the process as an outage would: SIGKILL, no clean-up, no reply."""

import os
import signal
from functools import cache

from chassis.config import environment

VARIABLE = "SAGACITY_CRASH_AT"

_hits: dict[str, int] = {}


@cache
def _target() -> tuple[str, int]:
    name, _, count = environment().get(VARIABLE, "").rpartition(":")
    return name, int(count) if name else 0


def crash_point(name: str) -> None:
    """Do nothing, unless a test asked for the n-th passage here to be the last: SAGACITY_CRASH_AT=name:n."""
    target, count = _target()
    if name != target:
        return
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] == count:
        os.kill(os.getpid(), signal.SIGKILL)
