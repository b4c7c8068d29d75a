"""The market of a backtest from files: candles, and the funding paid meanwhile."""

from pathlib import Path

import numpy as np

from qmtl.core.bar import BarError
from qmtl.core.interval import FUNDING_MS
from qmtl.runtime.io.history_file import Unit, read_candles, read_rates
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.market_history import (
    Funding,
    MarketHistory,
    check_bars,
    make_history,
    sum_by_slot,
)


def load_history(
    path: Path,
    *,
    symbol: str,
    interval: str,
    unit: Unit | None = None,
    funding: dict[int, Funding] | None = None,
) -> MarketHistory:
    """Read the candles of a file; gaps become holes.

    Errors as `history_file.read_candles`, and BarError where a candle breaks a rule or the candles are of
    another interval.
    """
    frame = read_candles(path, unit=unit)
    if not frame.height:
        raise BarError(f"{path}: no candles")
    columns = [frame[name].to_numpy().copy() for name in ("open", "high", "low", "close", "volume")]
    times = frame["open_ms"].to_numpy().astype(np.int64)
    bars = Bars(times, *columns, symbol=symbol, interval=interval)
    step = int(np.diff(times).min()) if len(times) > 1 else bars.interval_ms
    if step > bars.interval_ms and step % bars.interval_ms == 0:
        raise BarError(f"{path}: its candles are {step // 1000} s apart; expected {interval}")
    check_bars(bars, str(path))
    node_id = f"ohlcv:file:{symbol}:{interval}"
    return make_history(
        bars, source=path.name, node_id=node_id, reason=f"not in {path.name}", funding=funding
    )


def load_funding(rates: Path | None, marks: Path | None = None) -> dict[int, Funding] | None:
    """Read recorded funding rates by the 8h slot they belong to; None without a file.

    `marks` is a file of the mark prices of the same slots.
    """
    if rates is None:
        return None
    known: dict[int, float] = {}
    for ts_ms, mark in [] if marks is None else _rows(marks):
        known.setdefault(ts_ms // FUNDING_MS, mark)
    due = sum_by_slot(_rows(rates))
    return {slot: Funding(slot * FUNDING_MS, rate, known.get(slot)) for slot, rate in due.items()}


def _rows(path: Path) -> list[tuple[int, float]]:
    frame = read_rates(path)
    return list(zip(frame["open_ms"].to_list(), frame["open"].to_list(), strict=True))
