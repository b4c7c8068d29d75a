"""What the fetchers of bars and of trades have in common: a source, one lane of requests, sessions, time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, Self

from qmtl.core.ranges import Range
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.fetch_settings import FetchSettings
from qmtl.runtime.io.page_ledger import PageLedger, closed_end
from qmtl.runtime.io.rate_limiter import open_limiter
from qmtl.runtime.io.request_lane import FaultJudge, Job, RequestLane
from qmtl.runtime.sdk.history import CLOSE_GRACE_S, EmptySpan, FetchError

_LIVE_EDGE_S = 60
_OFFSET_LASTS_MS = 600_000.0


class HistorySource(FaultJudge, Protocol):
    """Where a fetcher's rows come from."""

    @property
    def endpoint(self) -> str | None:
        """The base address, None for the exchange's own hosts."""

    @property
    def environment(self) -> Any:
        """`production`, `test`, or None for a double without addresses."""

    @property
    def rate_limit_ms(self) -> float | None:
        """The exchange's own interval between requests."""

    async def open(self) -> None:
        """Get ready; contacts nobody."""

    async def close(self) -> None:
        """Close connections."""

    async def fetch_time_ms(self) -> int | None:
        """Return the exchange's time, None when it does not tell."""


class HistoryFetcher:
    """Base of the fetchers; constructing it contacts nobody and needs no loop.

    The source closes after each top-level fetch unless `close_after_fetch` is false; `async with
    fetcher.session()` keeps it open across several. `aclose` closes it for good measure.
    """

    def __init__(
        self,
        config: FetchSettings,
        source: HistorySource,
        *,
        close_after_fetch: bool,
        clock: Clock | None,
        rng: Random | None,
    ) -> None:
        self._settings = config
        self._source = source
        self._close_after_fetch = close_after_fetch
        self._clock: Clock = clock or SystemClock()
        self._rng: Random = rng or SystemRandom()
        self._lane: RequestLane | None = None
        self._users = 0
        self._offset_ms = 0.0
        self._offset_read_ms: float | None = None

    @property
    def endpoint(self) -> str | None:
        """The base address it talks to, None for the exchange's own hosts or a double without addresses."""
        return self._source.endpoint

    @property
    def environment(self) -> Any:
        """`production` or `test`; None for a double without addresses."""
        return self._source.environment

    @property
    def clock_offset_ms(self) -> float:
        """How far the exchange's clock is ahead of ours, as compared last; 0 before that."""
        return self._offset_ms

    def session(self) -> Any:
        """Return an async context manager that keeps the exchange open and gives this fetcher."""
        return self._visit()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the exchange; a later fetch opens it again."""
        await self._close_connections()

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Self]:
        # Counted before it is open: whoever leaves meanwhile must not close it.
        self._users += 1
        try:
            await self._source.open()
            yield self
        finally:
            self._users -= 1
            if not self._users and self._close_after_fetch:
                await self._close_connections()

    async def _close_connections(self) -> None:
        """Close what is open, unless a fetch began meanwhile; limits and penalties stay as they are."""
        is_used = self._users
        if self._lane is not None and self._lane.loop is asyncio.get_running_loop():
            await self._lane.limiter.aclose()
        if self._users <= is_used:
            await self._source.close()

    @asynccontextmanager
    async def _job(self, node_id: str, interval: int, symbol: str) -> AsyncIterator[Job]:
        """One fetch within an open source; failures are counted, long waits are told."""
        async with self._visit():
            job = Job(node_id, interval, symbol, self._clock.real_ms())
            try:
                yield job
            except FetchError:
                SEAMLESS.backfill_failure.labels(*SEAMLESS.series(node_id, interval)).inc()
                raise
            finally:
                self._open_lane().close_job(job)

    def _open_lane(self) -> RequestLane:
        """Return the lane of this loop."""
        if self._lane is None or self._lane.loop is not asyncio.get_running_loop():
            config = self._settings
            limiter = open_limiter(
                f"ccxt:{config.exchange}",
                config.rate_limiter,
                rate_limit_ms=self._source.rate_limit_ms,
                clock=self._clock,
                rng=self._rng,
            )
            self._lane = RequestLane(
                config.exchange,
                limiter,
                self._source,
                max_retries=config.max_retries,
                retry_backoff_s=config.retry_backoff_s,
                penalty_backoff_ms=config.rate_limiter.penalty_backoff_ms,
                clock=self._clock,
                rng=self._rng,
            )
        return self._lane

    # --- time ---------------------------------------------------------------------------------------

    async def _now_s(self, end: int) -> int:
        """Return the present second; for a range that ends near it, by the exchange's clock."""
        clock = self._clock
        is_live = end + _LIVE_EDGE_S * clock.speed > clock.now_ms() / 1000
        if not is_live:
            return int(clock.now_ms() // 1000)
        is_stale = self._offset_read_ms is None or clock.real_ms() - self._offset_read_ms > _OFFSET_LASTS_MS
        if is_stale:
            before_ms = clock.now_ms()
            told_ms = await self._source.fetch_time_ms()
            if told_ms is not None:
                self._offset_ms = told_ms - (before_ms + clock.now_ms()) / 2
                self._offset_read_ms = clock.real_ms()
        return int((clock.now_ms() + self._offset_ms) // 1000)

    async def _closed_part(self, cells: Range, step: int, offset: int) -> tuple[Range, int]:
        """Return what of a range of cells is closed and not before `earliest_ts`, and the present second."""
        first, last = cells
        now_s = await self._now_s(last)
        last = min(last, closed_end(now_s, step, offset, CLOSE_GRACE_S))
        if self._settings.earliest_ts is not None:
            earliest = self._settings.earliest_ts
            first = max(first, earliest + (offset - earliest) % step)
        return (min(first, max(last, cells[0])), max(last, cells[0])), now_s


async def walk_windows(ledger: PageLedger, lanes: int, walk: Any) -> None:
    """Let `walk(start, end)` go over every window: the first alone, the rest `lanes` at a time.

    The first answer may settle what the others would ask, and a wrong symbol costs one request.
    """
    window = ledger.next_window()
    if window is None:
        return
    await walk(*window)

    async def work() -> None:
        while (window := ledger.next_window()) is not None:
            await walk(*window)

    tasks = [asyncio.create_task(work()) for _ in range(lanes)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def list_empty(before: Range, ledger: PageLedger, rows: Sequence[Range], old_before: int) -> list[EmptySpan]:
    """Return the confirmed empty ranges: those before the earliest time, then what the pages proved."""
    lasting, daily = ledger.empty(rows, old_before)
    spans = [EmptySpan(start, end, permanent=True) for start, end in lasting]
    spans += [EmptySpan(start, end, permanent=False) for start, end in daily]
    if before[0] < before[1]:
        spans.append(EmptySpan(*before, permanent=True))
    return sorted(spans)
