"""Trades by pages: by time, and by id where one millisecond holds more of them than a page."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from qmtl.core.ranges import snap_range
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.fetch_settings import FetchSettings, check_interval, check_range
from qmtl.runtime.io.history_fetcher import HistoryFetcher, HistorySource, list_empty, walk_windows
from qmtl.runtime.io.history_rows import RowError, empty_trades, gaps_to_runs, join_frames, parse_trades
from qmtl.runtime.io.page_ledger import RECHECK_MS, PageLedger, old_end
from qmtl.runtime.io.request_lane import Job, RequestLane
from qmtl.runtime.sdk.history import EmptySpan, FetchReport
from qmtl.runtime.sdk.ohlcv_nodeid import NodeId

if TYPE_CHECKING:
    import polars as pl

HOUR_MS = 3_600_000
"""Exchanges that bound an answer in time bound it at an hour: after an empty one the next hour is asked."""
_KEYS = ["ts_ms", "id"]


class TradeSource(HistorySource, Protocol):
    """Where trades come from."""

    @property
    def page_limit(self) -> int | None:
        """The most trades of one answer, None when it is not known."""

    @property
    def is_paged_by_id(self) -> bool:
        """Tell whether `fetch_trades_from` works."""

    async def fetch_trades(self, symbol: str, since_ms: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return up to `limit` unified trades from `since_ms` on, oldest first."""

    async def fetch_trades_from(self, symbol: str, trade_id: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return up to `limit` unified trades from an id on, oldest first."""


class TradeFetcher(HistoryFetcher):
    """Fetches the trades of [start, end) that lie in closed cells of `interval` seconds.

    Implements `DataFetcher` (qmtl.runtime.sdk.seamless_data_provider).
    """

    def __init__(
        self,
        config: FetchSettings,
        source: TradeSource,
        *,
        close_after_fetch: bool = True,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        super().__init__(config, source, close_after_fetch=close_after_fetch, clock=clock, rng=rng)
        self._trades = source

    def resolve(self, node_id: str, interval: int) -> NodeId:
        """Return the series of `node_id`; NodeIdError when this fetcher does not serve it."""
        named = self._settings.resolve(node_id, "trades")
        check_interval(node_id, named, interval, None)
        return named

    async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> "pl.DataFrame":
        """Return the trades with start <= ts < end of closed cells; errors as `fetch_report`."""
        return (await self.fetch_report(start, end, node_id=node_id, interval=interval)).frame

    async def fetch_report(self, start: int, end: int, *, node_id: str, interval: int) -> FetchReport:
        """Return trades, cells confirmed empty, and the number of requests.

        NodeIdError and ValueError before any request; FetchError when the exchange does not give what was
        asked after every resend.
        """
        check_range(start, end)
        named = self.resolve(node_id, interval)
        if start == end:
            return FetchReport(empty_trades(), [], 0)
        async with self._job(node_id, interval, named.symbol) as job:
            (first, last), now_s = await self._closed_part((start, end), interval, 0)
            ledger = PageLedger(first * 1000, last * 1000, HOUR_MS, interval * 1000)
            walk = _TradeWalk(
                self._trades, self._open_lane(), self._clock, job, self._settings.batch_limit, ledger
            )
            await walk_windows(ledger, self._settings.max_concurrent_windows, walk.ask)
            old_before_ms = old_end(now_s, interval, 0) * 1000
            await walk.ask_again(old_before_ms)
            frame = walk.join(first, last)
            cells = (frame["ts"] // interval * interval).unique().sort()
            runs = [(a * 1000, b * 1000) for a, b in gaps_to_runs(cells, interval)]
            before = snap_range(start, first, interval) if start < first else (0, 0)
            empty = [
                EmptySpan(span.start // 1000, span.end // 1000, span.permanent)
                for span in list_empty((before[0] * 1000, before[1] * 1000), ledger, runs, old_before_ms)
            ]
            return FetchReport(frame, empty, job.requests)

    async def follow(self, start_ms: int, end_ms: int, *, node_id: str) -> "AsyncGenerator[pl.DataFrame]":
        """Yield the trades of [start_ms, end_ms) page by page, closed or not; errors as `fetch_report`.

        Trades of a page's last millisecond come again with the next one.
        """
        named = self.resolve(node_id, 1)
        async with self._job(node_id, 1, named.symbol) as job:
            ledger = PageLedger(start_ms, end_ms, HOUR_MS, 1)
            walk = _TradeWalk(
                self._trades, self._open_lane(), self._clock, job, self._settings.batch_limit, ledger
            )
            at = start_ms
            while at < end_ms:
                at = await walk.step(at, end_ms)
                page = walk.pop()
                if page.height:
                    yield page


class _TradeWalk:
    """One fetch on its way over the hours of its ledger; times are milliseconds."""

    def __init__(
        self,
        source: TradeSource,
        lane: RequestLane,
        clock: Clock,
        job: Job,
        limit: int,
        ledger: PageLedger,
    ) -> None:
        self._source = source
        self._lane = lane
        self._clock = clock
        self._job = job
        self._limit = min(limit, source.page_limit or limit)
        self._ledger = ledger
        self._frames: list[pl.DataFrame] = []

    async def ask(self, start: int, end: int, *, is_second: bool = False) -> None:
        """Ask page after page until [start, end) is settled or found silent."""
        at = start
        while (at := self._ledger.skip(at, end)) < end:
            at = await self.step(at, end, is_second=is_second)

    async def step(self, at: int, end: int, *, is_second: bool = False) -> int:
        """Ask one page, or one millisecond by id, and return where to go on."""
        page, is_full = await self._ask_page(at, end)
        last: int = page["ts_ms"][-1] if page.height else at
        if page.height:
            self._frames.append(page)
            # The last millisecond may be cut in two: it is read again.
            self._ledger.settle(at, last)
        if page.height and is_full and last == at:
            last = await self._ask_by_id(page, (at, end))
            self._ledger.settle(at, last)
        if last > at:
            return last
        hour_end = min(end, at + HOUR_MS)
        if page.height:
            self._ledger.settle(at, at + 1)
        if at + 1 < hour_end or page.is_empty():
            after = at + 1 if page.height else at
            self._ledger.fall_silent(after, hour_end, self._clock.real_ms(), is_second=is_second)
        return hour_end

    def pop(self) -> "pl.DataFrame":
        """Return the trades read since the last time, and forget them."""
        frames, self._frames = self._frames, []
        return join_frames(frames, _KEYS, empty_trades())

    async def ask_again(self, old_before: int) -> None:
        """Ask a second time for what was found empty, a second later at the earliest."""
        for silence in self._ledger.doubts(old_before):
            left_ms = silence.asked_ms + RECHECK_MS - self._clock.real_ms()
            if left_ms > 0:
                await self._clock.sleep(left_ms / 1000)
            await self.ask(silence.start, silence.end, is_second=True)

    def join(self, first_s: int, last_s: int) -> "pl.DataFrame":
        """Return the trades of every page within [first, last) seconds."""
        frame = join_frames(self._frames, _KEYS, empty_trades())
        inside = frame["ts"].is_between(first_s, last_s, closed="left")
        return frame if inside.all() else frame.filter(inside)

    async def _ask_page(self, at: int, end: int) -> "tuple[pl.DataFrame, bool]":
        async def call() -> "tuple[pl.DataFrame, bool]":
            rows = await self._source.fetch_trades(self._job.symbol, at, self._limit)
            page = parse_trades(rows)
            return page.filter(page["ts_ms"] >= at), len(rows) >= self._limit

        return await self._lane.send(self._job, (at // 1000, -(-end // 1000)), call)

    async def _ask_by_id(self, page: "pl.DataFrame", window: tuple[int, int]) -> int:
        """Read on by id from a page that is one millisecond; return the first later one, or its own."""
        at = window[0]
        while True:
            following = _next_id(page) if self._source.is_paged_by_id else None

            async def call(following: int | None = following) -> "tuple[pl.DataFrame, bool]":
                if following is None:
                    raise RowError(
                        f"{self._limit} trades or more in millisecond {at}: one answer cannot hold them and "
                        "this exchange has no pages by id"
                    )
                rows = await self._source.fetch_trades_from(self._job.symbol, following, self._limit)
                return parse_trades(rows), len(rows) >= self._limit

            seconds = at // 1000, -(-window[1] // 1000)
            page, is_full = await self._lane.send(self._job, seconds, call)
            if page.is_empty():
                return at
            self._frames.append(page)
            last: int = page["ts_ms"][-1]
            if last > at or not is_full:
                return last


def _next_id(page: "pl.DataFrame") -> int | None:
    """Return the id after the highest of a page, None when ids are no numbers."""
    ids = page["id"].to_list()
    if not all(name.isdecimal() for name in ids):
        return None
    return max(map(int, ids)) + 1
