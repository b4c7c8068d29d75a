"""The close form in vectorbt, with its Rust engine: rolling bands, signals, Portfolio.from_signals."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import vectorbt as vbt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.peers.serving import Candles, Outcome, serve

vbt.settings.portfolio["stats"] = {}


def signals(close: Any, windows: list[int], inner: float, outer: float) -> tuple[Any, ...]:
    """Return entries and exits of every window, judged at close t against the bands of t-1."""
    mean = vbt.MA.run(close, windows, short_name="mean").ma.to_numpy().reshape(len(close), -1)
    std = vbt.MSTD.run(close, windows, ddof=1, short_name="std").mstd.to_numpy().reshape(len(close), -1)
    price = close.to_numpy()[:, None]
    above, below = price > mean + inner * std, price < mean - inner * std
    over, under = mean + outer * std, mean - outer * std
    now_above, now_below = np.zeros_like(above), np.zeros_like(below)
    now_above[1:] = price[1:] > (mean + inner * std)[:-1]
    now_below[1:] = price[1:] < (mean - inner * std)[:-1]
    # Where close t-1 and t-2 stood to the bands before each of them.
    was_above, was_below = np.zeros_like(above), np.zeros_like(below)
    was_above[1:], was_below[1:] = above[:-1], below[:-1]
    long, short = now_above & ~was_above, now_below & ~was_below
    long[2:] &= ~above[:-2]
    short[2:] &= ~below[:-2]
    exit_long, exit_short = np.zeros_like(above), np.zeros_like(below)
    exit_long[1:] = (price[:-1] > over[:-1]) & (over[:-1] >= price[1:])
    exit_short[1:] = (price[:-1] < under[:-1]) & (under[:-1] <= price[1:])
    return long, short, exit_long, exit_short


def prepare(candles: Candles, options: Mapping[str, Any]) -> Any:
    close = pd.Series(candles.close)
    windows = options.get("windows", [20])

    def work() -> Any:
        long, short, exit_long, exit_short = signals(close, windows, 1.0, 2.0)
        portfolio = vbt.Portfolio.from_signals(
            close, long, exit_long, short, exit_short,
            size=1.0, fees=0.0004, init_cash=1e9, accumulate=False,
            sl_stop=0.0011, tp_stop=0.0016, stop_exit_price="close", stop_entry_price="close",
            upon_stop_exit="close", upon_opposite_entry="ignore",
            upon_long_conflict="opposite", upon_short_conflict="opposite", upon_dir_conflict="ignore",
            engine=options.get("engine", "rust"),
        )  # fmt: skip
        # Trades with profits, as a bare array, and equity at every close: what both sides are asked for.
        return portfolio, portfolio.exit_trades.records_arr, portfolio.value()

    return work


def read(result: Any) -> Outcome:
    portfolio, records, _ = result
    closed = records[records["status"] == 1]
    direction = np.where(closed["direction"] == 0, 1, -1)
    columns = ("entry_idx", "exit_idx", "entry_price", "exit_price", "pnl")
    entry_row, exit_row, entry, leave, profit = (closed[name] for name in columns)
    rows = np.column_stack((entry_row, exit_row, direction, entry, leave, profit))
    return Outcome(rows, len(portfolio.wrapper.columns) if portfolio.wrapper.ndim > 1 else 1)


if __name__ == "__main__":
    serve(f"vectorbt {vbt.__version__} Rust", {"close_form": (prepare, read)})
