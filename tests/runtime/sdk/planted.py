"""Strategies that look ahead, each in a way people do it, and clean ones that look as if they did."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from qmtl.runtime.sdk import Bars, Signals, ta

Rule = Callable[[Bars], Signals]


def _series(bars: Bars, name: str = "close") -> pl.Series:
    return pl.Series(name, getattr(bars, name))


def _np(values: pl.Series) -> Any:
    return values.to_numpy()


def _above(bars: Bars, level: Any) -> Signals:
    with np.errstate(invalid="ignore"):
        return Signals(long=bars.close > level, exit_long=bars.close < level)


def _on(column: Any) -> Signals:
    return Signals(long=np.asarray(column, bool))


def _hour(bars: Bars) -> Any:
    return bars.open_ms // 3_600_000


def _by_hour(bars: Bars, how: str) -> Any:
    frame = pl.DataFrame({"hour": _hour(bars), "close": bars.close, "high": bars.high, "low": bars.low})
    column = {"last": pl.col("close").last(), "max": pl.col("high").max(), "min": pl.col("low").min(),
              "mean": pl.col("close").mean()}[how]  # fmt: skip
    return frame.select(column.over("hour"))[:, 0].to_numpy()


def _centred(bars: Bars, window: int) -> Any:
    return _np(_series(bars).rolling_mean(window, center=True))


def _zigzag(bars: Bars, reach: int) -> Any:
    high = _series(bars, "high")
    return _np(high == high.rolling_max(2 * reach + 1, center=True))


def _filled_back(bars: Bars) -> Any:
    known = np.where(np.arange(len(bars)) % 7 == 6, bars.close, np.nan)
    return _np(pl.Series(known, nan_to_null=True).fill_null(strategy="backward"))


def _joined_forward(bars: Bars) -> Any:
    left = pl.DataFrame({"ts": bars.open_ms})
    right = pl.DataFrame({"ts": bars.open_ms[::15], "level": bars.close[::15]})
    return _np(left.join_asof(right, on="ts", strategy="forward")["level"])


def _smoothed(bars: Bars) -> Any:
    kernel = np.ones(9) / 9
    return np.convolve(bars.close, kernel, mode="same")


def _two_way(bars: Bars) -> Any:
    forth = _np(_series(bars).ewm_mean(alpha=0.2))
    return _np(pl.Series(forth[::-1]).ewm_mean(alpha=0.2))[::-1]


def _fourier(bars: Bars) -> Any:
    spectrum = np.fft.rfft(bars.close)
    spectrum[40:] = 0
    return np.fft.irfft(spectrum, len(bars))


def _fitted(bars: Bars) -> Any:
    at = np.arange(len(bars), dtype=float)
    return np.polyval(np.polyfit(at, bars.close, 1), at)


def _ranked(bars: Bars) -> Any:
    return _np(_series(bars).rank()) / len(bars)


LOOKING: dict[str, Rule] = {
    "shift_minus_1_close": lambda b: _on(np.append(b.close[1:], np.nan) > b.close),
    "shift_minus_5_close": lambda b: _on(_np(_series(b).shift(-5).fill_null(0.0)) > b.close * 1.001),
    "next_open": lambda b: _on(np.append(b.open[1:], 0.0) > b.close),
    "next_high": lambda b: _on(np.append(b.high[1:], 0.0) > b.close * 1.0005),
    "next_volume": lambda b: _on(np.append(b.volume[1:], 0.0) > 40.0),
    "roll_minus_1": lambda b: _on(np.roll(b.close, -1) > b.close),
    "return_of_next_bar": lambda b: _on(np.append(np.diff(b.close), 0.0) > 0),
    "label_of_ten_bars": lambda b: _on(_np(_series(b).shift(-10).fill_null(strategy="forward")) > b.close),
    "centred_mean_21": lambda b: _above(b, _centred(b, 21)),
    "centred_mean_3": lambda b: _above(b, _centred(b, 3)),
    "centred_extreme": lambda b: _on(_zigzag(b, 4)),
    "fractal_marked_at_its_top": lambda b: _on(_zigzag(b, 2)),
    "convolution_same": lambda b: _above(b, _smoothed(b)),
    "two_way_filter": lambda b: _above(b, _two_way(b)),
    "low_pass_of_all": lambda b: _above(b, _fourier(b)),
    "mean_of_all": lambda b: _above(b, b.close.mean()),
    "zscore_of_all": lambda b: _on((b.close - b.close.mean()) / b.close.std() > 1.0),
    "scaled_by_extremes_of_all": lambda b: _on((b.close - b.close.min()) / np.ptp(b.close) > 0.8),
    "quantile_of_all": lambda b: _above(b, np.quantile(b.close, 0.9)),
    "rank_in_all": lambda b: _on(_ranked(b) > 0.9),
    "trend_fitted_to_all": lambda b: _above(b, _fitted(b)),
    "volume_above_median_of_all": lambda b: _on(b.volume > np.median(b.volume)),
    "close_of_unfinished_hour": lambda b: _above(b, _by_hour(b, "last")),
    "high_of_unfinished_hour": lambda b: _on(b.close >= _by_hour(b, "max") * 0.999),
    "low_of_unfinished_hour": lambda b: _on(b.close <= _by_hour(b, "min") * 1.001),
    "mean_of_unfinished_hour": lambda b: _above(b, _by_hour(b, "mean")),
    "future_merge": lambda b: _above(b, _joined_forward(b)),
    "filled_backwards": lambda b: _above(b, _filled_back(b)),
    "last_row_decides": lambda b: _on(b.close < b.close[-1]),
    "only_the_plot_knows": lambda b: Signals(long=b.close > ta.sma(b.close, 20),
                                             plot={"next": np.append(b.close[1:], np.nan)}),
}  # fmt: skip

CLEAN: dict[str, Rule] = {
    "mean": lambda b: _above(b, ta.sma(b.close, 20)),
    "bands": lambda b: _above(b, ta.bollinger(b.close, 20, 2.0)[2]),
    "crossing_averages": lambda b: _on(ta.crosses_above(ta.ema(b.close, 5), ta.ema(b.close, 13))),
    "strength": lambda b: _on(ta.rsi(b.close, 14) < 30),
    "breakout": lambda b: _on(b.close > ta.shift(ta.highest(b.high, 20), 1)),
    "closed_hours": lambda b: _above(b, b.at("1h").align(ta.sma(b.at("1h").close, 3))),
    "range": lambda b: _on(ta.true_range(b.high, b.low, b.close) > 3 * ta.atr(b.high, b.low, b.close, 10)),
    "fractal_marked_when_known": lambda b: _on(ta.shift(_zigzag(b, 2).astype(bool), 2)),
    "hour_of_the_day": lambda b: _on((_hour(b) % 24 == 9) & (b.close > b.open)),
    "rolling_rank": lambda b: _on(ta.zscore(b.volume, 50) > 2.0),
}
