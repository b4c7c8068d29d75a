"""Recorded candles as the trader's tests take them."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from qmtl.core.event import BarClosed

FULL = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"
THIN = "candles/UNITTEST_BTC-1m.feather"
MINUTE_MS = 60_000


def read_candles(find: Callable[[str], Path], name: str = FULL) -> pl.DataFrame:
    """Columns open_ms, open, high, low, close, volume, in time order."""
    frame = pl.read_ipc(find(name))
    time = pl.col("date").dt.epoch("ms").alias("open_ms")
    return frame.select(time, "open", "high", "low", "close", "volume").sort("open_ms")


def closed_bars(frame: pl.DataFrame, symbol: str = "BTCUSDT") -> list[BarClosed]:
    """The rows as the engine sees them."""
    return [BarClosed(row[0] + MINUTE_MS, symbol, *row) for row in frame.iter_rows()]
