"""The rules of HistoryStore: rows, coverage, fences and environments, for every store."""

import pytest

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.sdk.history import SeriesKey, StaleFenceError, StoreEnvironmentError, StoreError
from qmtl.runtime.sdk.history_frame import frame_schema
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from tests.contracts.history_rows import (
    DAYS,
    MINUTES,
    MONTH_END,
    SECONDS,
    TRADES,
    bars,
    minutes,
    spans,
    trades,
)
from tests.contracts.store_places import StorePlace

M = MONTH_END


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [MINUTES, SECONDS, TRADES])
async def test_an_unknown_series_is_empty_and_keeps_its_schema(place: StorePlace, key: SeriesKey) -> None:
    store = place.open()
    frame = await store.read(key, 0, 2**33)
    assert frame.height == 0
    assert dict(frame.schema) == frame_schema(key)
    assert await store.coverage(key) == []
    await store.aclose()


async def test_27_rows_written_twice_stay_and_are_readable_when_write_returns(place: StorePlace) -> None:
    store = place.open()
    rows = minutes(M - 60 * 500, 1000)
    for _ in range(2):
        assert await store.write(MINUTES, rows, covered=[(M - 30_000, M + 30_000)]) == 1000
        assert (await store.read(MINUTES, 0, 2**33)).equals(rows)
    assert await store.coverage(MINUTES) == spans((M - 30_000, M + 30_000, "rows"))
    await store.aclose()


async def test_reads_are_half_open_and_take_misaligned_bounds(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M - 300, 10), covered=[(M - 300, M + 300)])

    async def times(start: int, end: int) -> list[int]:
        return (await store.read(MINUTES, start, end))["ts"].to_list()

    assert await times(M - 60, M + 60) == [M - 60, M]
    assert await times(M - 59, M + 61) == [M, M + 60]
    assert await times(M, M) == []
    assert await times(M + 1, M + 59) == []
    for start, end in ((60, 0), (-60, 0), (-120, -60)):
        with pytest.raises(ValueError, match="range"):
            await store.read(MINUTES, start, end)
    await store.aclose()


async def test_the_last_write_wins_row_by_row(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M - 300, 10), covered=[])
    await store.write(MINUTES, bars([M + 60, M - 60, M - 60], seed=7.0), covered=[])
    await store.write(MINUTES, bars([M - 600], seed=3.0), covered=[])
    expected = {row[0]: row for row in minutes(M - 300, 10).rows()}
    expected |= {row[0]: row for row in bars([M + 60, M - 60], 7.0).rows() + bars([M - 600], 3.0).rows()}
    assert (await store.read(MINUTES, 0, 2**33)).rows() == [expected[ts] for ts in sorted(expected)]
    await store.aclose()


async def test_trades_are_one_row_for_a_millisecond_and_id(place: StorePlace) -> None:
    store = place.open()
    first = [(M * 1000 - 1, "9", 1.0), (M * 1000, "10", 2.0), (M * 1000, "~1:2:3:buy:0", 3.0)]
    await store.write(TRADES, trades(first), covered=[(M - 3600, M + 3600)])
    again = [(M * 1000, "10", 5.0), (M * 1000 + 1, "10", 6.0), (M * 1000, "11", 4.0)]
    await store.write(TRADES, trades(again), covered=[(M - 3600, M + 3600)])
    frame = await store.read(TRADES, M - 3600, M + 3600)
    expected = [first[0], again[0], again[2], first[2], again[1]]
    assert frame.equals(trades(expected))
    assert (await store.read(TRADES, M, M + 1)).equals(trades(expected[1:]))
    await store.aclose()


