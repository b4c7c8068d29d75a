# ruff: noqa: S608 - of a statement only the table's name varies, and that is a checked identifier
"""History in QuestDB: rows by ILP, queries by pgwire, coverage in a table beside the rows."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, cast

from qmtl.core.ranges import Range, clip_ranges, merge_ranges
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.coverage_log import FENCE, Mark, lay_marks, settle_marks
from qmtl.runtime.io.questdb_link import IlpRow, QuestDBLink, parse_dsn, parse_http
from qmtl.runtime.io.questdb_tables import (
    BARS,
    COVERAGE,
    TRADES,
    TableShape,
    check_table,
    coverage_table,
    create_statement,
)
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.history import (
    CoverageKind,
    CoverageSpan,
    Environment,
    SeriesKey,
    StaleFenceError,
    StoreEnvironmentError,
)
from qmtl.runtime.sdk.history_frame import check_frame, check_range, frame_schema, resolve_series
from qmtl.runtime.sdk.lease_keeper import confirm_lease

if TYPE_CHECKING:
    import polars as pl

_BATCH_ROWS = 50_000
_EMPTY_FOR_S = 86_400
_END_OF_TIME_S = 253_402_300_799  # the last second of year 9999
_ENVIRONMENTS = ("production", "test")
_THE_STORE = SeriesKey("store", 0)
"""The marks of this series say whose rows the table holds; no node id is spelled like it."""
_WITHIN = "node_id = $1 AND ts >= $2 AND ts < $3"
_BARS_QUERY = (
    'SELECT cast(ts AS long) / 1000000 AS ts, open, high, low, close, volume FROM "{table}"'
    f" WHERE {_WITHIN} AND interval_s = $4 ORDER BY ts"
)
_TRADES_QUERY = (
    "SELECT cast(ts AS long) / 1000000 AS s, cast(ts AS long) / 1000 AS ts_ms, trade_id, price, amount, side"
    f' FROM "{{table}}" WHERE {_WITHIN} ORDER BY ts'
)
_MARKS_QUERY = (
    'SELECT cast(ts AS long) / 1000000 AS ts, end_s, kind, checked_s FROM "{table}"'
    " WHERE node_id = $1 AND interval_s = $2"
)
_COVERAGE_QUERY = f"{_MARKS_QUERY} AND kind != '{FENCE}'"
# Of fences there is one for each lease there was: only those that matter are fetched.
_FENCES_QUERY = f"{_MARKS_QUERY} AND kind = '{FENCE}' AND ts < $3 AND end_s > $4"


class QuestDBStore:
    """A HistoryStore in a QuestDB server; bars and trades each want a table of their own.

    `dsn` is `postgresql://user:password@host:port` or the same with `questdb://`, by default `admin:quest`
    and 8812; ILP goes to `http`, by default `seamless.questdb_http`, else port 9000 of the host. Tables are
    made at the first write. When `write` returns, its rows and its coverage can be read. Coverage and fences
    are one table of upserted marks (`coverage_log`): several processes may write one series under leases;
    without, two that write at the same moment may leave coverage that says too little, never too much.

    InvalidIdentifierError for a table name, ValueError for an address; StoreSchemaError, WalLagError,
    WalSuspendedError and QuestDBConnectionError when used.
    """

    def __init__(
        self,
        dsn: str,
        *,
        table: str = "ohlcv",
        http: str | None = None,
        wal_timeout_s: float = 10,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        """Name the place; nothing is contacted before it is needed."""
        self.environment: Environment | None = None
        self.table = table
        self._marks_table = coverage_table(table)
        self._address = parse_dsn(dsn)
        if http is not None:
            parse_http(http, self._address)
        self._http = http
        self._wal_timeout_s = wal_timeout_s
        self._clock = clock or SystemClock()
        self._rng: Random = rng or SystemRandom()
        self._wire: QuestDBLink | None = None
        self._shapes: dict[str, TableShape] = {}
        self._recorded: str | None = None
        self._locks: dict[SeriesKey, asyncio.Lock] = {}
        self._making = asyncio.Lock()

    @property
    def place(self) -> str:
        """Which rows these are, whoever opened them: server and table, without credentials."""
        return f"{self._address.host}:{self._address.port}/{self.table}"

    async def read(self, key: SeriesKey, start: int, end: int) -> "pl.DataFrame":
        """See HistoryStore."""
        import polars as pl

        check_range(start, end)
        is_bars = resolve_series(key).kind == "ohlcv"
        schema = frame_schema(key)
        if start == end or not await self._look_up(self.table, BARS if is_bars else TRADES):
            await self._check_environment()
            return pl.DataFrame(schema=schema)
        await self._check_environment()
        values = [key.node_id, _moment(start), _moment(end), *([key.interval] if is_bars else [])]
        query = (_BARS_QUERY if is_bars else _TRADES_QUERY).format(table=self.table)
        found = await self._link.fetch(query, *values)
        columns = {
            name: pl.Series(name, [row[at] for row in found], dtype=kind)
            for at, (name, kind) in enumerate(schema.items())
        }
        frame = pl.DataFrame(columns)
        return frame if is_bars else frame.sort("ts_ms", "id")

    async def write(
        self,
        key: SeriesKey,
        frame: "pl.DataFrame",
        *,
        covered: Sequence[Range],
        provisional: bool = False,
        fence: int | None = None,
    ) -> int:
        """See HistoryStore; with a fence the lease at work is confirmed before each batch of 50,000 rows.

        Rows that were sent before an error are stored and not covered.
        """
        rows = check_frame(key, frame)
        ranges = _check_ranges(covered)
        await self._prepare(key)
        touched = ranges
        if rows.height:
            touched = merge_ranges([*ranges, (rows["ts"][0], rows["ts"][-1] + key.interval)])
        if fence is not None:
            await self._check_fence(key, touched, fence)
        as_lines = _bar_lines if resolve_series(key).kind == "ohlcv" else _trade_lines
        for part in rows.iter_slices(_BATCH_ROWS):
            if fence is not None:
                await confirm_lease()
            await self._link.send(self.table, as_lines(key, part))
        await self._lay(key, ranges, "young" if provisional else "rows", fence, touched)
        return rows.height

    async def mark_empty(self, key: SeriesKey, ranges: Sequence[Range], *, permanent: bool) -> None:
        """See HistoryStore; what holds rows stays `rows`, and what is empty for good stays so."""
        resolve_series(key)
        empty = _check_ranges(ranges)
        await self._prepare(key)
        await self._lay(key, empty, "empty" if permanent else "empty_24h")

    async def coverage(self, key: SeriesKey, *, now: int | None = None) -> list[CoverageSpan]:
        """See HistoryStore; `now` None is the clock's."""
        resolve_series(key)
        await self._check_environment()
        at = self._clock.now_ms() // 1000 if now is None else now
        valid: list[CoverageSpan] = []
        for mark in settle_marks(await self._read_marks(key)):
            if mark.kind == "empty_24h" and at >= mark.stamp + _EMPTY_FOR_S:
                continue
            kind = cast("CoverageKind", mark.kind)
            if valid and (valid[-1].end, valid[-1].kind) == (mark.start, kind):
                valid[-1] = valid[-1]._replace(end=mark.end)
            else:
                valid.append(CoverageSpan(mark.start, mark.end, kind))
        return valid

    async def series(self) -> list[SeriesKey]:
        """Return every series the store knows, sorted."""
        if not await self._look_up(self._marks_table, COVERAGE):
            return []
        query = f'SELECT DISTINCT node_id, interval_s FROM "{self._marks_table}"'
        found = await self._link.fetch(query)
        return sorted(SeriesKey(*row) for row in found if tuple(row) != _THE_STORE)

    async def aclose(self) -> None:
        """Release the connections; closing twice is closing once, later calls raise StoreError."""
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        """Use it in a block."""
        return self

    async def __aexit__(self, *details: object) -> None:
        """Close at the end of the block."""
        await self.aclose()

    # --- tables -----------------------------------------------------------------------------------

    @property
    def _link(self) -> QuestDBLink:
        if self._wire is None:
            http = (
                self._http
                or runtime.settings().seamless.questdb_http
                or f"{_in_url(self._address.host)}:9000"
            )
            at = parse_http(http, self._address)
            tables = (self.table, self._marks_table)
            self._wire = QuestDBLink(self._address, at, tables, self._wal_timeout_s, self._rng)
        return self._wire

    async def _look_up(self, table: str, shape: TableShape) -> bool:
        """Tell whether a table exists; StoreSchemaError when it is not of `shape`."""
        if self._shapes.get(table) is shape:
            return True
        found = await self._link.describe(table)
        if found is None or found.is_half_made:
            return False
        check_table(table, shape, found.columns, is_wal=found.is_wal)
        self._shapes[table] = shape
        return True

    async def _prepare(self, key: SeriesKey) -> None:
        """Make the tables where they are missing, and record whose rows they hold."""
        shape = BARS if resolve_series(key).kind == "ohlcv" else TRADES
        # One at a time: what is half-made is dropped once.
        async with self._making:
            for table, wanted in ((self.table, shape), (self._marks_table, COVERAGE)):
                if not await self._look_up(table, wanted):
                    await self._link.create(table, create_statement(table, wanted))
                    await self._look_up(table, wanted)
        await self._check_environment()
        if self._recorded is None:
            kind = self.environment or "production"
            await self._send_marks(_THE_STORE, [Mark(0, 0, kind, self._clock.now_ms() // 1000)])
            # Another process may have done the same at this moment.
            await self._check_environment()

    async def _check_environment(self) -> None:
        if self._recorded is None:
            kinds = {mark.kind for mark in await self._read_marks(_THE_STORE)}
            self._recorded = " and ".join(sorted(kinds)) or None
        if self._recorded not in {None, self.environment or self._recorded}:
            raise StoreEnvironmentError(
                f'table "{self.table}" holds {self._recorded} data; '
                f"{self.environment} data does not go into it"
            )

    # --- coverage ---------------------------------------------------------------------------------

    async def _lay(
        self,
        key: SeriesKey,
        ranges: Sequence[Range],
        kind: str,
        fence: int | None = None,
        touched: Sequence[Range] = (),
    ) -> None:
        # Marks are read, laid over and written back: one at a time within the process.
        async with self._locks.setdefault(key, asyncio.Lock()):
            marks = await self._read_marks(key)
            added = lay_marks(marks, ranges, kind, self._clock.now_ms() // 1000)
            if fence is not None:
                fences = await self._check_fence(key, touched, fence)
                added += lay_marks(fences, touched, FENCE, fence)
                await confirm_lease()
            if added:
                await self._send_marks(key, added)

    async def _check_fence(self, key: SeriesKey, touched: Sequence[Range], fence: int) -> list[Mark]:
        """Return the fences seen for `touched` and around; StaleFenceError when one is higher."""
        if not touched:
            return []
        query = _FENCES_QUERY.format(table=self._marks_table)
        found = await self._link.fetch(query, *key, _moment(touched[-1][1]), touched[0][0])
        fences = [Mark(*row) for row in found]
        for seen in settle_marks(fences):
            if seen.stamp > fence and (here := clip_ranges(touched, seen.start, seen.end)):
                raise StaleFenceError(
                    f"{key.node_id}: fence {fence} for [{here[0][0]}, {here[0][1]}) is stale: "
                    f"[{seen.start}, {seen.end}) was written with {seen.stamp}"
                )
        return fences

    async def _read_marks(self, key: SeriesKey) -> list[Mark]:
        if not await self._look_up(self._marks_table, COVERAGE):
            return []
        query = _COVERAGE_QUERY.format(table=self._marks_table)
        return [Mark(*row) for row in await self._link.fetch(query, *key)]

    async def _send_marks(self, key: SeriesKey, marks: Sequence[Mark]) -> None:
        lines = [
            IlpRow(
                {"node_id": key.node_id, "kind": mark.kind},
                {"interval_s": key.interval, "end_s": mark.end, "checked_s": mark.stamp},
                mark.start * 1_000_000,
            )
            for mark in marks
        ]
        await self._link.send(self._marks_table, lines)


def _bar_lines(key: SeriesKey, rows: "pl.DataFrame") -> Iterator[IlpRow]:
    name = {"node_id": key.node_id}
    for ts, opened, high, low, close, volume in rows.iter_rows():
        values = {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
        yield IlpRow(name, {"interval_s": key.interval, **values}, ts * 1_000_000)


def _trade_lines(key: SeriesKey, rows: "pl.DataFrame") -> Iterator[IlpRow]:
    for _, ts_ms, name, price, amount, side in rows.iter_rows():
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        columns: dict[str, Any] = {
            "trade_id": name,
            "trade_key": int.from_bytes(digest, "little", signed=True),
            "price": price,
            "amount": amount,
        }
        yield IlpRow({"node_id": key.node_id, "side": side}, columns, ts_ms * 1000)


def _check_ranges(ranges: Sequence[Range]) -> list[Range]:
    for start, end in ranges:
        check_range(start, end)
    return merge_ranges(ranges)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _moment(second: int) -> datetime:
    """Return a time as QuestDB's pgwire takes it: UTC, and not saying so."""
    return datetime.fromtimestamp(min(second, _END_OF_TIME_S), UTC).replace(tzinfo=None)
