"""Seamless §4: bars through real ccxt from the paper exchange, page by page, holes and faults included."""

import sys
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig, CcxtOHLCVFetcher
from qmtl.runtime.sdk.history import EmptySpan
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.history_rig import NODE, T0, History, bar, configure, history
from tests.runtime.leap_clock import MidRandom

__all__ = ["configure", "history"]
LATER_S = T0 + 90 * 86_400


def make(place: History, **fields: Any) -> CcxtOHLCVFetcher:
    given = {"exchange": "binance", "symbols": ["BTC/USDT"], "timeframe": "1m", **fields}
    return CcxtOHLCVFetcher(CcxtBackfillConfig(**given), clock=place.clock, rng=MidRandom())


def minutes_of(frame: pl.DataFrame) -> list[int]:
    return [(ts - T0) // 60 for ts in frame["ts"].to_list()]


@pytest.mark.parametrize(("bars", "limit"), [(1440, 500), (1000, 1000), (1001, 1000), (7, 3), (2500, 1000)])
async def test_07_n_bars_take_ceil_n_requests(history: Callable[..., Any], bars: int, limit: int) -> None:
    place = await history(range(-5, bars + 5), LATER_S)
    report = await make(place, batch_limit=limit).fetch_report(T0, T0 + 60 * bars, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == list(range(bars))
    assert report.frame.rows()[3] == (T0 + 180, *bar(3))
    assert report.confirmed_empty == []
    assert report.requests == place.klines.seen == -(-bars // limit)
    assert [str(kind) for kind in report.frame.dtypes] == ["Int64"] + ["Float64"] * 5


async def test_06_bars_around_an_outage_come_with_the_gap_confirmed(history: Callable[..., Any]) -> None:
    place = await history([*range(400), *range(700, 1110)], LATER_S)
    fetcher = make(place)
    report = await fetcher.fetch_report(T0, T0 + 60 * 1110, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == [*range(400), *range(700, 1110)]
    assert report.confirmed_empty == [EmptySpan(T0 + 60 * 400, T0 + 60 * 700, permanent=True)]
    assert report.requests == 1


async def test_a_first_bar_beyond_the_window_skips_everything_before_it(history: Callable[..., Any]) -> None:
    place = await history(range(50_000, 50_010), LATER_S)
    report = await make(place).fetch_report(T0, T0 + 60 * 50_010, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == list(range(50_000, 50_010))
    assert report.confirmed_empty == [EmptySpan(T0, T0 + 60 * 50_000, permanent=True)]
    assert report.requests <= 2


async def test_nothing_twice_a_second_apart_is_empty_for_a_day(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    report = await make(place, batch_limit=5).fetch_report(T0, T0 + 60 * 20, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == list(range(10))
    assert report.confirmed_empty == [EmptySpan(T0 + 600, T0 + 1200, permanent=False)]
    assert report.requests == 2 + 2 * 2
    assert 0.8 < max(place.clock.slept) <= 1.0


async def test_one_empty_answer_proves_nothing(history: Callable[..., Any]) -> None:
    place = await history(range(40), LATER_S)
    place.fault(FaultKind.EMPTY, schedule=[2])
    report = await make(place, batch_limit=10).fetch_report(T0, T0 + 60 * 40, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == list(range(40))
    assert report.confirmed_empty == []


async def test_short_pages_are_continued_while_they_progress(history: Callable[..., Any]) -> None:
    place = await history(range(2_500), LATER_S)
    # The exchange never gives more than 1,000.
    report = await make(place, batch_limit=2_000).fetch_report(T0, T0 + 150_000, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == list(range(2_500))
    assert report.requests == 3


async def test_08_forming_bars_never_reach_a_fetch(history: Callable[..., Any]) -> None:
    place = await history(range(100), T0 + 60 * 50 + 61)
    fetcher = make(place)
    report = await fetcher.fetch_report(T0, T0 + 60 * 60, node_id=NODE, interval=60)
    # Minute 50 ended a second ago; it is closed once two have passed.
    assert minutes_of(report.frame) == list(range(50))
    assert report.confirmed_empty == []
    await place.clock.sleep(1)
    assert minutes_of(await fetcher.fetch(T0, T0 + 3600, node_id=NODE, interval=60)) == list(range(51))


async def test_a_wrong_clock_is_corrected_near_the_live_edge(history: Callable[..., Any]) -> None:
    place = await history(range(100), T0 + 60 * 50 + 62)
    place.fault(FaultKind.SKEW, "*", seconds=-3.0)
    times = place.count("GET /api/v3/time")
    fetcher = make(place)
    await fetcher.fetch(T0, T0 + 600, node_id=NODE, interval=60)
    assert times.seen == 0
    frame = await fetcher.fetch(T0, T0 + 3600, node_id=NODE, interval=60)
    # Three seconds behind ours, minute 50 is still open there.
    assert (times.seen, minutes_of(frame)[-1]) == (1, 49)


async def test_young_gaps_are_not_confirmed(history: Callable[..., Any]) -> None:
    present = [n for n in range(50) if n not in {20, 47}]
    place = await history(present, T0 + 60 * 50 + 2)
    report = await make(place).fetch_report(T0, T0 + 3000, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == present
    # Minute 48 ended 2 minutes ago: what ended later may still come.
    assert report.confirmed_empty == [
        EmptySpan(T0 + 60 * n, T0 + 60 * (n + 1), permanent=True) for n in (20, 47)
    ]
    place = await history([*range(48), 49], T0 + 60 * 50 + 3)
    report = await make(place).fetch_report(T0, T0 + 3000, node_id=NODE, interval=60)
    assert report.confirmed_empty == []


async def test_before_the_earliest_time_nothing_is_asked(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    fetcher = make(place, earliest_ts=T0 + 61)
    report = await fetcher.fetch_report(T0, T0 + 300, node_id=NODE, interval=60)
    assert minutes_of(report.frame) == [2, 3, 4]
    assert report.confirmed_empty == [EmptySpan(T0, T0 + 120, permanent=True)]
    report = await fetcher.fetch_report(T0, T0 + 60, node_id=NODE, interval=60)
    assert (report.requests, report.confirmed_empty) == (0, [EmptySpan(T0, T0 + 60, permanent=True)])


async def test_misaligned_bounds_mean_the_cells_that_start_inside(history: Callable[..., Any]) -> None:
    place = await history(range(-5, 20), LATER_S)
    fetcher = make(place)
    assert minutes_of(await fetcher.fetch(T0 - 1, T0 + 121, node_id=NODE, interval=60)) == [0, 1, 2]
    assert minutes_of(await fetcher.fetch(T0 + 1, T0 + 60, node_id=NODE, interval=60)) == []
    empty = await fetcher.fetch(T0, T0, node_id=NODE, interval=60)
    assert (empty.height, empty.columns[0], str(empty["ts"].dtype)) == (0, "ts", "Int64")
    for start, end in ((T0, T0 - 1), (-60, T0), (True, T0)):
        with pytest.raises(ValueError, match="start"):
            await fetcher.fetch(start, end, node_id=NODE, interval=60)


async def test_weeks_begin_on_monday(history: Callable[..., Any]) -> None:
    place = await history(range(0, 60 * 24 * 21, 60), LATER_S)
    node = "ohlcv:binance:BTC/USDT:1w"
    frame = await make(place, timeframe="1w").fetch(T0, T0 + 21 * 86_400, node_id=node, interval=604_800)
    assert frame["ts"].to_list() == [1_707_091_200, 1_707_696_000, 1_708_300_800]


async def test_04_an_unescaped_perpetual_raises_before_any_call(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    fetcher = make(place, exchange="binanceusdm", symbols=None)
    calls = place.count("*")
    for node, interval, reason in (
        ("ohlcv:binanceusdm:BTC/USDT:USDT:1m", 60, "write 'ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m'"),
        ("ohlcv:binance:BTC/USDT:1m", 60, "the exchange is not"),
        ("ohlcv:binanceusdm:BTC/USDT%3AUSDT:5m", 300, "the timeframe is not"),
        ("ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m", 300, "interval 300"),
        ("trades:binanceusdm:BTC/USDT%3AUSDT", 60, "expected a series of ohlcv"),
        ("price", 60, "it must start"),
    ):
        with pytest.raises(NodeIdError, match=reason):
            await fetcher.fetch(T0, T0 + 60, node_id=node, interval=interval)
    with pytest.raises(NodeIdError, match="not among"):
        await make(place, symbols=["ETH/USDT"]).fetch(T0, T0 + 60, node_id=NODE, interval=60)
    assert calls.seen == 0


async def test_sessions_keep_the_exchange_open_and_a_fetch_closes_it(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    fetcher = make(place)
    infos = place.count("GET /api/v3/exchangeInfo")
    async with fetcher.session() as same:
        assert same is fetcher
        await fetcher.fetch(T0, T0 + 60, node_id=NODE, interval=60)
        assert fetcher._source.api.session is not None
        await fetcher.fetch(T0, T0 + 120, node_id=NODE, interval=60)
    assert fetcher._source.api.session is None
    assert await fetcher.fetch(T0, T0 + 120, node_id=NODE, interval=60) is not None
    assert fetcher._source.api.session is None
    assert infos.seen <= 1
    assert (fetcher.endpoint, fetcher.environment) == (place.url, "test")


def test_endpoints_are_production_without_a_base_url(configure: Callable[..., None]) -> None:
    fetcher = CcxtOHLCVFetcher(CcxtBackfillConfig(exchange="binance"))
    assert (fetcher.endpoint, fetcher.environment) == (None, "production")


async def test_41_ccxt_missing_is_one_line(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    fetcher = CcxtOHLCVFetcher(CcxtBackfillConfig(exchange="binance"))
    with pytest.raises(RuntimeError) as caught:
        await fetcher.fetch(T0, T0 + 60, node_id=NODE, interval=60)
    assert str(caught.value) == "ccxt is required for CcxtOHLCVFetcher; run: uv pip install -e .[ccxt]"
