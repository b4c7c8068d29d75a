# ruff: noqa: S608 - statements are put together from names of this file, values are bound
"""The catalogue of an embedded store: which segments there are, what is covered, which fences were seen."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from qmtl.core.ranges import Range
from qmtl.runtime.io.segment_file import LONGEST_PERIOD_S, Segment
from qmtl.runtime.io.span_overlay import Span, overlay_spans
from qmtl.runtime.io.sqlite_wal import enter_wal
from qmtl.runtime.sdk.history import CoverageKind, SeriesKey, StaleFenceError, StoreBusyError, StoreError

SCHEMA_VERSION = 1
_BUSY_MS = 30_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series(
  id INTEGER PRIMARY KEY, node_id TEXT NOT NULL, interval_s INTEGER NOT NULL, UNIQUE(node_id, interval_s));
CREATE TABLE IF NOT EXISTS segments(
  series INTEGER NOT NULL, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, file TEXT NOT NULL,
  first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL,
  digest BLOB NOT NULL, PRIMARY KEY(series, start_s)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coverage(
  series INTEGER NOT NULL, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, kind TEXT NOT NULL,
  checked_s INTEGER NOT NULL, PRIMARY KEY(series, start_s)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fences(
  series INTEGER NOT NULL, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, fence INTEGER NOT NULL,
  PRIMARY KEY(series, start_s)) WITHOUT ROWID;
"""
_SERIES = "(SELECT id FROM series WHERE node_id = ? AND interval_s = ?)"
_SEGMENT = "start_s, end_s, file, first_ts, last_ts, rows, size, digest"
_NOTHING = ("",)
_LABELS = {"coverage": "kind, checked_s", "fences": "fence"}


def _near(table: str, series: str) -> str:
    """Return the condition for spans of a table near a range.

    Values: the series twice, the start of the range, the latest start and the earliest end of the spans that
    are wanted. Spans are disjoint: none before the last that starts by the range's start can reach it, so
    the index finds them without a scan.
    """
    earliest = f"SELECT max(start_s) FROM {table} WHERE series = {series} AND start_s <= ?"
    return f"series = {series} AND start_s >= coalesce(({earliest}), 0) AND start_s <= ? AND end_s >= ?"


