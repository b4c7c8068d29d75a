"""Bars by pages: the paging rules of every fetcher of bars, whoever sends the requests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from qmtl.core.ranges import snap_range
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.fetch_settings import FetchSettings, check_interval, check_range
from qmtl.runtime.io.history_fetcher import HistoryFetcher, HistorySource, list_empty, walk_windows
from qmtl.runtime.io.history_rows import empty_bars, gaps_to_runs, join_frames, parse_bars
from qmtl.runtime.io.page_ledger import RECHECK_MS, PageLedger, old_end
from qmtl.runtime.io.request_lane import Job, RequestLane
from qmtl.runtime.sdk.history import FetchReport
from qmtl.runtime.sdk.ohlcv_nodeid import NodeId

if TYPE_CHECKING:
    import polars as pl

WEEK_OFFSET_S = 345_600
"""Weeks begin on Monday; the epoch was a Thursday."""
_WEEK_S = 604_800


class BarSource(HistorySource, Protocol):
    """Where bars come from."""

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ms: int, limit: int
    ) -> Sequence[Sequence[Any]]:
        """Return up to `limit` rows [open ms, o, h, l, c, v] that open at `since_ms` or later."""


class BarFetcher(HistoryFetcher):
    """Fetches closed bars of [start, end) by windows of `batch_limit` cells, several at a time.

    Implements `DataFetcher` (qmtl.runtime.sdk.seamless_data_provider).
    """

    def __init__(
        self,
        config: FetchSettings,
        source: BarSource,
        *,
        timeframe: str | None,
        grid_offset_s: int | None,
        close_after_fetch: bool = True,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        super().__init__(config, source, close_after_fetch=close_after_fetch, clock=clock, rng=rng)
        self._bars = source
        self._timeframe = timeframe
        self._grid_offset_s = grid_offset_s

    def resolve(self, node_id: str, interval: int) -> NodeId:
        """Return the series of `node_id`; NodeIdError when this fetcher does not serve it."""
        named = self._settings.resolve(node_id, "ohlcv")
        check_interval(node_id, named, interval, self._timeframe)
        return named

    async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> "pl.DataFrame":
        """Return the closed bars with start <= ts < end; errors as `fetch_report`."""
        return (await self.fetch_report(start, end, node_id=node_id, interval=interval)).frame

    async def fetch_report(self, start: int, end: int, *, node_id: str, interval: int) -> FetchReport:
        """Return bars, ranges confirmed empty, and the number of requests.

        NodeIdError and ValueError before any request; FetchError when the exchange does not give what was
        asked after every resend.
        """
        check_range(start, end)
        named = self.resolve(node_id, interval)
        offset = self.offset(interval)
        cells = snap_range(start, end, interval, offset)
        if cells[0] == cells[1]:
            return FetchReport(empty_bars(), [], 0)
        async with self._job(node_id, interval, named.symbol) as job:
            (first, last), now_s = await self._closed_part(cells, interval, offset)
            ledger = PageLedger(first, last, self._settings.batch_limit * interval, interval, offset)
            grid = interval, offset
            walk = _BarWalk(self._bars, self._open_lane(), self._clock, job, named, grid, ledger)
            await walk_windows(ledger, self._settings.max_concurrent_windows, walk.ask)
            old_before = old_end(now_s, interval, offset)
            await walk.ask_again(old_before)
            frame = walk.join(first, last)
            runs = gaps_to_runs(frame["ts"], interval)
            empty = list_empty((cells[0], first), ledger, runs, old_before)
            return FetchReport(frame, empty, job.requests)

    async def peek(
        self, since: int, limit: int, *, node_id: str, interval: int
    ) -> list[tuple[int, float, float, float, float, float]]:
        """Return the first `limit` bars from `since` on, the forming one too; errors as `fetch_report`."""
        named = self.resolve(node_id, interval)
        offset = self.offset(interval)

        async def call() -> "pl.DataFrame":
            rows = await self._bars.fetch_bars(named.symbol, named.timeframe or "", since * 1000, limit)
            return parse_bars(rows, interval, offset)

        async with self._job(node_id, interval, named.symbol) as job:
            page = await self._open_lane().send(job, (since, since + limit * interval), call)
            return page.filter(page["ts"] >= since).rows()

    def offset(self, interval: int) -> int:
        """Return where the grid of cells begins."""
        if self._grid_offset_s is not None:
            return self._grid_offset_s % interval
        return WEEK_OFFSET_S if interval == _WEEK_S else 0


class _BarWalk:
    """One fetch on its way over the windows of its ledger."""

    def __init__(
        self,
        source: BarSource,
        lane: RequestLane,
        clock: Clock,
        job: Job,
        named: NodeId,
        grid: tuple[int, int],
        ledger: PageLedger,
    ) -> None:
        self._source = source
        self._lane = lane
        self._clock = clock
        self._job = job
        self._named = named
        self._step, self._offset = grid
        self._ledger = ledger
        self._frames: list[pl.DataFrame] = []

    async def ask(self, start: int, end: int, *, is_second: bool = False) -> None:
        """Ask page after page until [start, end) is settled or an answer is empty."""
        at = start
        while (at := self._ledger.skip(at, end)) < end:
            page = await self._ask_page(at, end)
            if page.is_empty():
                self._ledger.fall_silent(at, end, self._clock.real_ms(), is_second=is_second)
                return
            self._frames.append(page)
            self._ledger.settle(at, page["ts"][-1] + self._step)

    async def ask_again(self, old_before: int) -> None:
        """Ask a second time for what was found empty, a second later at the earliest."""
        for silence in self._ledger.doubts(old_before):
            left_ms = silence.asked_ms + RECHECK_MS - self._clock.real_ms()
            if left_ms > 0:
                await self._clock.sleep(left_ms / 1000)
            await self.ask(silence.start, silence.end, is_second=True)

    def join(self, first: int, last: int) -> "pl.DataFrame":
        """Return the rows of every page within [first, last)."""
        frame = join_frames(self._frames, ["ts"], empty_bars())
        inside = frame["ts"].is_between(first, last, closed="left")
        return frame if inside.all() else frame.filter(inside)

    async def _ask_page(self, at: int, end: int) -> "pl.DataFrame":
        limit = (end - at) // self._step
        timeframe = self._named.timeframe or ""

        async def call() -> "pl.DataFrame":
            rows = await self._source.fetch_bars(self._named.symbol, timeframe, at * 1000, limit)
            page = parse_bars(rows, self._step, self._offset)
            # Some exchanges answer with bars from before `since`.
            return page if page.is_empty() or page["ts"][0] >= at else page.filter(page["ts"] >= at)

        return await self._lane.send(self._job, (at, end), call)
