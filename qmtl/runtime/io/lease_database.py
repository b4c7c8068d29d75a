"""The two databases leases live in, behind one way of running a transaction.

A transaction is a generator: it yields (SQL, arguments), is sent the rows, and returns its result. So what a
lease is stands once, in `leases`, whichever database keeps it. SQL is the part both speak: `?` for an
argument, `{now}` for the database's time in milliseconds, `{lock}` behind a SELECT whose row stays ours until
the commit.
"""

import asyncio
import itertools
import re
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qmtl.engine.owner import find_network_file_system
from qmtl.runtime.io.sqlite_wal import enter_wal
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.history import StoreBusyError, StoreError

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")
Script = Generator[tuple[str, tuple[Any, ...]], Any, T]

_BUSY_S = 30.0
_ASK_S = 10.0
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS qmtl_lease_fences (
        node_id TEXT NOT NULL, interval_s BIGINT NOT NULL, fence BIGINT NOT NULL,
        PRIMARY KEY (node_id, interval_s))""",
    """CREATE TABLE IF NOT EXISTS qmtl_leases (
        token TEXT NOT NULL PRIMARY KEY, node_id TEXT NOT NULL, interval_s BIGINT NOT NULL,
        start_s BIGINT NOT NULL, end_s BIGINT NOT NULL, fence BIGINT NOT NULL,
        owner TEXT NOT NULL, world_id TEXT, state TEXT NOT NULL, lease_until_ms BIGINT NOT NULL,
        completion_ratio DOUBLE PRECISION NOT NULL, reason TEXT)""",
    """CREATE INDEX IF NOT EXISTS qmtl_leases_of_series
        ON qmtl_leases (node_id, interval_s, state, lease_until_ms)""",
)


class LeaseDatabase(Protocol):
    """Runs transactions, one after the other where they touch the same row."""

    backend: str

    async def run(self, script: Callable[[], Script[T]], *, is_write: bool = True) -> T:
        """Run one transaction to its commit; whatever the script raises rolls back. StoreError otherwise."""

    async def aclose(self) -> None:
        """Release connections."""


def open_database(dsn: str | Path) -> LeaseDatabase:
    """Return the database of a DSN, or of a path to an SQLite file; nothing is opened yet.

    `sqlite:///relative`, `sqlite:////absolute`, `postgresql://…`; else ValueError.
    """
    if isinstance(dsn, Path):
        return SqliteDatabase(dsn)
    scheme, separator, rest = dsn.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteDatabase(Path(rest[1:]).expanduser())
    if scheme == "postgresql" and separator and rest:
        return PostgresDatabase(dsn)
    raise ValueError(f"leases: expected sqlite:///PATH or postgresql://…, found {scheme}://")


class SqliteDatabase:
    """One SQLite file, in WAL mode with every commit on disk; used from a thread of its own."""

    backend = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None

    async def run(self, script: Callable[[], Script[T]], *, is_write: bool = True) -> T:
        """See LeaseDatabase; StoreBusyError when another process kept the file for 30 s."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="qmtl-leases")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, script, is_write)

    def _run(self, script: Callable[[], Script[T]], is_write: bool) -> T:  # noqa: FBT001 - run_in_executor
        try:
            if self._db is None:
                self._db = self._open()
            self._db.execute("BEGIN IMMEDIATE" if is_write else "BEGIN")
            try:
                result = self._drive(self._db, script())
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            return result
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise StoreBusyError(f"{self.path}: another process keeps it busy") from error
            raise StoreError(f"{self.path}: {error}") from error

    @staticmethod
    def _drive(db: sqlite3.Connection, script: Script[T]) -> T:
        rows: Any = None
        while True:
            try:
                sql, arguments = script.send(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            rows = db.execute(_for_sqlite(sql), arguments).fetchall()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kind = find_network_file_system(self.path)
        if kind is not None:
            raise StoreError(f"{self.path}: is on a network file system ({kind}); leases need a local disk")
        db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            enter_wal(db)
            db.execute("PRAGMA synchronous=FULL")
            for statement in SCHEMA:
                db.execute(statement)
        except sqlite3.Error:
            db.close()
            raise
        return db

    async def aclose(self) -> None:
        """See LeaseDatabase."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class PostgresDatabase:
    """A PostgreSQL database; its connections live on the background loop, so that any loop may ask."""

    backend = "postgresql"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool[Any] | None = None

    async def run(self, script: Callable[[], Script[T]], *, is_write: bool = True) -> T:
        """See LeaseDatabase."""
        return await asyncio.wrap_future(BACKGROUND.start(self._run(script, is_write=is_write)))

    async def _run(self, script: Callable[[], Script[T]], *, is_write: bool) -> T:
        asyncpg = _load_asyncpg()
        try:
            pool = await self._open()
            # Whatever the server's default: what is read after a lock must be what was committed before it.
            async with (
                pool.acquire(timeout=_ASK_S) as connection,
                connection.transaction(isolation="read_committed", readonly=not is_write),
            ):
                return await self._drive(connection, script())
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            # A connection that is lost at the wrong moment.
            asyncpg.InternalClientError,
            OSError,
        ) as error:
            raise StoreError(f"PostgreSQL of the leases: {error or type(error).__name__}") from error

    @staticmethod
    async def _drive(connection: Any, script: Script[T]) -> T:
        rows: Any = None
        while True:
            try:
                sql, arguments = script.send(rows)
            except StopIteration as stop:
                result: T = stop.value
                return result
            rows = await connection.fetch(_for_postgres(sql), *arguments)

    async def _open(self) -> "asyncpg.Pool[Any]":
        async with self._opening:
            if self._pool is None:
                pool = await _load_asyncpg().create_pool(
                    self._dsn, min_size=0, max_size=4, timeout=_ASK_S, command_timeout=_ASK_S
                )
                async with pool.acquire() as connection, connection.transaction():
                    # Two that create the same table at once would collide in the system's own tables.
                    await connection.execute("SELECT pg_advisory_xact_lock(7163020926)")
                    for statement in SCHEMA:
                        await connection.execute(statement)
                self._pool = pool
            return self._pool

    async def aclose(self) -> None:
        """See LeaseDatabase."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.wrap_future(BACKGROUND.start(pool.close()))


@cache
def _for_sqlite(sql: str) -> str:
    now = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
    return sql.format(now=now, lock="")


@cache
def _for_postgres(sql: str) -> str:
    now = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
    number = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(number)}", sql.format(now=now, lock="FOR UPDATE"))


def _load_asyncpg() -> Any:
    try:
        import asyncpg
    except ImportError:
        raise StoreError(
            "asyncpg is required for leases in PostgreSQL; run: uv pip install -e .[postgres]"
        ) from None
    return asyncpg
