"""Seamless §4: however an exchange cuts its pages, a fetch gives exactly the closed cells that exist."""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.ranges import measure_ranges, merge_ranges
from qmtl.runtime.io.ccxt_fetcher import (
    CcxtBackfillConfig,
    CcxtOHLCVFetcher,
    CcxtTradesConfig,
    CcxtTradesFetcher,
)
from qmtl.runtime.sdk.history import EmptySpan
from tests.runtime.io.history_rig import NODE, T0
from tests.runtime.leap_clock import LeapClock, MidRandom

TRADES = "trades:binance:BTC/USDT"
pytestmark = pytest.mark.fuzz


class Exchange:
    """The smallest exchange: cells that exist, pages of at most `cap` rows, within `span_ms` of `since`."""

    rateLimit = 50

    def __init__(self, times_ms: Sequence[int], cap: int, span_ms: int | None) -> None:
        self.times_ms = sorted(times_ms)
        self.cap = cap
        self.span_ms = span_ms
        self.calls = 0

    def page(self, since: int, limit: int) -> list[int]:
        self.calls += 1
        found = self.times_ms[bisect_left(self.times_ms, since) :]
        if self.span_ms is not None:
            found = [ts for ts in found if ts < since + self.span_ms]
        return found[: min(limit, self.cap)]

    async def fetch_ohlcv(self, symbol: str, timeframe: str, since: int, limit: int) -> list[list[float]]:
        return [[ts, 1.0, 2.0, 0.5, 1.5, 3.0] for ts in self.page(since, limit)]

    async def fetch_trades(
        self, symbol: str, since: int | None, limit: int, params: Any = None
    ) -> list[dict[str, Any]]:
        rows = list(enumerate(self.times_ms, 1_000))
        if params:
            rows = [row for row in rows if row[0] >= params["fromId"]][: min(limit, self.cap)]
        else:
            self.calls += 1
            end = (since or 0) + 3_600_000
            rows = [row for row in rows if (since or 0) <= row[1] <= end][: min(limit, self.cap)]
        return [
            {"id": str(number), "timestamp": ts, "price": 1.0, "amount": 2.0, "side": "buy"}
            for number, ts in rows
        ]

    async def close(self) -> None:
        """Nothing to close."""


def check_empty(spans: list[EmptySpan], present: set[int], cells: range, old_before: int, step: int) -> None:
    """Confirmed ranges are whole, old, without rows, and with the rows all there is."""
    ranges = [(span.start, span.end) for span in spans]
    assert measure_ranges(merge_ranges(ranges)) == measure_ranges(ranges)
    confirmed = {cell for start, end in ranges for cell in range(start, end, step)}
    assert not confirmed & present
    assert all(start % step == 0 and end % step == 0 for start, end in ranges)
    assert confirmed == {cell for cell in cells if cell + step <= old_before} - present


@given(
    present=st.sets(st.integers(0, 80), max_size=60),
    bounds=st.tuples(st.integers(0, 4_900), st.integers(0, 4_900)),
    limit=st.integers(1, 30),
    cap=st.integers(1, 30),
    span=st.one_of(st.none(), st.integers(30, 100)),
    lanes=st.integers(1, 4),
    now=st.integers(0, 6_000),
)
def test_07_bars_are_the_closed_grid_that_exists(
    present: set[int],
    bounds: tuple[int, int],
    limit: int,
    cap: int,
    span: int | None,
    lanes: int,
    now: int,
) -> None:
    start, end = T0 + min(bounds), T0 + max(bounds)
    now_s = T0 + now
    # An exchange shows what has begun by now; a bounded answer holds a page's worth of cells at least.
    shown = [n for n in present if T0 + 60 * n <= now_s]
    span_ms = None if span is None else span * 60_000
    exchange = Exchange([(T0 + 60 * n) * 1000 for n in shown], cap, span_ms)
    config = CcxtBackfillConfig(exchange="binance", batch_limit=limit, max_concurrent_windows=lanes)
    clock = LeapClock(now_s * 1000)
    fetcher = CcxtOHLCVFetcher(config, exchange=exchange, clock=clock, rng=MidRandom())
    report = asyncio.run(fetcher.fetch_report(start, end, node_id=NODE, interval=60))
    first = -(-start // 60) * 60
    closed = range(first, max(first, min(-(-end // 60) * 60, (now_s - 2) // 60 * 60)), 60)
    expected = {T0 + 60 * n for n in shown} & set(closed)
    assert report.frame["ts"].to_list() == sorted(expected)
    check_empty(report.confirmed_empty, expected, closed, now_s // 60 * 60 - 120, 60)
    assert report.requests == exchange.calls


@given(
    offsets=st.lists(st.integers(0, 20_000_000), max_size=40),
    crowd=st.tuples(st.integers(0, 20_000_000), st.integers(0, 30)),
    bounds=st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)),
    limit=st.integers(1, 20),
    interval=st.sampled_from([1, 60, 3_600]),
    lanes=st.integers(1, 3),
)
def test_10_trades_are_those_that_exist_each_once(
    offsets: list[int],
    crowd: tuple[int, int],
    bounds: tuple[int, int],
    limit: int,
    interval: int,
    lanes: int,
) -> None:
    start, end = T0 + min(bounds), T0 + max(bounds)
    times = sorted([T0 * 1000 + ms for ms in [*offsets, *[crowd[0]] * crowd[1]]])
    # A page is as long as asked: only then can a full one be told from the last one.
    exchange = Exchange(times, 10**6, None)
    config = CcxtTradesConfig(exchange="binance", batch_limit=limit, max_concurrent_windows=lanes)
    now_s = T0 + 40_000
    fetcher = CcxtTradesFetcher(config, exchange=exchange, clock=LeapClock(now_s * 1000), rng=MidRandom())
    report = asyncio.run(fetcher.fetch_report(start, end, node_id=TRADES, interval=interval))
    expected = {str(n): ts for n, ts in enumerate(times, 1_000) if start <= ts // 1000 < end}
    assert sorted(report.frame["id"].to_list()) == sorted(expected)
    assert report.frame["ts_ms"].to_list() == sorted(expected.values())
    cells = range(-(-start // interval) * interval, end // interval * interval, interval)
    present = {ts // 1000 // interval * interval for ts in expected.values()}
    check_empty(report.confirmed_empty, present, cells, now_s, interval)
