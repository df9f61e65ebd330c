"""Who receives a server's log, as a standby does: with a name, a slot, and word of what it still reads."""

import struct

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

NOTHING = 0


class Standby:
    """A receiver that is connected until it is closed; what it is sent it does not read."""

    def __init__(self, dsn: str, *, name: str, slot: str = "") -> None:
        conninfo = make_conninfo(dsn, replication="true", application_name=name)
        self._connection = pq.PGconn.connect(conninfo.encode())
        if self._connection.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError(self._connection.error_message.decode())
        where = self._connection.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2) or b""
        by_slot = f"SLOT {slot} " if slot else ""
        begun = self._connection.exec_(f"START_REPLICATION {by_slot}PHYSICAL {where.decode()}".encode())
        if begun.status != pq.ExecStatus.COPY_BOTH:
            raise psycopg.OperationalError(begun.error_message.decode())

    def still_reads(self, transaction: int) -> None:
        """Say what `hot_standby_feedback` says: from which transaction on rows are wanted; NOTHING: none."""
        self._connection.put_copy_data(b"h" + struct.pack("!qIIII", 0, transaction, 0, 0, 0))
        while self._connection.flush():
            pass

    def acknowledge(self, place: int) -> None:
        """Say that the log is on disk here up to this place."""
        self._connection.put_copy_data(b"r" + struct.pack("!qqqqB", place, place, place, 0, 0))
        while self._connection.flush():
            pass

    def close(self) -> None:
        """Go away."""
        self._connection.finish()
