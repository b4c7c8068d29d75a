"""Sealed daily segments: market data moved out of the journal's table once a snapshot covers it."""

import hashlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from heapq import heappop, heappush
from pathlib import Path

import msgspec

from qmtl.core.event import MARKET
from qmtl.core.interval import DAY_MS

_TYPES = tuple(kind.__name__ for kind in MARKET)
_MARKS = ", ".join("?" * len(_TYPES))
_Rows = list[tuple[int, bytes]]
_DROPPED = "dropped_seq"
_CHUNK = 1_000
"""Rows that go in one transaction: the journal's writer waits no longer than that."""

_PAUSE_S = 0.005


class SegmentError(Exception):
    """A sealed segment is missing or damaged; the message names the file."""


def folder_of(journal: Path) -> Path:
    """Return where a journal's segments lie."""
    return journal.with_name(journal.name + ".segments")


def seal_days(db: sqlite3.Connection, journal: Path, before_day: int, covered_seq: int) -> None:
    """Move market records of each UTC day < `before_day` with seq <= `covered_seq` into a file.

    The file is on disk before its row is written, and the row before the records go; until they are gone
    readers find them in both places and take them once. `db` may be a connection beside the writer's.
    """
    where = f"FROM records WHERE type IN ({_MARKS}) AND ts_ms < ? AND seq <= ?"
    bounds = (*_TYPES, before_day * DAY_MS, covered_seq)
    days = [row[0] for row in db.execute(f"SELECT DISTINCT ts_ms / {DAY_MS} {where} ORDER BY 1", bounds)]
    for day in days:
        one = f"{where} AND ts_ms / {DAY_MS} = ?"
        known = db.execute("SELECT last_seq FROM segments WHERE day = ?", (day,)).fetchone()
        if known is not None:
            # What came late for a sealed day stays; what an interrupted seal left goes.
            left = db.execute(f"SELECT seq {one} AND seq <= ?", (*bounds, day, known[0])).fetchall()
            _delete(db, left)
            continue
        rows: _Rows = db.execute(f"SELECT seq, body {one} ORDER BY seq", (*bounds, day)).fetchall()
        name, digest = _write(folder_of(journal), day, rows)
        db.execute(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
            (day, rows[0][0], rows[-1][0], len(rows), name, digest),
        )
        _delete(db, [(seq,) for seq, _ in rows])


def _delete(db: sqlite3.Connection, keys: list[tuple[int]]) -> None:
    never = threading.Event()
    for begin in range(0, len(keys), _CHUNK):
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM records WHERE seq = ?", keys[begin : begin + _CHUNK])
        db.execute("COMMIT")
        # SQLite hands a lock to whoever asks at the right moment: this is the writer's.
        never.wait(_PAUSE_S)


def drop_segments(db: sqlite3.Connection, journal: Path, before_day: int) -> int:
    """Delete segments of days < `before_day` with the snapshots that need them; return how many went.

    From then on a replay of the whole journal starts at `first_snapshot`.
    """
    rows = db.execute("SELECT day, file, last_seq FROM segments WHERE day < ?", (before_day,)).fetchall()
    if not rows:
        return 0
    dropped_seq = max(last_seq for _, _, last_seq in rows)
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM segments WHERE day < ?", (before_day,))
    db.execute("DELETE FROM snapshots WHERE seq < ?", (dropped_seq,))
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_DROPPED, str(dropped_seq)))
    db.execute("COMMIT")
    for _, name, _ in rows:
        (folder_of(journal) / name).unlink(missing_ok=True)
    return len(rows)


def first_snapshot(db: sqlite3.Connection) -> tuple[int, bytes] | None:
    """Return (seq, body) of the snapshot a replay has to start from; None while every record is kept."""
    dropped = db.execute("SELECT value FROM meta WHERE key = ?", (_DROPPED,)).fetchone()
    if dropped is None:
        return None
    query = "SELECT seq, body FROM snapshots WHERE seq >= ? ORDER BY seq LIMIT 1"
    row = db.execute(query, (int(dropped[0]),)).fetchone()
    return None if row is None else (row[0], row[1])


def read_records(db: sqlite3.Connection, journal: Path, after_seq: int) -> Iterator[tuple[int, bytes]]:
    """Yield (seq, body) of every record after `after_seq`, table and segments merged.

    A segment is opened when its first record is due, so that a year of them never lies in memory at once.
    """
    table = db.execute("SELECT seq, body FROM records WHERE seq > ? ORDER BY seq", (after_seq,))
    sealed = db.execute(
        "SELECT first_seq, file, digest FROM segments WHERE last_seq > ? ORDER BY first_seq", (after_seq,)
    ).fetchall()
    streams: list[Iterator[tuple[int, bytes]]] = [iter(table)]
    heads: list[tuple[int, bytes, int]] = []

    def advance(number: int) -> None:
        row = next(streams[number], None)
        if row is not None:
            heappush(heads, (*row, number))

    advance(0)
    last_seq = 0
    for first_seq, name, digest in sealed:
        while heads and heads[0][0] < first_seq:
            seq, body, number = heappop(heads)
            if seq != last_seq:
                yield seq, body
            last_seq = seq
            advance(number)
        streams.append(_read(folder_of(journal) / name, digest, after_seq))
        advance(len(streams) - 1)
    while heads:
        seq, body, number = heappop(heads)
        if seq != last_seq:
            yield seq, body
        last_seq = seq
        advance(number)


def _write(folder: Path, day: int, rows: _Rows) -> tuple[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    body = zlib.compress(msgspec.msgpack.encode(rows), 6)
    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    name = f"{day}.seg"
    temporary = folder / f"{name}.tmp"
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / name)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return name, digest


def _read(path: Path, digest: str, after_seq: int) -> Iterator[tuple[int, bytes]]:
    try:
        body = path.read_bytes()
    except OSError as error:
        message = f"{path}: segment cannot be read: {error.strerror}"
        raise SegmentError(message) from error
    if hashlib.blake2b(body, digest_size=16).hexdigest() != digest:
        message = f"{path}: segment does not match the digest the journal keeps"
        raise SegmentError(message)
    for seq, record in msgspec.msgpack.decode(zlib.decompress(body), type=_Rows):
        if seq > after_seq:
            yield seq, record