async def test_series_do_not_mix(place: StorePlace) -> None:
    store = place.open()
    keys = [
        MINUTES,
        SeriesKey("ohlcv:binance:btc/usdt:1m", 60),
        SeriesKey("ohlcv:binanceusdm:BTC/USDT:1m", 60),
    ]
    for number, key in enumerate(keys):
        await store.write(key, minutes(M, 5, seed=number), covered=[(M, M + 60 * number)])
    for number, key in enumerate(keys):
        assert (await store.read(key, 0, 2**33)).equals(minutes(M, 5, seed=number))
        assert await store.coverage(key) == (spans((M, M + 60 * number, "rows")) if number else [])
    await store.aclose()


@pytest.mark.parametrize(
    "symbol",
    [
        "..",
        "../../../etc/passwd",
        "..\\..\\x",
        "a/../../b",
        "$(id)",
        "'; DROP TABLE ohlcv;--",
        '"',
        "%25",
        "é" * 300,
    ],
)
async def test_29_36_a_hostile_symbol_is_a_name_and_nothing_else(place: StorePlace, symbol: str) -> None:
    store = place.open()
    key = SeriesKey(f"ohlcv:binance:{symbol.replace(' ', '_')}:1m", 60)
    await store.write(MINUTES, minutes(M, 3), covered=[(M, M + 180)])
    await store.write(key, minutes(M, 5, seed=2.0), covered=[(M, M + 300)])
    await store.mark_empty(key, [(M + 300, M + 360)], permanent=True)
    assert (await store.read(key, 0, 2**33)).equals(minutes(M, 5, seed=2.0))
    assert await store.coverage(key) == spans((M, M + 300, "rows"), (M + 300, M + 360, "empty"))
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 3))
    await store.aclose()


@pytest.mark.parametrize(
    "key",
    [
        SeriesKey("ohlcv:binance:BTC\0USDT:1m", 60),
        SeriesKey("ohlcv:binance:BTC/USDT:USDT:1m", 60),
        SeriesKey("../../x", 60),
        SeriesKey("ohlcv:binance:BTC/USDT:1m", 61),
        SeriesKey("trades:binance:BTC/USDT", 0),
    ],
)
async def test_a_key_that_names_no_series_is_refused(place: StorePlace, key: SeriesKey) -> None:
    store = place.open()
    with pytest.raises(NodeIdError):
        await store.read(key, 0, 60)
    with pytest.raises(NodeIdError):
        await store.write(key, minutes(M, 1), covered=[])
    with pytest.raises(NodeIdError):
        await store.mark_empty(key, [(0, 60)], permanent=True)
    with pytest.raises(NodeIdError):
        await store.coverage(key)
    await store.aclose()


async def test_a_frame_of_another_shape_is_refused_and_nothing_changes(place: StorePlace) -> None:
    store = place.open()
    good = minutes(M, 3)
    await store.write(MINUTES, good, covered=[(M, M + 180)])
    bad = {
        "open is missing": good.drop("open"),
        "ts is Float64": good.cast({"ts": float}),
        "closed": good.with_columns(closed=True),
        "null": good.with_columns(ts=good["ts"].shift(1)),
        "negative": bars([-60]),
    }
    for reason, frame in bad.items():
        with pytest.raises(ValueError, match=reason):
            await store.write(MINUTES, frame, covered=[(M, M + 6000)])
    with pytest.raises(ValueError, match="range"):
        await store.write(MINUTES, good, covered=[(M + 60, M)])
    late = trades([(M * 1000, "1", 1.0)])
    late = late.with_columns(late["ts"] + 1)
    with pytest.raises(ValueError, match="ts_ms"):
        await store.write(TRADES, late, covered=[])
    assert (await store.read(MINUTES, 0, 2**33)).equals(good)
    assert await store.coverage(MINUTES) == spans((M, M + 180, "rows"))
    await store.aclose()


