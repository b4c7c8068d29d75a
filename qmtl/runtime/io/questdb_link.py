# ruff: noqa: S608 - of a statement only the table's name varies, and that is a checked identifier
"""The two wires to a QuestDB server: queries over pooled pgwire, rows by ILP over HTTP."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.questdb_tables import Column, TableState
from qmtl.runtime.sdk.history import QuestDBConnectionError, StoreError, WalLagError, WalSuspendedError

if TYPE_CHECKING:
    import asyncpg
    from questdb import Sender

_SCHEMES = ("questdb", "postgresql", "postgres")
_POOL_SIZE = 8
_CONNECT_S = 5.0
_QUERY_S = 120.0
_REQUEST_MS = 30_000
_POLL_S, _POLL_MAX_S = 0.002, 0.1
_LAG = (
    'SELECT name, suspended, "writerTxn" AS written, "sequencerTxn" AS accepted, "errorMessage" AS reason'
    " FROM wal_tables() WHERE lower(name) IN (lower($1), lower($2))"
)
_COLUMNS = 'SELECT "column", type, "upsertKey" FROM (SHOW COLUMNS FROM "{table}")'
_ABSENT = "table does not exist"
_HAS_WAL = 'SELECT "walEnabled" FROM tables() WHERE lower(table_name) = lower($1)'


class Address(NamedTuple):
    """Where a server is and as whom to log in."""

    host: str
    port: int
    user: str
    password: str
    is_tls: bool = False


class IlpRow(NamedTuple):
    """One line of ILP: symbols, other columns, and microseconds since the epoch."""

    symbols: dict[str, Any]
    columns: dict[str, Any]
    micros: int


def parse_dsn(dsn: str) -> Address:
    """Return where a DSN points: by default `admin:quest` and port 8812; the database is ignored."""
    parts = urlsplit(dsn)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in _SCHEMES or not parts.hostname or port == -1:
        # The text is not shown: it may hold a password.
        raise ValueError("QuestDB DSN: expected postgresql://user:password@host:port/qdb")
    return Address(
        parts.hostname, port or 8812, unquote(parts.username or "admin"), unquote(parts.password or "quest")
    )


def parse_http(url: str, login: Address) -> Address:
    """Return where ILP goes: a URL or host:port, with the login of the DSN."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or 9000
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
        raise ValueError("QuestDB http: expected http://host:port")
    return Address(parts.hostname, port, login.user, login.password, parts.scheme == "https")


