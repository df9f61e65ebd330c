"""PostgreSQL: one pool of connections per process, statements that are compiled once, transactions that end.

SQLAlchemy Core only writes SQL here; psycopg runs it, prepared at its first use. A failure that a caller can
do nothing about but try again (no connection, a lost one, a time-out of the server) is a `Fault` UNAVAILABLE.
A connection that is lost during COMMIT is one: whether the commit happened is not known, and never guessed.
"""

import asyncio
import secrets
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Self, TypeVar

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import JsonbDumper
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from chassis import tracing
from chassis.database_errors import without_rows
from chassis.database_metrics import PoolMetrics, observe_statement
from chassis.errors import Fault, FaultKind
from chassis.statements import Row, Statement, statement

__all__ = ["Database", "Row", "Statement", "Transaction", "statement", "unavailable"]

STATEMENT_TIMEOUT_MS = 5_000
LOCK_TIMEOUT_MS = 3_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_SECONDS = 3
POOL_WAIT_SECONDS = 2.0
POOL_MAX_WAITING = 512
# Short, because the pool doubles its delay while it tries: it gives up, and the next caller starts afresh.
POOL_RECONNECT_SECONDS = 3.0
PREPARED_STATEMENTS_MAX = 500
# So many connections are used again at once, the latest first, instead of in turn with all the others: its
# session's caches are warm, which takes a third off a small statement's time.
WARM_CONNECTIONS = 2
# Every so often one goes to the pool all the same, which replaces those that are too old.
WARM_USES = 1_000
MAX_ATTEMPTS = 6
RETRY_BASE_SECONDS = 0.01
RETRY_AFTER = timedelta(seconds=1)

T = TypeVar("T")
_RETRIABLE = (errors.SerializationFailure, errors.DeadlockDetected)
# OperationalError: lost connections, the pool's errors, shutdowns, full disks, statement and lock time-outs.
_UNAVAILABLE = (
    psycopg.OperationalError,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
    errors.ReadOnlySqlTransaction,
)
_jitter = secrets.SystemRandom()