async def test_what_one_store_wrote_another_reads_and_adds_to(place: StorePlace) -> None:
    one, two = place.open(), place.open()
    await one.write(MINUTES, minutes(M - 120, 2), covered=[(M - 120, M)])
    assert (await two.read(MINUTES, 0, 2**33)).height == 2
    await two.write(MINUTES, minutes(M, 2), covered=[(M, M + 120)])
    await two.aclose()
    assert (await one.read(MINUTES, 0, 2**33)).equals(minutes(M - 120, 4))
    assert await one.coverage(MINUTES) == spans((M - 120, M + 120, "rows"))
    await one.aclose()


async def test_a_closed_store_says_so(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.read(MINUTES, 0, 60)
    with pytest.raises(StoreError, match="closed"):
        await store.write(MINUTES, minutes(M, 1), covered=[])


# --- coverage -------------------------------------------------------------------------------------


async def test_coverage_says_only_what_was_said(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M, 10), covered=[(M + 60, M + 180), (M + 180, M + 240)])
    await store.write(MINUTES, minutes(M, 0), covered=[(M + 1200, M + 1260)])
    await store.write(MINUTES, minutes(M, 1), covered=[(M, M)])
    assert await store.coverage(MINUTES) == spans((M + 60, M + 240, "rows"), (M + 1200, M + 1260, "rows"))
    await store.aclose()


async def test_young_spans_become_rows_when_written_for_good(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M, 5), covered=[(M, M + 300)], provisional=True)
    assert await store.coverage(MINUTES) == spans((M, M + 300, "young"))
    await store.write(MINUTES, minutes(M + 60, 2, 1.0), covered=[(M + 60, M + 180)])
    parts = spans((M, M + 60, "young"), (M + 60, M + 180, "rows"), (M + 180, M + 300, "young"))
    assert await store.coverage(MINUTES) == parts
    await store.write(MINUTES, minutes(M, 5, 2.0), covered=[(M, M + 300)], provisional=True)
    assert await store.coverage(MINUTES) == parts
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 5, 2.0))
    await store.aclose()


async def test_empty_for_a_day_ends_and_empty_for_good_does_not(place: StorePlace) -> None:
    clock = VirtualClock((M + 10_000) * 1000)
    store = place.open(clock)
    await store.mark_empty(MINUTES, [(M, M + 60), (M + 120, M + 180)], permanent=False)
    await store.mark_empty(MINUTES, [(M + 60, M + 120)], permanent=True)
    now = M + 10_000
    every = spans((M, M + 60, "empty_24h"), (M + 60, M + 120, "empty"), (M + 120, M + 180, "empty_24h"))
    assert await store.coverage(MINUTES) == every
    assert await store.coverage(MINUTES, now=now + 86_399) == every
    assert await store.coverage(MINUTES, now=now + 86_400) == spans((M + 60, M + 120, "empty"))
    clock.set_now_ms((now + 86_400) * 1000)
    assert await store.coverage(MINUTES) == spans((M + 60, M + 120, "empty"))
    await store.mark_empty(MINUTES, [(M, M + 180)], permanent=False)
    assert await store.coverage(MINUTES) == every
    await store.aclose()


async def test_what_holds_rows_is_never_called_empty(place: StorePlace) -> None:
    store = place.open()
    await store.mark_empty(MINUTES, [(M + 120, M + 240)], permanent=True)
    await store.write(MINUTES, minutes(M, 3), covered=[(M, M + 180)])
    await store.mark_empty(MINUTES, [(M - 60, M + 300)], permanent=True)
    expected = spans((M - 60, M, "empty"), (M, M + 180, "rows"), (M + 180, M + 300, "empty"))
    assert await store.coverage(MINUTES) == expected
    await store.mark_empty(MINUTES, [(M - 60, M + 300)], permanent=False)
    assert await store.coverage(MINUTES) == expected
    await store.aclose()


