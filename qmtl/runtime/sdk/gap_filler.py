"""Brings missing ranges from the exchange into the store; each cell is asked for once, whoever waits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import polars as pl

from qmtl.core.ranges import Range, clip_ranges, intersect_ranges, merge_ranges, subtract_ranges
from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.availability import BackfillConfig
from qmtl.runtime.sdk.fetch_plan import (
    FetchWindow,
    covered_ranges,
    empty_ranges,
    plan_window,
    provisional_ranges,
    runs_of,
    split_ranges,
)
from qmtl.runtime.sdk.filled_range import Filled
from qmtl.runtime.sdk.frame_cache import cut_frame
from qmtl.runtime.sdk.history import FetchReport, HistoryStore, InvalidPayloadError, SeriesKey
from qmtl.runtime.sdk.history_frame import order_rows
from qmtl.runtime.sdk.in_flight import Flight, InFlightBook
from qmtl.runtime.sdk.lease import Leases
from qmtl.runtime.sdk.leased_fill import Confirm, LeasedFill

_REQUESTS_PER_WINDOW = 10


class GapFiller:
    """Fetches windows of missing cells and stores them, `max_concurrent_requests` at a time.

    Young rows are stored provisionally. `on_write` hears of every range that was written. One object serves
    one event loop.
    """

    def __init__(
        self,
        store: HistoryStore,
        fetcher: Any,
        *,
        options: BackfillConfig,
        clock: Clock,
        stabilization_bars: int,
        on_write: Callable[[SeriesKey, Sequence[Range]], None],
        leases: Leases | None = None,
        owner: str = "",
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._options = options
        self._clock = clock
        self._stabilization_bars = stabilization_bars
        self._on_write = on_write
        self._book: InFlightBook[Filled] = InFlightBook()
        self._slots = asyncio.Semaphore(options.max_concurrent_requests)
        self._session = SharedSession(fetcher)
        self._leased = (
            None if leases is None else LeasedFill(self, leases, owner, options.lease_ttl_ms, clock)
        )
        config = getattr(fetcher, "config", None)
        batch = int(getattr(config, "batch_limit", None) or 1000)
        self._window_bars = options.window_bars or _REQUESTS_PER_WINDOW * batch
        self._offset: int | None = getattr(config, "grid_offset_s", None)

    # --- flights ----------------------------------------------------------------------------------

    def start(
        self, key: SeriesKey, gaps: Sequence[Range], world_id: str | None = None
    ) -> list[Flight[Filled]]:
        """Return the flights that bring `gaps`, joining those on their way; for a world, where it has one."""
        width = self._window_bars * key.interval
        return self._book.join(
            key,
            gaps,
            split=lambda rest: split_ranges(rest, width),
            fly=lambda span: self._fly(key, span, world_id),
        )

    async def wait(self, flights: Sequence[Flight[Filled]]) -> None:
        """Wait until all have ended; in `sync` mode they end with their last waiter."""
        await self._book.wait(flights, abandons=self._options.mode == "sync")

    async def aclose(self) -> None:
        """Cancel every flight and wait for their ends."""
        tasks = self._book.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fly(self, key: SeriesKey, span: Range, world_id: str | None) -> Filled:
        began_ms = self._clock.real_ms()
        labels = SEAMLESS.series(*key)
        SEAMLESS.backfill_jobs.labels(*labels).inc()
        try:
            async with self._slots, self._session.use():
                if self._leased is None:
                    filled = await self.bring(key, span)
                else:
                    filled = await self._leased.bring(key, span, world_id)
        finally:
            SEAMLESS.backfill_jobs.labels(*labels).dec()
        SEAMLESS.gap_repair_latency.labels(*labels).observe((self._clock.real_ms() - began_ms) / 1000)
        return filled

    # --- one window -------------------------------------------------------------------------------

    async def bring(
        self, key: SeriesKey, span: Range, fence: int | None = None, confirm: Confirm | None = None
    ) -> Filled:
        """Fetch one range and store it; `confirm` says before the write that the lease still holds."""
        report = await self._ask(key, span)
        window = self._window(key, span)
        frame = cut_frame(order_rows(key, report.frame), window.first, window.closed_until)
        closed = window.closed
        spans = [one for one in report.confirmed_empty if one.start < one.end]
        empty = intersect_ranges(merge_ranges([(one.start, one.end) for one in spans]), closed)
        if key.node_id.startswith("trades:"):
            covered = subtract_ranges(closed, empty)
        else:
            check_grid(key, frame, window.first)
            covered = runs_of(frame["ts"], key.interval)
        if confirm is not None:
            await confirm()
        await self.keep(key, frame, covered, window.young_from, fence)
        for permanent in (True, False):
            chosen = merge_ranges([(s.start, s.end) for s in spans if s.permanent is permanent])
            chosen = intersect_ranges(chosen, closed)
            if chosen:
                await self._store.mark_empty(key, chosen, permanent=permanent)
        self._count(key, span, covered, empty)
        return Filled(frame, covered, empty, clip_ranges(covered, window.young_from, window.last))

    async def keep(
        self,
        key: SeriesKey,
        frame: pl.DataFrame,
        covered: Sequence[Range],
        young_from: int,
        fence: int | None = None,
    ) -> None:
        """Store closed rows, those from `young_from` on provisionally."""
        if not covered:
            return
        first, last = covered[0][0], covered[-1][1]
        parts = (((first, young_from), False), ((max(first, young_from), last), True))
        for (start, end), provisional in parts:
            ranges = clip_ranges(covered, start, min(end, last))
            if ranges:
                await self._store.write(
                    key,
                    cut_frame(frame, start, min(end, last)),
                    covered=ranges,
                    provisional=provisional,
                    fence=fence,
                )
        self._on_write(key, covered)

    def _window(self, key: SeriesKey, span: Range) -> FetchWindow:
        return plan_window(
            key,
            *span,
            now_s=exchange_second(self._clock, self._fetcher),
            stabilization_bars=self._stabilization_bars,
            offset=self._offset,
        )

    async def _ask(self, key: SeriesKey, span: Range) -> FetchReport:
        """Ask the fetcher for a range; one that only knows `fetch` confirms nothing empty."""
        ask = getattr(self._fetcher, "fetch_report", None)
        if ask is not None:
            report: FetchReport = await ask(*span, node_id=key.node_id, interval=key.interval)
            return report
        frame = await self._fetcher.fetch(*span, node_id=key.node_id, interval=key.interval)
        return FetchReport(frame, [], 1)

    def _count(self, key: SeriesKey, span: Range, covered: list[Range], empty: list[Range]) -> None:
        labels = SEAMLESS.series(*key)
        known = sum(end - start for start, end in merge_ranges([*covered, *empty]))
        SEAMLESS.backfill_completion.labels(*labels).set(known / max(1, span[1] - span[0]))
        if covered:
            SEAMLESS.backfill_last.labels(*labels).set(covered[-1][1] - key.interval)

    async def still_missing(self, key: SeriesKey, ranges: Sequence[Range]) -> list[Range]:
        """Return what of `ranges` the store does not cover now."""
        window = self._window(key, (0, 0))
        spans = await self._store.coverage(key, now=self._clock.now_ms() // 1000)
        return subtract_ranges(merge_ranges(ranges), covered_ranges(spans, window.young_from))

    async def read_stored(self, key: SeriesKey, span: Range) -> Filled:
        """Return what the store has of a range that somebody else filled."""
        spans = await self._store.coverage(key, now=self._clock.now_ms() // 1000)
        frame = await self._store.read(key, *span)
        rows = [(one.start, one.end) for one in spans if one.kind in {"rows", "young"}]
        return Filled(
            frame,
            clip_ranges(merge_ranges(rows), *span),
            clip_ranges(empty_ranges(spans), *span),
            clip_ranges(provisional_ranges(spans), *span),
        )


def exchange_second(clock: Clock, fetcher: Any) -> int:
    """Return the present second, by the exchange's clock where the fetcher has compared it with ours."""
    return int((clock.now_ms() + getattr(fetcher, "clock_offset_ms", 0.0)) // 1000)


def check_grid(key: SeriesKey, frame: pl.DataFrame, first: int) -> None:
    """Raise InvalidPayloadError for a bar off the grid of `first`: no cell would be its own."""
    off = frame.filter((frame["ts"] - first) % key.interval != 0)
    if off.height:
        raise InvalidPayloadError(f"{key.node_id}: a bar opens at {off['ts'][0]}, off the grid")


class SharedSession:
    """The exchange's session while anybody uses it; fetchers without one need none."""

    def __init__(self, fetcher: Any) -> None:
        self._open: Callable[[], AbstractAsyncContextManager[Any]] | None = getattr(fetcher, "session", None)
        self._users = 0
        self._lock = asyncio.Lock()
        self._session: AbstractAsyncContextManager[Any] | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        """Keep the session open for the body."""
        if self._open is None:
            yield
            return
        async with self._lock:
            if self._session is None:
                session = self._open()
                await session.__aenter__()
                self._session = session
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self._session is not None:
                session, self._session = self._session, None
                await session.__aexit__(None, None, None)
