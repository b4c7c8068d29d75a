"""Ways to keep candles on this machine, behind one shape: the peers of `bench.history_stores`.

Each keeps one series of one-minute bars in a folder of its own, is durable when a write returns, and updates
a row that is written again.
"""

import asyncio
import io
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import duckdb
import polars as pl

from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.sdk.history import HistoryStore, SeriesKey
from tests.servers import QuestDBServer

KEY = SeriesKey("ohlcv:binance:BTC/USDT:1m", 60)
COLUMNS = ("ts", "open", "high", "low", "close", "volume")
_TYPES = "ts BIGINT, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE"
_NAMES = ", ".join(COLUMNS)
_RANGE = f"SELECT {_NAMES} FROM bars WHERE series = 1 AND ts >= ? AND ts < ? ORDER BY ts"


class Peer(Protocol):
    """One way to keep bars."""

    def write(self, frame: pl.DataFrame) -> None:
        """Store rows; they are on disk when this returns."""

    def read(self, start: int, end: int) -> pl.DataFrame:
        """Return the rows of [start, end), ascending."""

    def settle(self) -> None:
        """Do what the peer does by itself when it has time: reads of settled data follow."""

    def close(self) -> None:
        """Release files and connections."""


class StorePeer:
    """A HistoryStore of ours, asked as a program asks it: one awaited call after the other."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._loop = asyncio.new_event_loop()

    def write(self, frame: pl.DataFrame) -> None:
        """See Peer."""
        covered = [(int(frame["ts"][0]), int(frame["ts"][-1]) + KEY.interval)]
        self._loop.run_until_complete(self._store.write(KEY, frame, covered=covered))

    def read(self, start: int, end: int) -> pl.DataFrame:
        """See Peer."""
        return self._loop.run_until_complete(self._store.read(KEY, start, end))

    def settle(self) -> None:
        """See Peer."""

    def close(self) -> None:
        """See Peer."""
        self._loop.run_until_complete(self._store.aclose())
        self._loop.close()


class EmbeddedPeer(StorePeer):
    """The embedded store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(EmbeddedStore(folder / "store"))


class QuestDBPeer(StorePeer):
    """A table of its own in a running QuestDB; what the server keeps is not in the folder."""

    def __init__(self, server: QuestDBServer, folder: Path) -> None:
        table = "bars_" + "".join(letter for letter in folder.name.lower() if letter.isalnum())
        super().__init__(QuestDBStore(server.dsn, table=table, http=server.http))


class SqlitePeer:
    """A table in SQLite: WAL, synchronous=FULL, primary key (series, ts)."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "bars.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"CREATE TABLE bars(series INT, {_TYPES}, PRIMARY KEY(series, ts)) WITHOUT ROWID")

    def write(self, frame: pl.DataFrame) -> None:
        """See Peer."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR REPLACE INTO bars VALUES (1, ?, ?, ?, ?, ?, ?)", frame.rows())
        self._db.execute("COMMIT")

    def read(self, start: int, end: int) -> pl.DataFrame:
        """See Peer."""
        rows = self._db.execute(_RANGE, (start, end)).fetchall()
        return pl.DataFrame(rows, schema=list(COLUMNS), orient="row")

    def settle(self) -> None:
        """See Peer."""

    def close(self) -> None:
        """See Peer."""
        self._db.close()


class DuckPeer:
    """A table in DuckDB with primary key (series, ts); results come as Arrow."""

    def __init__(self, folder: Path) -> None:
        self._db = duckdb.connect(str(folder / "bars.duckdb"))
        self._db.execute(f"CREATE TABLE bars(series INTEGER, {_TYPES}, PRIMARY KEY(series, ts))")

    def write(self, frame: pl.DataFrame) -> None:
        """See Peer."""
        self._db.register("given", frame)
        self._db.execute(f"INSERT OR REPLACE INTO bars SELECT 1, {_NAMES} FROM given")
        self._db.unregister("given")

    def read(self, start: int, end: int) -> pl.DataFrame:
        """See Peer."""
        table = self._db.sql(_RANGE, params=[start, end]).to_arrow_table()
        frame = pl.from_arrow(table, rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def settle(self) -> None:
        """See Peer."""
        self._db.execute("CHECKPOINT")

    def close(self) -> None:
        """See Peer."""
        self._db.close()


class ParquetPeer:
    """One Parquet file (zstd) for each month, rewritten beside the old one and renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, frame: pl.DataFrame) -> None:
        """See Peer."""
        for start, part in months(frame):
            path = self._folder / f"{start}.parquet"
            rows = part
            if path.exists():
                rows = pl.concat([pl.read_parquet(path), part]).unique("ts", keep="last").sort("ts")
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                rows.write_parquet(file)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        sync(self._folder)

    def read(self, start: int, end: int) -> pl.DataFrame:
        """See Peer."""
        first = month_start(start)
        paths = [path for path in sorted(self._folder.glob("*.parquet")) if first <= int(path.stem) < end]
        rows = pl.scan_parquet(paths).filter(pl.col("ts").is_between(start, end, closed="left"))
        return rows.collect()

    def settle(self) -> None:
        """See Peer."""

    def close(self) -> None:
        """See Peer."""


class BarePeer:
    """The least that durable segment files cost: each month's rows as Arrow IPC, written and synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def write(self, frame: pl.DataFrame) -> None:
        """See Peer."""
        for _, part in months(frame):
            body = io.BytesIO()
            part.write_ipc(body)
            self._number += 1
            with (self._folder / f"{self._number}.arrow").open("wb", buffering=0) as file:
                file.write(body.getbuffer())
                os.fsync(file.fileno())

    def read(self, start: int, end: int) -> pl.DataFrame:
        """See Peer."""
        raise NotImplementedError

    def settle(self) -> None:
        """See Peer."""

    def close(self) -> None:
        """See Peer."""


PEERS: dict[str, Callable[[Path], Peer]] = {
    "embedded store": EmbeddedPeer,
    "SQLite table": SqlitePeer,
    "Parquet files": ParquetPeer,
    "DuckDB table": DuckPeer,
}


def months(frame: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield (start, rows) of each UTC month of an ascending frame."""
    times, at = frame["ts"].to_numpy(), 0
    while at < frame.height:
        start = month_start(int(times[at]))
        following = month_start(start + 32 * 86_400)
        until = int(times.searchsorted(following))
        yield start, frame.slice(at, until - at)
        at = until


def month_start(ts: int) -> int:
    """Return the start of the UTC month of a time."""
    day = datetime.fromtimestamp(max(ts, 0), UTC)
    return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())


def sync(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
