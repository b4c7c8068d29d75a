"""Rows of history kept in memory: least recently used go first, by bytes, and every one after its time."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import RLock
from typing import NamedTuple

import polars as pl

from qmtl.core.ranges import Range, clip_ranges
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.history import SeriesKey


class CachedPiece(NamedTuple):
    """A range that is wholly known: its rows, and what of it is confirmed empty."""

    start: int
    end: int
    frame: pl.DataFrame
    empty: list[Range]


class FrameCache:
    """Pieces of series, disjoint within each; `now_ms` is whatever clock the owner counts by.

    Several event loops may share it: the Runner's streams ask on a thread of their own.
    """

    def __init__(self, *, ttl_ms: int, max_bytes: int) -> None:
        self._ttl_ms = ttl_ms
        self._max_bytes = max_bytes
        self._pieces: OrderedDict[tuple[SeriesKey, int], tuple[CachedPiece, float, int]] = OrderedDict()
        self._starts: dict[SeriesKey, set[int]] = {}
        self._lock = RLock()
        self.resident_bytes = 0

    def find(self, key: SeriesKey, start: int, end: int, now_ms: float) -> list[CachedPiece]:
        """Return what is known of [start, end), cut to it, ascending."""
        found = []
        with self._lock:
            for at in sorted(self._starts.get(key, ())):
                piece, expires_ms, _ = self._pieces[key, at]
                if expires_ms <= now_ms:
                    self._drop(key, at)
                elif piece.start < end and start < piece.end:
                    self._pieces.move_to_end((key, at))
                    found.append(cut_piece(piece, start, end))
        return found

    def put(self, key: SeriesKey, piece: CachedPiece, now_ms: float) -> None:
        """Keep a piece in place of everything it overlaps; one larger than the whole cache is not kept."""
        size = int(piece.frame.estimated_size())
        if size > self._max_bytes or piece.start >= piece.end:
            return
        with self._lock:
            self.forget(key, [(piece.start, piece.end)])
            self._pieces[key, piece.start] = (piece, now_ms + self._ttl_ms, size)
            self._starts.setdefault(key, set()).add(piece.start)
            self.resident_bytes += size
            while self.resident_bytes > self._max_bytes:
                self._drop(*next(iter(self._pieces)))
            SEAMLESS.cache_bytes.set(self.resident_bytes)

    def forget(self, key: SeriesKey, ranges: Sequence[Range]) -> None:
        """Drop every piece that overlaps one of `ranges`."""
        with self._lock:
            for at in tuple(self._starts.get(key, ())):
                piece = self._pieces[key, at][0]
                if any(piece.start < end and start < piece.end for start, end in ranges):
                    self._drop(key, at)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            for key, at in list(self._pieces):
                self._drop(key, at)

    def _drop(self, key: SeriesKey, at: int) -> None:
        self.resident_bytes -= self._pieces.pop((key, at))[2]
        self._starts[key].discard(at)
        if not self._starts[key]:
            del self._starts[key]
        SEAMLESS.cache_bytes.set(self.resident_bytes)


def cut_piece(piece: CachedPiece, start: int, end: int) -> CachedPiece:
    """Return what of a piece lies in [start, end)."""
    begin, stop = max(piece.start, start), min(piece.end, end)
    if (begin, stop) == (piece.start, piece.end):
        return piece
    frame = cut_frame(piece.frame, begin, stop)
    return CachedPiece(begin, stop, frame, clip_ranges(piece.empty, begin, stop))


def cut_frame(frame: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
    """Return the rows of [start, end) of an ascending frame, without copying."""
    ts = frame["ts"]
    if not len(ts) or (start <= ts[0] and ts[-1] < end):
        return frame
    low, high = (int(at) for at in ts.to_numpy().searchsorted((start, end)))
    return frame.slice(low, high - low)
