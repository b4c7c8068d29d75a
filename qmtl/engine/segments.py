"""Sealed daily segments: market data moved out of the journal's table once a snapshot covers it."""

import hashlib
import os
import sqlite3
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


class SegmentError(Exception):
    """A sealed segment is missing or damaged; the message names the file."""


def folder_of(journal: Path) -> Path:
    """Return where a journal's segments lie."""
    return journal.with_name(journal.name + ".segments")


def seal_days(db: sqlite3.Connection, journal: Path, before_day: int, covered_seq: int) -> None:
    """Move market records of each UTC day < `before_day` with seq <= `covered_seq` into a file.

    The file is on disk before the rows go, in one transaction with the row that names it.
    """
    where = f"FROM records WHERE type IN ({_MARKS}) AND ts_ms < ? AND seq <= ?"
    bounds = (*_TYPES, before_day * DAY_MS, covered_seq)
    days = [row[0] for row in db.execute(f"SELECT DISTINCT ts_ms / {DAY_MS} {where} ORDER BY 1", bounds)]
    for day in days:
        one = f"{where} AND ts_ms / {DAY_MS} = ?"
        if db.execute("SELECT 1 FROM segments WHERE day = ?", (day,)).fetchone():
            continue
        rows: _Rows = db.execute(f"SELECT seq, body {one} ORDER BY seq", (*bounds, day)).fetchall()
        name, digest = _write(folder_of(journal), day, rows)
        db.execute("BEGIN IMMEDIATE")
        db.execute(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
            (day, rows[0][0], rows[-1][0], len(rows), name, digest),
        )
        db.execute(f"DELETE {one}", (*bounds, day))
        db.execute("COMMIT")


def drop_segments(db: sqlite3.Connection, journal: Path, before_day: int) -> int:
    """Delete segments of days < `before_day`; return how many went."""
    rows = db.execute("SELECT day, file FROM segments WHERE day < ?", (before_day,)).fetchall()
    for day, name in rows:
        db.execute("DELETE FROM segments WHERE day = ?", (day,))
        (folder_of(journal) / name).unlink(missing_ok=True)
    return len(rows)


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
    for first_seq, name, digest in sealed:
        while heads and heads[0][0] < first_seq:
            seq, body, number = heappop(heads)
            yield seq, body
            advance(number)
        streams.append(_read(folder_of(journal) / name, digest, after_seq))
        advance(len(streams) - 1)
    while heads:
        seq, body, number = heappop(heads)
        yield seq, body
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