class QuestDBLink:
    """Connections to one server, opened when first needed; not bound to an event loop before that.

    A new connection first waits until `tables`, those that exist, have applied what they have accepted: a
    server that was killed answers before it has.
    """

    def __init__(
        self, sql: Address, http: Address, tables: tuple[str, str], wal_timeout_s: float, rng: Random
    ) -> None:
        self.sql = sql
        self.http = http
        self._tables = tables
        self._wal_timeout_s = wal_timeout_s
        # A server takes real time, whatever clock its store is given.
        self._clock: Clock = SystemClock()
        self._rng = rng
        self._pool: asyncpg.Pool[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._sender: Sender | None = None
        self._sending = threading.Lock()

    async def fetch(self, query: str, *values: Any) -> "list[asyncpg.Record]":
        """Return the rows of a query; asked once more when a pooled connection turns out to be dead."""
        with self._reporting():
            return await self._fetch(query, *values)

    async def execute(self, statement: str) -> None:
        """Run one statement that returns nothing."""
        with self._reporting():
            await (await self._ready_pool()).execute(statement)

    async def send(self, table: str, rows: Iterable[IlpRow]) -> None:
        """Write rows of one table as one transaction, and wait until reads see them.

        WalSuspendedError or WalLagError when they do not; the rows are accepted then, and may still come.
        """
        if self._is_closed:
            raise StoreError("the store is closed")
        await asyncio.to_thread(self._send, table, rows)
        await self.wait_applied(table)

    async def describe(self, table: str) -> TableState | None:
        """Return what a table is, None where there is none; StoreError when it has rows and has lost its log.

        Of a table that is there nothing is asked of `tables()`: after a start QuestDB fills it in the
        background, and until then a table may be missing there and be found by every other query.
        """
        started = self._clock.real_ms()
        while True:
            columns = await self._read_columns(table)
            lags = await self.fetch(_LAG, table, table)
            if columns is None and not lags:
                return None
            if columns is not None and lags and lags[0]["accepted"] >= 0:
                return TableState(columns, is_wal=True)
            if columns is not None and (known := await self.fetch(_HAS_WAL, table)):
                if not known[0][0]:
                    return TableState(columns, is_wal=False)
                if not (await self.fetch(f'SELECT count() FROM "{table}"'))[0][0]:
                    return TableState(columns, is_wal=True, is_half_made=True)
                raise StoreError(f'table "{table}" holds rows, and QuestDB cannot read its transaction log')
            if self._clock.real_ms() - started > self._wal_timeout_s * 1000:
                raise StoreError(f'table "{table}" is there, and QuestDB cannot open it')
            await self._clock.sleep(_POLL_MAX_S)

    async def create(self, table: str, statement: str) -> None:
        """Make a table; a half-made one, which is empty and takes no rows, goes first."""
        found = await self.describe(table)
        if found is not None and found.is_half_made:
            # QuestDB drops it and still says that parts of it are missing.
            with suppress(StoreError):
                await self.execute(f'DROP TABLE "{table}"')
        await self.execute(statement)

    async def wait_applied(self, table: str) -> None:
        """Return once everything that the table has accepted so far can be read."""
        if not await self._wait_applied(self.fetch, (table, table)):
            raise StoreError(f'table "{table}" is gone')

    async def _wait_applied(
        self, ask: "Callable[..., Awaitable[list[asyncpg.Record]]]", tables: tuple[str, str]
    ) -> set[str]:
        """Wait for those of `tables` that exist; return the names of those that still do."""
        started = self._clock.real_ms()
        targets: dict[str, int] = {}
        pause = _POLL_S
        while True:
            lags = await ask(_LAG, *tables)
            late = [lag for lag in lags if lag["written"] < targets.setdefault(lag["name"], lag["accepted"])]
            if not late:
                return {lag["name"] for lag in lags}
            for lag in late:
                if lag["suspended"]:
                    raise WalSuspendedError(
                        f'table "{lag["name"]}" is suspended at transaction {lag["written"]} '
                        f"({lag['reason'] or 'no reason given'}); "
                        f'mend the cause and run: ALTER TABLE "{lag["name"]}" RESUME WAL'
                    )
            if self._clock.real_ms() - started > self._wal_timeout_s * 1000:
                raise WalLagError(
                    f'table "{late[0]["name"]}" applied transaction {late[0]["written"]} '
                    f"of {targets[late[0]['name']]} in {self._wal_timeout_s:g} s"
                )
            await self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(2 * pause, _POLL_MAX_S)

    async def aclose(self) -> None:
        """Close the connections; later calls raise StoreError."""
        self._is_closed = True
        await asyncio.to_thread(self._close_idle_sender)
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if self._loop is not asyncio.get_running_loop():
            return  # its loop is over, and its sockets with it
        try:
            await asyncio.wait_for(pool.close(), _CONNECT_S)
        except TimeoutError:
            pool.terminate()

    # --- pgwire -----------------------------------------------------------------------------------

    async def _read_columns(self, table: str) -> list[Column] | None:
        asyncpg = _load("asyncpg")
        with self._reporting():
            try:
                return [Column(*row) for row in await self._fetch(_COLUMNS.format(table=table))]
            except asyncpg.PostgresError as error:
                if _ABSENT in str(error):
                    return None
                raise

    async def _fetch(self, query: str, *values: Any) -> "list[asyncpg.Record]":
        pool = await self._ready_pool()
        try:
            return await pool.fetch(query, *values)
        except _dropped():
            return await pool.fetch(query, *values)

    async def _catch_up(self, connection: "asyncpg.Connection[Any]") -> None:
        await self._wait_applied(connection.fetch, self._tables)

    async def _ready_pool(self) -> "asyncpg.Pool[Any]":
        if self._is_closed:
            raise StoreError("the store is closed")
        loop = asyncio.get_running_loop()
        if self._pool is None or self._loop is not loop:
            asyncpg = _load("asyncpg")
            self._loop = loop
            # With no connection to open at once this does not give way to another task.
            self._pool = await asyncpg.create_pool(
                host=self.sql.host,
                port=self.sql.port,
                user=self.sql.user,
                password=self.sql.password,
                database="qdb",
                ssl=False,
                min_size=0,
                max_size=_POOL_SIZE,
                timeout=_CONNECT_S,
                command_timeout=_QUERY_S,
                init=self._catch_up,
                reset=_keep,
            )
        return self._pool

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        asyncpg = _load("asyncpg")
        try:
            yield
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError, *_dropped()) as error:
            self._unreachable(self.sql, _reason(error), error)
        except asyncpg.PostgresError as error:
            raise StoreError(f"QuestDB at {self.sql.host}:{self.sql.port}: {error}") from error

    # --- ILP --------------------------------------------------------------------------------------

    def _send(self, table: str, rows: Iterable[IlpRow]) -> None:
        questdb = _load("questdb")
        codes = questdb.QuestDBErrorCode
        with self._sending:
            is_used = self._sender is not None
            try:
                sender = self._sender or self._open_sender(questdb)
                buffer = sender.new_buffer()
                for symbols, columns, at in rows:
                    buffer.row(table, symbols=symbols, columns=columns, at=questdb.TimestampMicros(at))
                try:
                    sender.flush(buffer, clear=False, transactional=True)
                except questdb.QuestDBError as error:
                    if not is_used or error.code != codes.SocketError:
                        raise
                    # An idle connection was closed, or the server restarted; an upsert may come twice.
                    self._close_sender()
                    self._open_sender(questdb).flush(buffer, transactional=True)
            except questdb.QuestDBError as error:
                self._close_sender()
                text = str(error).removeprefix("Could not flush buffer: ")
                if error.code in {codes.SocketError, codes.CouldNotResolveAddr, codes.TlsError}:
                    self._unreachable(self.http, text.rpartition(": ")[2], error)
                at_http = f"{self.http.host}:{self.http.port}"
                raise StoreError(f'QuestDB at {at_http}, table "{table}": {text}') from error

    def _open_sender(self, questdb: Any) -> "Sender":
        questdb.WARN_HIGH_RECONNECTS = False  # a new connection after every failure is meant
        protocol = questdb.Protocol.Https if self.http.is_tls else questdb.Protocol.Http
        # Who writes decides about resends: none in here.
        sender: Sender = questdb.Sender(
            protocol,
            self.http.host,
            self.http.port,
            username=self.http.user,
            password=self.http.password,
            protocol_version=1,
            auto_flush=False,
            retry_timeout=0,
            request_timeout=_REQUEST_MS,
        )
        sender.establish()  # type: ignore[no-untyped-call]  # of a third party
        self._sender = sender
        return sender

    def _close_idle_sender(self) -> None:
        with self._sending:
            self._close_sender()

    def _close_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close(flush=False)

    def _unreachable(self, at: Address, reason: str, cause: Exception) -> NoReturn:
        if self._is_closed:
            raise StoreError("the store is closed") from cause
        raise QuestDBConnectionError(
            f"cannot reach QuestDB at {at.host}:{at.port}: {reason}; "
            "check the DSN and that the server is running"
        ) from cause


async def _keep(connection: Any) -> None:
    """Leave a connection as it is: QuestDB has no session state that a reset would clear."""


def _load(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise RuntimeError(
            f"{name} is required for QuestDBStore; run: uv pip install -e .[questdb]"
        ) from None


def _dropped() -> tuple[type[Exception], ...]:
    asyncpg = _load("asyncpg")
    return (
        ConnectionResetError,
        BrokenPipeError,
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # lost while a query was being sent
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text repeats the address
    return str(error) or type(error).__name__
