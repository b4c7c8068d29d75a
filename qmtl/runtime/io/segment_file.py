"""Segment files: one Arrow IPC file holds a series' rows of one UTC month, day or hour, and never changes."""

import hashlib
import io
import mmap
import os
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qmtl.core.ranges import Range
from qmtl.runtime.sdk.history import SeriesKey, StoreError
from qmtl.runtime.sdk.history_frame import resolve_series

if TYPE_CHECKING:
    import polars as pl

SEGMENTS = "segments"
LONGEST_PERIOD_S = 31 * 86_400
_HOUR_S, _DAY_S = 3_600, 86_400
_LONGEST_NAME = 100
_DIFFERS = "does not match its hash"
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")


class Segment(NamedTuple):
    """What the catalogue says of a segment: the period it is for, its file, and what is in it.

    `file` is relative to the store; `first_ts`, `last_ts` are those of its rows, `digest` is BLAKE2b-256.
    """

    start: int
    end: int
    file: str
    first_ts: int
    last_ts: int
    rows: int
    size: int
    digest: bytes


def segment_period(key: SeriesKey, ts: int) -> Range:
    """Return the period of the segment that holds `ts`.

    It is a UTC month; a day of bars shorter than a minute; an hour of trades.
    """
    if resolve_series(key).kind == "trades":
        start = ts - ts % _HOUR_S
        return start, start + _HOUR_S
    if key.interval < 60:
        start = ts - ts % _DAY_S
        return start, start + _DAY_S
    day = datetime.fromtimestamp(ts, UTC)
    month = datetime(day.year, day.month, 1, tzinfo=UTC)
    following = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return int(month.timestamp()), int(following.timestamp())


def split_periods(key: SeriesKey, frame: "pl.DataFrame") -> Iterator[tuple[Range, "pl.DataFrame"]]:
    """Yield (period, rows) of an ascending frame."""
    times = frame["ts"].to_numpy()
    at = 0
    while at < len(times):
        period = segment_period(key, int(times[at]))
        until = int(times.searchsorted(period[1]))
        yield period, frame.slice(at, until - at)
        at = until


def make_folder(store: Path, key: SeriesKey) -> str:
    """Return a series' folder below the store, made if missing; it is one plain name for any symbol."""
    name = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], key.node_id.encode()).decode()
    if len(name) > _LONGEST_NAME:
        name = hashlib.blake2b(key.node_id.encode(), digest_size=16).hexdigest()
    folder = f"{SEGMENTS}/{name}/{key.interval}"
    place = store / folder
    if not place.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        for above in (place.parent, store / SEGMENTS, store):
            sync_folder(above)
    return folder


def write_segment(store: Path, file: str, period: Range, frame: "pl.DataFrame", aside: Executor) -> Segment:
    """Write rows as a new file of the store; the file and its folder's entry are on disk when this returns.

    `aside` has two threads: the disk takes both syncs as one, and the hash is computed meanwhile.
    """
    body = io.BytesIO()
    frame.rechunk().write_ipc(body)
    data = body.getbuffer()
    path = store / file
    with path.open("wb", buffering=0) as target:
        written = 0
        while written < len(data):
            written += target.write(data[written:])
        waits = [aside.submit(os.fsync, target.fileno()), aside.submit(sync_folder, path.parent)]
        digest = hashlib.blake2b(data, digest_size=32).digest()
        for one in waits:
            one.result()
    times = frame["ts"]
    return Segment(*period, file, times[0], times[-1], frame.height, len(data), digest)


def map_segment(store: Path, segment: Segment, *, is_checked: bool) -> "pl.DataFrame":
    """Return a segment's rows over its mapped file, without copying them.

    FileNotFoundError when it is gone, StoreError naming it when it is damaged. Unless `is_checked` its hash
    is compared first: a wrong length or offset in a mapped file would not raise but end the process.
    """
    import polars as pl
    import pyarrow as pa

    path = store / segment.file
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != segment.size:
            raise _damaged(path, f"has {size} bytes, not {segment.size}")
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    if not is_checked and hashlib.blake2b(mapped, digest_size=32).digest() != segment.digest:
        raise _damaged(path, _DIFFERS)
    try:
        with pa.ipc.open_file(pa.py_buffer(mapped)) as reader:
            frame = pl.from_arrow(reader.read_all(), rechunk=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, f"is not readable: {error}") from error
    if not isinstance(frame, pl.DataFrame) or frame.height != segment.rows:
        raise _damaged(path, f"does not hold {segment.rows} rows")
    return frame


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"segment {path} {reason}; run qmtl data verify")


def check_segment(store: Path, segment: Segment) -> str:
    """Return what is wrong with a segment's file, "" when it is as the catalogue says."""
    try:
        with (store / segment.file).open("rb") as file:
            digest = hashlib.blake2b(digest_size=32)
            size = 0
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size != segment.size:
        return f"has {size} bytes, not {segment.size}"
    return "" if digest.digest() == segment.digest else _DIFFERS


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
