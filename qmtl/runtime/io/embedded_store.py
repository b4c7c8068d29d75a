"""The store that needs no service: Arrow segments, memory-mapped, and a SQLite catalogue."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from qmtl.core.ranges import Range, merge_ranges
from qmtl.engine.clock import SystemClock
from qmtl.engine.owner import find_network_file_system
from qmtl.engine.ports import Clock
from qmtl.runtime.io.segment_catalogue import CatalogueChange, SegmentCatalogue
from qmtl.runtime.io.segment_file import (
    SEGMENTS,
    Segment,
    check_segment,
    make_folder,
    map_segment,
    split_periods,
    write_segment,
)
from qmtl.runtime.io.writer_lock import WriterLock
from qmtl.runtime.sdk.history import (
    CoverageSpan,
    Environment,
    SeriesKey,
    StoreEnvironmentError,
    StoreError,
)
from qmtl.runtime.sdk.history_frame import (
    check_frame,
    check_range,
    frame_schema,
    order_rows,
    resolve_series,
)

if TYPE_CHECKING:
    import polars as pl

CATALOGUE = "catalogue.sqlite"
_EMPTY_FOR_S = 86_400
_READERS = 2
_T = TypeVar("_T")


class SegmentFault(NamedTuple):
    """A segment whose file is not as it was written: its series, its period, its path, what is wrong."""

    key: SeriesKey
    start: int
    end: int
    path: Path
    reason: str


class EmbeddedStore:
    """A HistoryStore in one folder, for any number of processes of one machine: one writes, all read.

    A write is durable and visible at once and whole when it returns, and not at all when its process is
    killed before. Rows come back as zero-copy slices of mapped files, each compared with its hash when it is
    first mapped. `environment` is recorded by the first
    write, `production` when nobody said otherwise. See HistoryStore for the methods they share.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, clock: Clock | None = None) -> None:
        """Name the folder; nothing is opened or created before it is needed."""
        self.path = Path(path)
        self.environment: Environment | None = None
        self._read_only = read_only
        self._clock = clock or SystemClock()
        # Two connections: who reads must not wait for a commit.
        self._catalogue = SegmentCatalogue(self.path / CATALOGUE, read_only=read_only)
        self._ledger = SegmentCatalogue(self.path / CATALOGUE, read_only=read_only)
        self._lock = WriterLock(self.path / "writer.lock", self._clock)
        # One writer: writes of one process are done in the order they came. Threads start when needed.
        self._reader = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._aside = ThreadPoolExecutor(2, thread_name_prefix="store-aside")
        self._is_closed = False
        self._has_swept = False
        # For each period the file that this process found to be as the catalogue says, or wrote itself.
        self._checked: dict[tuple[SeriesKey, int], str] = {}

    @property
    def lease_dsn(self) -> str:
        """The catalogue as LeaseStore names it: leases of an embedded store live beside its coverage."""
        return f"sqlite:///{(self.path / CATALOGUE).absolute()}"

    async def read(self, key: SeriesKey, start: int, end: int) -> "pl.DataFrame":
        """See HistoryStore; never waits for a writer."""
        check_range(start, end)
        resolve_series(key)
        return await self._run(self._reader, lambda: self._read(key, start, end))

    async def write(
        self,
        key: SeriesKey,
        frame: "pl.DataFrame",
        *,
        covered: Sequence[Range],
        provisional: bool = False,
        fence: int | None = None,
    ) -> int:
        """See HistoryStore; StoreBusyError when other processes keep writing for 30 s."""
        rows = check_frame(key, frame)
        ranges = _check_ranges(covered)
        label = ("young" if provisional else "rows", 0)

        def work() -> int:
            with self._writing():
                return self._write(key, rows, ranges, label, fence)

        return await self._run(self._writer, work)

    async def mark_empty(self, key: SeriesKey, ranges: Sequence[Range], *, permanent: bool) -> None:
        """See HistoryStore; what holds rows stays `rows`, and what is empty for good stays so."""
        resolve_series(key)
        empty = _check_ranges(ranges)
        if not empty:
            return
        label = ("empty", 0) if permanent else ("empty_24h", self._clock.now_ms() // 1000)
        below = ("rows",) if permanent else ("rows", "empty")

        def work() -> None:
            with self._writing(), self._ledger.change() as change:
                self._record_environment(change)
                change.lay("coverage", change.add_series(key), empty, label, below)

        await self._run(self._writer, work)

    async def coverage(self, key: SeriesKey, *, now: int | None = None) -> list[CoverageSpan]:
        """See HistoryStore; `now` None is the clock's."""
        resolve_series(key)
        at = self._clock.now_ms() // 1000 if now is None else now
        return await self._run(self._reader, lambda: self._read_coverage(key, at))

    async def series(self) -> list[SeriesKey]:
        """Return every series the store knows, sorted."""
        return await self._run(self._reader, self._catalogue.list_series)

    async def verify(self, key: SeriesKey | None = None) -> list[SegmentFault]:
        """Compare every segment, or those of one series, with its hash; return those that differ."""
        return await self._run(self._reader, lambda: list(self._find_faults(key)))

    async def forget(self, key: SeriesKey, start: int, end: int) -> list[Range]:
        """Drop the segments that overlap [start, end), damaged or not, with all coverage of their periods.

        Returns those periods: what was there can be fetched again.
        """
        check_range(start, end)
        resolve_series(key)

        def work() -> list[Range]:
            with self._writing():
                dropped = self._ledger.find_segments(key, start, end)
                periods = merge_ranges((one.start, one.end) for one in dropped)
                if dropped:
                    with self._ledger.change() as change:
                        change.forget(change.add_series(key), periods)
                self._remove(dropped)
                return periods

        return await self._run(self._writer, work)

    async def clear(self) -> None:
        """Forget every row, all coverage, and whose they were."""

        def work() -> None:
            with self._writing():
                with self._ledger.change() as change:
                    change.clear()
                self._sweep()

        await self._run(self._writer, work)

    async def aclose(self) -> None:
        """Finish what is being written and release everything; closing twice is closing once."""
        self._is_closed = True
        for pool in (self._reader, self._writer, self._aside):
            await asyncio.to_thread(pool.shutdown)
        self._catalogue.close()
        self._ledger.close()

    async def __aenter__(self) -> Self:
        """Use it in a block."""
        return self

    async def __aexit__(self, *details: object) -> None:
        """Close at the end of the block."""
        await self.aclose()

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, key: SeriesKey, start: int, end: int) -> "pl.DataFrame":
        import polars as pl

        self._check_environment(self._catalogue)
        tried: list[Segment] = []
        while True:
            segments = self._catalogue.find_segments(key, start, end) if start < end else []
            try:
                parts = [_slice(self._map(key, segment), start, end) for segment in segments]
            except FileNotFoundError as error:
                # A writer replaced it after we asked; if nothing was replaced, it is lost.
                if segments == tried:
                    raise StoreError(f"segment {error.filename} is missing; run qmtl data verify") from error
                tried = segments
                continue
            if not parts:
                return pl.DataFrame(schema=frame_schema(key))
            return parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=False)

    def _map(self, key: SeriesKey, segment: Segment) -> "pl.DataFrame":
        is_checked = self._checked.get((key, segment.start)) == segment.file
        frame = map_segment(self.path, segment, is_checked=is_checked)
        self._checked[key, segment.start] = segment.file
        return frame

    def _read_coverage(self, key: SeriesKey, now: int) -> list[CoverageSpan]:
        self._check_environment(self._catalogue)
        spans: list[CoverageSpan] = []
        last: tuple[int, str] = (-1, "")
        for start, end, kind, checked in self._catalogue.read_coverage(key):
            if kind == "empty_24h" and now >= checked + _EMPTY_FOR_S:
                continue
            # Neighbours of one kind were marked empty for a day at two times.
            first = spans.pop().start if last == (start, kind) else start
            spans.append(CoverageSpan(first, end, kind))
            last = (end, kind)
        return spans

    def _find_faults(self, key: SeriesKey | None) -> Iterator[SegmentFault]:
        for owner, segment in self._catalogue.list_segments():
            if key is not None and owner != key:
                continue
            reason = check_segment(self.path, segment)
            # What was replaced since we asked is no fault.
            if reason and segment in self._catalogue.find_segments(owner, segment.start, segment.end):
                path = self.path / segment.file
                yield SegmentFault(owner, segment.start, segment.end, path, reason)

    # --- writing ----------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._read_only:
            raise StoreError(f"{self.path}: the store is opened read-only")
        try:
            if not self._has_swept:
                (self.path / SEGMENTS).mkdir(parents=True, exist_ok=True)
                kind = find_network_file_system(self.path)
                if kind is not None:
                    raise StoreError(f"{self.path}: is on a network file system ({kind}); use a local disk")
            with self._lock.hold() as is_dirty:
                self._ledger.create()
                if is_dirty or not self._has_swept:
                    self._sweep()
                    self._has_swept = True
                self._check_environment(self._ledger)
                yield
        except OSError as error:
            raise StoreError(f"{error.filename or self.path}: {error.strerror}") from error

    def _write(
        self,
        key: SeriesKey,
        rows: "pl.DataFrame",
        ranges: list[Range],
        label: tuple[str, int],
        fence: int | None,
    ) -> int:
        touched = merge_ranges([*ranges, *_hull(key, rows)])
        if fence is not None:
            self._ledger.check_fence(key, touched, fence)
        token = int(self._ledger.read_meta("generation") or 0) + 1
        # What is written before an error is swept by the next writer: only the catalogue knows what counts.
        added, replaced = self._merge(key, rows, token) if rows.height else ([], [])
        with self._ledger.change() as change:
            self._record_environment(change)
            change.set_meta("generation", str(token))
            series = change.add_series(key)
            change.put_segments(series, added)
            change.lay("coverage", series, ranges, label, ("rows",) if label[0] == "young" else ())
            if fence is not None:
                change.lay("fences", series, touched, (fence,))
        for segment in added:
            self._checked[key, segment.start] = segment.file
        self._remove(replaced)
        return rows.height

    def _merge(self, key: SeriesKey, rows: "pl.DataFrame", token: int) -> tuple[list[Segment], list[Segment]]:
        """Write the segments of rows beside the old ones; return the new and those they replace."""
        import polars as pl

        added: list[Segment] = []
        replaced: list[Segment] = []
        folder = make_folder(self.path, key)
        for period, part in split_periods(key, rows):
            merged = part
            for old in self._ledger.find_segments(key, *period):
                # Its hash is compared first: damage must not get a fresh one.
                merged = order_rows(key, pl.concat([self._map(key, old), part]))
                replaced.append(old)
            file = f"{folder}/{period[0]}-{token}.arrow"
            added.append(write_segment(self.path, file, period, merged, self._aside))
        return added, replaced

    def _sweep(self) -> None:
        """Remove files the catalogue does not name: of writers that were killed or not done removing."""
        named = {segment.file for _, segment in self._ledger.list_segments()}
        for path in (self.path / SEGMENTS).rglob("*.arrow"):
            if path.relative_to(self.path).as_posix() not in named:
                path.unlink(missing_ok=True)

    def _remove(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            (self.path / segment.file).unlink(missing_ok=True)

    def _check_environment(self, catalogue: SegmentCatalogue) -> None:
        if self.environment is None:
            return
        recorded = catalogue.read_meta("environment")
        if recorded is not None and recorded != self.environment:
            raise StoreEnvironmentError(
                f"{self.path} holds {recorded} data; {self.environment} data does not go into it"
            )

    def _record_environment(self, change: CatalogueChange) -> None:
        recorded = self._ledger.read_meta("environment")
        if recorded is None:
            change.set_meta("environment", self.environment or "production")

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        if self._is_closed:
            raise StoreError(f"{self.path}: the store is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _slice(frame: "pl.DataFrame", start: int, end: int) -> "pl.DataFrame":
    times = frame["ts"].to_numpy()
    first, last = times.searchsorted((start, end))
    return frame.slice(int(first), int(last - first))


def _check_ranges(ranges: Sequence[Range]) -> list[Range]:
    for start, end in ranges:
        check_range(start, end)
    return merge_ranges(ranges)


def _hull(key: SeriesKey, rows: "pl.DataFrame") -> list[Range]:
    return [(rows["ts"][0], rows["ts"][-1] + key.interval)] if rows.height else []
