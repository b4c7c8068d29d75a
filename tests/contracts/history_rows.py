"""Rows for the store tests: bars and trades with seeded prices."""

from collections.abc import Iterable, Sequence

import polars as pl

from qmtl.runtime.sdk.history import CoverageSpan, SeriesKey
from qmtl.runtime.sdk.history_frame import frame_schema

MINUTES = SeriesKey("ohlcv:binance:BTC/USDT:1m", 60)
SECONDS = SeriesKey("ohlcv:binance:BTC/USDT:1s", 1)
DAYS = SeriesKey("ohlcv:binance:BTC/USDT:1d", 86_400)
TRADES = SeriesKey("trades:binance:BTC/USDT", 3_600)
MONTH_END = 1_706_745_600
"""2024-02-01 00:00 UTC, a boundary of months, days and hours."""


def bars(times: Iterable[int], seed: float = 0.0) -> pl.DataFrame:
    """Return a bar for each of `times`; another seed gives other prices."""
    rows = [(ts, ts * 0.5 + seed, ts + 2 + seed, ts * 0.25, ts * 0.75 + seed, 1.0 + seed) for ts in times]
    return pl.DataFrame(rows, schema=frame_schema(MINUTES), orient="row")


def minutes(start: int, count: int, seed: float = 0.0) -> pl.DataFrame:
    """Return `count` one-minute bars from `start` on."""
    return bars(range(start, start + 60 * count, 60), seed)


def trades(rows: Sequence[tuple[int, str, float]]) -> pl.DataFrame:
    """Return a trade for each (ts_ms, id, price); those of an odd millisecond have no side."""
    full = [(ms // 1000, ms, name, price, 0.5, None if ms % 2 else "buy") for ms, name, price in rows]
    return pl.DataFrame(full, schema=frame_schema(TRADES), orient="row")


def spans(*triples: tuple[int, int, str]) -> list[CoverageSpan]:
    """Return coverage as the store answers it."""
    return [CoverageSpan(*triple) for triple in triples]  # type: ignore[arg-type]  # kinds written out