def unavailable(message: str = "the database cannot be reached") -> Fault:
    """Returns the Fault of a database that is away: the outcome of what was asked is not known; ask again."""
    return Fault(FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", message, retry_after=RETRY_AFTER)


@contextmanager
def _translated() -> Iterator[None]:
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task is not None else 0

    def is_cancelled() -> bool:
        return task is not None and task.cancelling() > cancelled_before

    try:
        yield
    except _RETRIABLE as error:
        message = "too many transactions want the same rows"
        raise Fault(FaultKind.UNAVAILABLE, "DATABASE_CONTENTION", message, retry_after=RETRY_AFTER) from error
    except _UNAVAILABLE as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        raise unavailable() from error
    # psycopg waits with asyncio.wait_for, which before Python 3.12 loses a cancellation that comes in the
    # moment in which the wait ends (CPython issue 86296): who loops over statements would never stop.
    if is_cancelled():
        raise asyncio.CancelledError


class Transaction:
    """An open transaction, READ COMMITTED. It is committed or rolled back by who opened it, nowhere else."""

    def __init__(self, connection: psycopg.AsyncConnection[DictRow]) -> None:
        self._connection = connection

    async def fetch(self, s: Statement, params: Mapping[str, Any]) -> list[Row]:
        """Runs one statement and returns its rows; none for a statement that returns none."""
        return await _fetch(self._connection, s, params)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undoes what is done inside, and only that, where the block raises."""
        async with self._connection.transaction():
            yield


class Database:
    """A pool of connections to one database."""

    def __init__(self, pool: "AsyncConnectionPool[psycopg.AsyncConnection[DictRow]]") -> None:
        self._pool = pool
        self._warm: list[psycopg.AsyncConnection[DictRow]] = []
        self._waiting = 0
        self._uses = 0
        self._closing = False
        self._metrics = PoolMetrics(
            pool.name,
            limit=pool.max_size,
            open_now=lambda: pool.get_stats()["pool_size"],
            in_use=self._in_use,
            waiting=lambda: self._waiting,
        )

    @classmethod
    async def open(
        cls, dsn: str, *, application_name: str, max_size: int = 8, patience_seconds: float | None = None
    ) -> Self:
        """Opens a pool of at most `max_size` connections, without waiting for the database (`ping` does).

        Args:
            dsn: A libpq connection string or URI.
            application_name: What the server shows in pg_stat_activity.
            max_size: Connections at most.
            patience_seconds: The most that the server lets a statement, a wait for a lock, or an idle
                transaction take; None: STATEMENT_TIMEOUT_MS and the like.
        """
        pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]] = AsyncConnectionPool(
            dsn,
            kwargs=_connection_settings(application_name, patience_seconds),
            min_size=min(2, max_size),
            max_size=max_size,
            open=False,
            configure=_configure,
            timeout=POOL_WAIT_SECONDS,
            max_waiting=POOL_MAX_WAITING,
            reconnect_timeout=POOL_RECONNECT_SECONDS,
            name=application_name,
        )
        await pool.open(wait=False)
        return cls(pool)

    async def close(self) -> None:
        """Closes every connection; those in use when they are given back."""
        self._closing = True
        while self._warm:
            await self._pool.putconn(self._warm.pop())
        await self._pool.close()
        self._metrics.forget()

    async def fetch(self, s: Statement, params: Mapping[str, Any]) -> list[Row]:
        """Runs one statement in a transaction of its own, in one round trip, and returns its rows.

        Raises:
            Fault: UNAVAILABLE; a statement that writes may then have been committed, or not.
        """

        async def once() -> list[Row]:
            async with self._connection() as connection:
                return await _fetch(connection, s, params)

        return await _retried(once)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises.

        Raises:
            Fault: UNAVAILABLE; where the block had come to its end, it may have been committed, or not.
        """
        with _translated():
            async with self._begin() as transaction:
                yield transaction

    async def run(self, use_case: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs a use case in a transaction; again, MAX_ATTEMPTS in all, when it had to give way to another.

        Args:
            use_case: Does its work by the transaction alone, so that it can be run again.

        Raises:
            Fault: UNAVAILABLE; what was asked may have been committed, or not.
        """

        async def once() -> T:
            async with self._begin() as transaction:
                return await use_case(transaction)

        return await _retried(once)

    async def ping(self) -> None:
        """Asks the server for a sign of life.

        Raises:
            Fault: UNAVAILABLE.
        """
        await self.fetch(_PING, {})

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        connection = await self._taken()
        # Not by the pool's own `check`, which sleeps between one dead connection and the next.
        for _ in range(self._pool.max_size):
            if not _was_cut(connection):
                break
            self._metrics.lost()
            await connection.close()
            await self._pool.putconn(connection)
            connection = await self._taken()
        try:
            # A constraint may wait for the COMMIT.
            with without_rows():
                yield connection
        finally:
            await self._given_back(connection)

    async def _taken(self) -> psycopg.AsyncConnection[DictRow]:
        if self._warm:
            return self._warm.pop()
        self._waiting += 1
        started = time.perf_counter()
        try:
            return await self._pool.getconn()
        except (PoolTimeout, TooManyRequests):
            self._metrics.timed_out()
            raise
        finally:
            self._waiting -= 1
            self._metrics.waited(time.perf_counter() - started)

    async def _given_back(self, connection: psycopg.AsyncConnection[DictRow]) -> None:
        self._uses += 1
        if (
            connection.pgconn.transaction_status == TransactionStatus.IDLE
            and len(self._warm) < WARM_CONNECTIONS
            and self._uses % WARM_USES
            and not (self._waiting or self._closing)
        ):
            self._warm.append(connection)
        else:
            if connection.closed:
                self._metrics.lost()
            await self._pool.putconn(connection)

    def _in_use(self) -> int:
        stats = self._pool.get_stats()
        return stats["pool_size"] - stats["pool_available"] - len(self._warm)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[Transaction]:
        async with self._connection() as connection, connection.transaction():
            yield Transaction(connection)


_PING = statement("ping", "SELECT 1 AS alive")


async def _fetch(
    connection: psycopg.AsyncConnection[DictRow], s: Statement, params: Mapping[str, Any]
) -> list[Row]:
    started = time.perf_counter()
    try:
        with tracing.statement(s.name), without_rows():
            cursor = await connection.execute(s.sql, s.bind(params))
            return await cursor.fetchall() if cursor.rownumber is not None else []
    finally:
        observe_statement(s.name, time.perf_counter() - started)


async def _retried(once: Callable[[], Awaitable[T]]) -> T:
    with _translated():
        for attempt in range(MAX_ATTEMPTS - 1):
            try:
                return await once()
            except _RETRIABLE:
                await asyncio.sleep(_jitter.uniform(0, RETRY_BASE_SECONDS * 2**attempt))
        return await once()


def _connection_settings(application_name: str, patience_seconds: float | None) -> dict[str, Any]:
    patience_ms = None if patience_seconds is None else int(patience_seconds * 1000)
    # JIT costs more than it gives for statements of a millisecond.
    settings = {
        "jit": "off",
        # Every statement is prepared and has one plan whatever its parameters: planning a big one costs as
        # much as running it.
        "plan_cache_mode": "force_generic_plan",
        # And it is made when the tables may still be empty: a scan of the whole table looks cheap then, and
        # would be kept while they grow, until somebody analyses them. It stays possible without an index.
        "enable_seqscan": "off",
        "statement_timeout": patience_ms or STATEMENT_TIMEOUT_MS,
        "lock_timeout": patience_ms or LOCK_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": patience_ms or IDLE_IN_TRANSACTION_TIMEOUT_MS,
        "default_transaction_isolation": "read\\ committed",
        "timezone": "UTC",
    }
    return {
        "autocommit": True,
        "row_factory": dict_row,
        "prepare_threshold": 0,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        # A peer that vanished without a word is noticed within seconds, not by the kernel's two hours.
        "tcp_user_timeout": STATEMENT_TIMEOUT_MS * 2,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
    }


async def _configure(connection: psycopg.AsyncConnection[DictRow]) -> None:
    # Sent as smallint, int or bigint by its size, an int would make a plan of its own for each of them.
    connection.prepared_max = PREPARED_STATEMENTS_MAX
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_dumper(dict, JsonbDumper)


def _was_cut(connection: psycopg.AsyncConnection[DictRow]) -> bool:
    # An idle connection has nothing to read unless the server closed it: one system call shows it, and
    # saves the callers after a restart of the database an error for each connection of the pool.
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        connection.pgconn.consume_input()  # the server's last words, or a notice
        connection.pgconn.consume_input()  # the end of the stream
    except psycopg.OperationalError:
        return True
    return False