class SegmentCatalogue:
    """Reads are single statements, each one moment of the catalogue; changes are one transaction each.

    One connection, used under a lock by whichever thread comes.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self._read_only = read_only
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._is_closed = False

    def find_segments(self, key: SeriesKey, start: int, end: int) -> list[Segment]:
        """Return the segments of a series that hold rows of [start, end), ascending."""
        query = f"SELECT {_SEGMENT} FROM segments WHERE series = {_SERIES}"
        # The lower bound of start_s is the index's: of years of hours only the last are looked at.
        query += " AND start_s > ? AND start_s < ? AND end_s > ? AND first_ts < ? AND last_ts >= ?"
        bounds = (start - LONGEST_PERIOD_S, end, start, end, start)
        return [Segment(*row) for row in self._rows(f"{query} ORDER BY start_s", (*key, *bounds))]

    def list_series(self) -> list[SeriesKey]:
        """Return every series that has rows or coverage, sorted."""
        return [
            SeriesKey(*row)
            for row in self._rows("SELECT node_id, interval_s FROM series ORDER BY node_id, interval_s")
        ]

    def list_segments(self) -> list[tuple[SeriesKey, Segment]]:
        """Return every segment with its series, sorted."""
        query = f"SELECT node_id, interval_s, {_SEGMENT} FROM segments JOIN series ON id = series"
        rows = self._rows(f"{query} ORDER BY node_id, interval_s, start_s")
        return [(SeriesKey(*row[:2]), Segment(*row[2:])) for row in rows]

    def read_coverage(self, key: SeriesKey) -> list[tuple[int, int, CoverageKind, int]]:
        """Return (start, end, kind, time of the check) of a series' coverage, sorted and disjoint."""
        columns = "start_s, end_s, kind, checked_s"
        return self._rows(f"SELECT {columns} FROM coverage WHERE series = {_SERIES} ORDER BY start_s", key)

    def read_meta(self, name: str) -> str | None:
        """Return a fact about the store, None when it was never set."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (name,))
        return str(rows[0][0]) if rows else None

    def check_fence(self, key: SeriesKey, ranges: Sequence[Range], fence: int) -> None:
        """Raise StaleFenceError when a higher fence was seen for an overlapping range."""
        query = f"SELECT start_s, end_s, fence FROM fences WHERE {_near('fences', _SERIES)}"
        for start, end in ranges:
            bounds = (start, end - 1, start + 1)
            for seen_start, seen_end, seen in self._rows(query, (*key, *key, *bounds)):
                if seen > fence:
                    raise StaleFenceError(
                        f"{key.node_id}: fence {fence} for [{start}, {end}) is stale: "
                        f"[{seen_start}, {seen_end}) was written with {seen}"
                    )

    @contextmanager
    def change(self) -> Iterator["CatalogueChange"]:
        """Commit what the block changes as one, durably; an error inside leaves all as it was."""
        with self._lock, self._reporting():
            db = self._db or self._connect("rwc")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield CatalogueChange(db)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def create(self) -> None:
        """Make the file and its tables where they are missing."""
        with self._lock, self._reporting():
            if self._db is None:
                self._connect("rwc")

    def close(self) -> None:
        """Close the connection; later calls raise StoreError."""
        with self._lock:
            self._is_closed = True
            if self._db is not None:
                self._db.close()
                self._db = None

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._reporting():
            if self._db is None and not self._is_there():
                return []
            # Also a reader may have to finish what a killed writer began, so it opens the file for writing;
            # where the system forbids that, SQLite falls back to reading.
            db = self._db or self._connect("rw")
            return db.execute(query, values).fetchall()

    def _is_there(self) -> bool:
        # A store that nobody wrote to yet reads as empty, and reading does not create it.
        if self._is_closed or not self.path.exists():
            return self._is_closed
        with closing(self._dial("rw")) as db:
            return bool(db.execute("PRAGMA user_version").fetchone()[0])

    def _connect(self, mode: str) -> sqlite3.Connection:
        if self._is_closed:
            raise StoreError(f"{self.path.parent}: the store is closed")
        db = self._dial(mode)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreError(f"{self.path}: is of a newer program (schema {version})")
            if version < SCHEMA_VERSION:
                enter_wal(db)
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT")
            db.execute("PRAGMA synchronous=FULL")
            if self._read_only:
                db.execute("PRAGMA query_only=ON")
        except (sqlite3.Error, StoreError):
            db.close()
            raise
        self._db = db
        return db

    def _dial(self, mode: str) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        wait_s = _BUSY_MS / 1000
        return sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, timeout=wait_s
        )

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            kind = StoreBusyError if code == sqlite3.SQLITE_BUSY else StoreError
            raise kind(f"{self.path}: {error}") from error


class CatalogueChange:
    """What one transaction may do."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Work on an open transaction."""
        self._db = db

    def set_meta(self, name: str, value: str) -> None:
        """Record a fact about the store."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def add_series(self, key: SeriesKey) -> int:
        """Return the number of a series, giving it one when it is new."""
        self._db.execute("INSERT OR IGNORE INTO series(node_id, interval_s) VALUES (?, ?)", key)
        return int(self._db.execute(f"SELECT {_SERIES}", key).fetchone()[0])

    def put_segments(self, series: int, segments: Sequence[Segment]) -> None:
        """Let segments take the place of those of their periods."""
        row = "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.executemany(row, [(series, *segment) for segment in segments])

    def lay(
        self,
        table: str,
        series: int,
        ranges: Sequence[Range],
        label: tuple[str | int, ...],
        below: Sequence[str] = (),
    ) -> None:
        """Lay ranges with a label over the spans of `coverage` or `fences`; see `overlay_spans`."""
        if not ranges:
            return
        after = overlay_spans(self._take(table, series, ranges), ranges, label, below=below)
        self._put(table, series, after)

    def forget(self, series: int, periods: Sequence[Range]) -> None:
        """Drop the segments of periods and what is said of them."""
        for start, end in periods:
            where = "series = ? AND start_s >= ? AND end_s <= ?"
            self._db.execute(f"DELETE FROM segments WHERE {where}", (series, start, end))
            before = self._take("coverage", series, [(start, end)])
            left = overlay_spans(before, [(start, end)], _NOTHING)
            self._put("coverage", series, [span for span in left if span.label != _NOTHING])

    def _take(self, table: str, series: int, ranges: Sequence[Range]) -> list[Span]:
        """Remove and return the spans that ranges overlap or touch: those that touch may be joined."""
        first, last = min(start for start, _ in ranges), max(end for _, end in ranges)
        where, values = _near(table, "?"), (series, series, first, last, first)
        rows = self._db.execute(f"SELECT start_s, end_s, {_LABELS[table]} FROM {table} WHERE {where}", values)
        spans = [Span(row[0], row[1], row[2:]) for row in rows]
        self._db.execute(f"DELETE FROM {table} WHERE {where}", values)
        return spans

    def _put(self, table: str, series: int, spans: Sequence[Span]) -> None:
        for span in spans:
            marks = ", ".join("?" * (3 + len(span.label)))
            self._db.execute(
                f"INSERT INTO {table} VALUES ({marks})", (series, span.start, span.end, *span.label)
            )

    def clear(self) -> None:
        """Forget every series, and whose they were; numbers of files are never used again."""
        for table in ("segments", "coverage", "fences", "series"):
            self._db.execute(f"DELETE FROM {table}")
        self._db.execute("DELETE FROM meta WHERE key = 'environment'")
