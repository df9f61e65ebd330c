"""Looks that a process takes at its database again and again, and that it never ends for."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import structlog

from chassis.errors import Fault

_log = structlog.get_logger(__name__)


class Look:
    """What is looked at; where that fails, its gauges stay as they were.

    A database that is away says nothing, and others tell of it. One that refuses, as a managed server may
    with a view or a function, does so each time: the log has it once, until it was seen after all.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._refused = False

    @contextmanager
    def may_fail(self) -> Iterator[None]:
        """Lets what is done inside fail for want of a database, or for what that refuses."""
        try:
            yield
        except Fault:
            return
        except psycopg.Error as error:
            if not self._refused:
                _log.warning("look_refused", look=self._name, error=str(error))
            self._refused = True
        else:
            self._refused = False
