"""Where candles come from: every file format, every fault named, synthetic markets that repeat."""

import gzip
from itertools import islice, pairwise
from math import log
from pathlib import Path
from statistics import stdev
from typing import Any

import polars as pl
import pytest

from qmtl.core.bar import BarError, find_fault
from qmtl.engine.candle_path import CandlePath
from qmtl.services.paper_exchange.candles import MINUTE_MS, load_candles, load_funding, open_candles
from qmtl.services.paper_exchange.market import Market
from qmtl.services.paper_exchange.settings import MarketSettings

NOW_MS = 1_750_000_000_123
RECORDED = {
    "BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather": 73_139,
    "BTCUSDT_UM_1m_2025-07-13_2025-08-12.parquet": 43_200,
    "FILUSDT-1m-2023-08.csv.gz": 44_640,
    "UNITTEST_BTC-1m.feather": 13_681,
}


@pytest.mark.recorded
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_files_load_whole(recorded_data: Path, name: str) -> None:
    bars = load_candles(recorded_data / "candles" / name)
    assert len(bars) == RECORDED[name]
    assert find_fault(bars, MINUTE_MS) is None


@pytest.mark.recorded
def test_recorded_prices_print_exactly(recorded_data: Path) -> None:
    path = recorded_data / "candles/FILUSDT-1m-2023-08.csv.gz"
    market = Market(MarketSettings(symbol="FILUSDT", candles=path), CandlePath.OPEN_LOW_HIGH_CLOSE, 1 << 60)
    assert len(market.bars) == RECORDED[path.name]
    for bar in market.bars[::97]:
        assert float(market.price(bar.low)) == bar.low
        assert float(market.quantity(bar.volume)) == bar.volume


def write(path: Path, *rows: str, header: str = "timestamp,open,high,low,close,volume") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["60000,1,2,0.5,1,1", "60000,1,2,0.5,1,1"], "row 1: time 60000 is not after"),
        (["60000,1,2,0.5,1,1", "120001,1,2,0.5,1,1"], "row 1: time 120001 is not on the 60000 ms grid"),
        (["60000,1,0.9,0.5,1,1"], "row 0: low <= open"),
        (["60000,1,2,0.5,1,-1"], "row 0: price or volume"),
        (["60000,1,,0.5,1,1", "120000,1,2,0.5,1,1"], "row 0: no high"),
        (["60000,1,x,0.5,1,1"], "row 0: high 'x' is no number"),
        (["soon,1,2,0.5,1,1"], "row 0: timestamp 'soon' is no time"),
        ([], "no candles"),
    ],
)
def test_a_faulty_row_is_named_with_its_file(tmp_path: Path, rows: list[str], words: str) -> None:
    path = write(tmp_path / "bad.csv", *rows)
    with pytest.raises(BarError) as error:
        load_candles(path)
    assert str(path) in str(error.value)
    if rows:
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_columns_formats_and_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,2", header="when,open")
    with pytest.raises(
        BarError, match=r"missing columns date \| timestamp \| open_time, high, low, close, volume"
    ):
        load_candles(path)
    with pytest.raises(BarError, match=r"expected \.feather, \.parquet, \.csv, \.csv\.gz or \.zip"):
        load_candles(write(tmp_path / "a.xlsx"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_candles(tmp_path / "none.csv")
    broken = tmp_path / "a.parquet"
    broken.write_bytes(b"PAR1 but not really")
    with pytest.raises(BarError, match="cannot be read"):
        load_candles(broken)


def test_one_candle_in_every_format(tmp_path: Path) -> None:
    frame = pl.DataFrame({"date": ["2025-01-01T00:00:00Z"], "open": [1.0], "high": [2.0], "low": [0.5],
                          "close": [1.5], "volume": [3]})  # fmt: skip
    timed = frame.with_columns(pl.col("date").str.to_datetime(time_zone="UTC"))
    timed.write_ipc(tmp_path / "a.feather")
    timed.write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    loaded = {
        suffix: load_candles(tmp_path / f"a{suffix}")
        for suffix in (".feather", ".parquet", ".csv", ".csv.gz")
    }
    assert [bars[0].open_ms for bars in loaded.values()] == [1_735_689_600_000] * 4
    assert all(bars == loaded[".csv"] for bars in loaded.values())


@pytest.mark.recorded
def test_funding_rates_by_slot(recorded_data: Path) -> None:
    rates = load_funding(recorded_data / "candles/BTCUSDT_UM_8h-funding_rate.feather")
    assert len(rates) == 266
    assert max(rates) - min(rates) == 265
    assert load_funding(None) == {}


def test_a_synthetic_market_repeats_and_looks_like_one() -> None:
    def bars(seed: int) -> list[Any]:
        series = open_candles(MarketSettings(seed=seed, history=2_000), NOW_MS)
        assert series.is_synthetic
        return [*series.history, *islice(series.future, 1_000)]

    one = bars(1)
    assert one == bars(1) != bars(2)
    assert find_fault(one, MINUTE_MS) is None
    assert [b.open_ms - a.open_ms for a, b in pairwise(one)] == [MINUTE_MS] * 2_999
    assert one[1_999].open_ms + MINUTE_MS <= NOW_MS < one[2_000].open_ms + MINUTE_MS
    returns = [log(bar.close / bar.open) for bar in one]
    assert 0.0004 < stdev(returns) < 0.0006
    assert all(50_000 < bar.close < 72_000 for bar in one)


def test_shifted_candles_end_around_now(tmp_path: Path) -> None:
    rows = [f"{60_000 * n},{n + 1},{n + 2},{n + 0.5},{n + 1},1" for n in range(50)]
    path = write(tmp_path / "a.csv", *rows)
    series = open_candles(MarketSettings(candles=path, is_shifted=True, ahead=10), NOW_MS)
    future = list(series.future)
    assert (len(series.history), len(future)) == (40, 10)
    assert future[0].open_ms <= NOW_MS < future[0].open_ms + MINUTE_MS
    assert future[0].open == 41.0
    with pytest.raises(BarError, match="50 candles; ahead must be 1 to 49"):
        open_candles(MarketSettings(candles=path, is_shifted=True, ahead=50), NOW_MS)


def test_trades_are_found_by_id_time_and_end(tmp_path: Path) -> None:
    rows = [f"{60_000 * n},100,{101 + n},99,100,8" for n in range(10)]
    market = Market(
        MarketSettings(candles=write(tmp_path / "a.csv", *rows)),
        CandlePath.OPEN_LOW_HIGH_CLOSE,
        8 * 60_000 + 20_000,
    )
    next(market.updates(8 * 60_000 + 20_000))
    every = market.trades(start_ms=0, limit=1_000)
    assert [t.trade_id for t in every] == list(range(8 * 4 + 2))
    assert [t.price for t in every[:4]] == [100, 99, 101, 100]
    assert market.trades(limit=3) == every[-3:]
    assert market.trades(from_id=7, limit=5) == every[7:12]
    assert market.trades(start_ms=60_001, end_ms=100_000, limit=9) == every[5:7]
    assert sum(t.quantity for t in every[:32]) == 8 * 8
