"""What PostgreSQL says of a failure, without the row that it is about.

The server adds to an error the whole row, the key or the parameters (DETAIL, CONTEXT), and with them what a
person typed. Texts of errors go into logs, tracebacks and dead letters, so that is taken out where an error
enters our code, once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

# Data exceptions: their message quotes the value.
_QUOTES_A_VALUE = "22"


@contextmanager
def without_rows() -> Iterator[None]:
    """Lets an error of psycopg's say its message, SQLSTATE, table and constraint, and nothing of a row."""
    try:
        yield
    except psycopg.Error as error:
        said = _said(error)
        if said is not None:
            error.args = (said,)
        raise


def _said(error: psycopg.Error) -> str | None:
    """What an error of the server's may say; None for one that the client made, which knows no row."""
    diag = error.diag
    if diag.message_primary is None or diag.sqlstate is None:
        return None
    message = "a value cannot be" if diag.sqlstate.startswith(_QUOTES_A_VALUE) else diag.message_primary
    named = {
        "SQLSTATE": diag.sqlstate,
        "table": diag.table_name,
        "column": diag.column_name,
        "constraint": diag.constraint_name,
    }
    return f"{message} ({', '.join(f'{name} {value}' for name, value in named.items() if value)})"
