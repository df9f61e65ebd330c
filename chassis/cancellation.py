"""Whether a task was cancelled: libraries let CancelledErrors of their own out, which nobody asked for."""

import asyncio


def is_cancelled() -> bool:
    """Whether the current task is being cancelled; if not, a CancelledError is a library's failure."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