async def test_a_young_cell_can_turn_out_empty(place: StorePlace) -> None:
    store = place.open(VirtualClock((M + 10_000) * 1000))
    await store.write(MINUTES, minutes(M, 1), covered=[(M, M + 180)], provisional=True)
    await store.mark_empty(MINUTES, [(M + 60, M + 120)], permanent=True)
    await store.mark_empty(MINUTES, [(M + 120, M + 180)], permanent=False)
    expected = spans((M, M + 60, "young"), (M + 60, M + 120, "empty"), (M + 120, M + 180, "empty_24h"))
    assert await store.coverage(MINUTES) == expected
    await store.aclose()


async def test_coverage_of_days_over_years(place: StorePlace) -> None:
    store = place.open()
    start = M - 400 * 86_400
    await store.write(DAYS, bars(range(start, M, 86_400)), covered=[(start, M)])
    assert (await store.read(DAYS, 0, 2**33)).height == 400
    assert await store.coverage(DAYS) == spans((start, M, "rows"))
    await store.aclose()


# --- fences ---------------------------------------------------------------------------------------


async def test_a_stale_fence_is_refused_and_nothing_changes(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M, 5), covered=[(M, M + 300)], fence=7)
    with pytest.raises(StaleFenceError, match="7"):
        await store.write(MINUTES, minutes(M + 240, 5, 1.0), covered=[(M + 240, M + 540)], fence=6)
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 5))
    assert await store.coverage(MINUTES) == spans((M, M + 300, "rows"))
    await store.write(MINUTES, minutes(M, 5, 1.0), covered=[(M, M + 300)], fence=7)
    await store.write(MINUTES, minutes(M + 300, 5), covered=[(M + 300, M + 600)], fence=3)
    await store.write(MINUTES, minutes(M + 120, 1, 2.0), covered=[(M + 120, M + 180)], fence=9)
    await store.aclose()
    again = place.open()
    with pytest.raises(StaleFenceError, match="9"):
        await again.write(MINUTES, minutes(M, 5), covered=[(M, M + 300)], fence=8)
    await again.write(MINUTES, minutes(M, 2), covered=[(M, M + 120)], fence=8)
    await again.write(MINUTES, minutes(M, 5, 3.0), covered=[(M, M + 300)])
    assert (await again.read(MINUTES, M, M + 300)).equals(minutes(M, 5, 3.0))
    await again.aclose()


async def test_fences_of_one_series_do_not_bind_another(place: StorePlace) -> None:
    store = place.open()
    await store.write(MINUTES, minutes(M, 5), covered=[(M, M + 300)], fence=7)
    await store.write(SECONDS, bars(range(M, M + 5)), covered=[(M, M + 5)], fence=1)
    assert (await store.read(SECONDS, 0, 2**33)).height == 5
    await store.aclose()


# --- environments ---------------------------------------------------------------------------------


async def test_environments_never_mix(place: StorePlace) -> None:
    test = place.open()
    test.environment = "test"
    await test.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    await test.aclose()
    real = place.open()
    real.environment = "production"
    for _ in range(2):
        with pytest.raises(StoreEnvironmentError, match="test"):
            await real.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    with pytest.raises(StoreEnvironmentError, match="test"):
        await real.mark_empty(MINUTES, [(M, M + 60)], permanent=True)
    with pytest.raises(StoreEnvironmentError, match="test"):
        await real.read(MINUTES, 0, 2**33)
    with pytest.raises(StoreEnvironmentError, match="test"):
        await real.coverage(MINUTES)
    await real.aclose()
    whichever = place.open()
    await whichever.write(MINUTES, minutes(M + 60, 1), covered=[(M + 60, M + 120)])
    assert (await whichever.read(MINUTES, 0, 2**33)).height == 2
    await whichever.aclose()


async def test_rows_of_unknown_origin_count_as_production(place: StorePlace) -> None:
    store = place.open()
    await store.mark_empty(MINUTES, [(M, M + 60)], permanent=True)
    await store.aclose()
    test = place.open()
    test.environment = "test"
    with pytest.raises(StoreEnvironmentError, match="production"):
        await test.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    await test.aclose()
