"""Indicators whose every value depends on the content of its window and on nothing before it.

Research computes a whole history at once and live the last few bars; both add the same numbers in the same
order, so results agree to the last bit. Recursive averages therefore start anew `RESTART` × span bars back at
every bar. Arrays are float64 in and out, NaN until the window is full; a NaN inside a window makes its value
NaN.
"""

from collections.abc import Callable
from math import nan, sqrt
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from qmtl.runtime.sdk.bars import Bools, Floats
from qmtl.runtime.sdk.memo import remembered
from qmtl.runtime.sdk.param import StrategyError

RESTART = 8
"""How many spans of bars a recursive average looks back: what is older weighs less than 0.04 % at most."""

_BLOCK = 4_096
"""Values computed together: a block and its window stay in the processor's cache."""
_NARROW = 8
"""Up to so many values plain floats are faster than array calls; the arithmetic is the same."""

Wide = Callable[[Floats, int, int], tuple[Floats, ...]]
"""(values, count, length) -> columns: `values` holds count + length - 1 numbers."""
Narrow = Callable[[list[float]], tuple[float, ...]]
"""One window, oldest first -> one value a column."""


def _rolled(values: Any, length: int, wide: Wide, narrow: Narrow, columns: int) -> tuple[Floats, ...]:
    """Compute `columns` columns over each window of `length` values, many at a time or few."""
    source = np.asarray(values, dtype=np.float64)
    count = len(source) - length + 1
    found = tuple(np.full(len(source), nan) for _ in range(columns))
    if count <= 0:
        return found
    head = length - 1
    if count <= _NARROW:
        numbers = source.tolist()
        for at in range(count):
            for column, value in zip(found, narrow(numbers[at : at + length]), strict=True):
                column[head + at] = value
        return found
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            parts = wide(source[start : start + size + head], size, length)
            for column, part in zip(found, parts, strict=True):
                column[head + start : head + start + size] = part
    return found


def _whole(window: Any, least: int, name: str) -> int:
    if isinstance(window, bool) or not isinstance(window, int | np.integer) or window < least:
        raise StrategyError(f"ta.{name}: expected a whole number of bars, at least {least}, got {window!r}")
    return int(window)


# --- sums -----------------------------------------------------------------------------------------


def _wide_mean(values: Floats, count: int, length: int) -> tuple[Floats, ...]:
    total = np.zeros(count)
    for at in range(length):
        total += values[at : at + count]
    total /= length
    return (total,)


def _narrow_mean(window: list[float]) -> tuple[float, ...]:
    total = 0.0
    for value in window:
        total += value
    return (total / len(window),)


def _wide_mean_std(values: Floats, count: int, length: int) -> tuple[Floats, ...]:
    (mean,) = _wide_mean(values, count, length)
    squares, difference = np.zeros(count), np.empty(count)
    for at in range(length):
        np.subtract(values[at : at + count], mean, out=difference)
        np.multiply(difference, difference, out=difference)
        squares += difference
    squares /= length - 1
    return mean, np.sqrt(squares)


def _narrow_mean_std(window: list[float]) -> tuple[float, ...]:
    (mean,) = _narrow_mean(window)
    squares = 0.0
    for value in window:
        difference = value - mean
        squares += difference * difference
    return mean, sqrt(squares / (len(window) - 1))


@remembered
def mean_std(values: Any, window: int) -> tuple[Floats, Floats]:
    """Return mean and sample standard deviation (ddof=1) of the last `window` values."""
    length = _whole(window, 2, "mean_std")
    mean, width = _rolled(values, length, _wide_mean_std, _narrow_mean_std, 2)
    return mean, width


@remembered
def sma(values: Any, window: int) -> Floats:
    """Return the mean of the last `window` values."""
    return _rolled(values, _whole(window, 1, "sma"), _wide_mean, _narrow_mean, 1)[0]


@remembered
def std(values: Any, window: int) -> Floats:
    """Return the sample standard deviation (ddof=1) of the last `window` values."""
    return mean_std(values, window)[1]


@remembered
def total(values: Any, window: int) -> Floats:
    """Return the sum of the last `window` values."""
    return sma(values, window) * window


@remembered
def zscore(values: Any, window: int) -> Floats:
    """Return how many standard deviations each value is from the mean of its window."""
    mean, width = mean_std(values, window)
    with np.errstate(invalid="ignore", divide="ignore"):
        score: Floats = (np.asarray(values, dtype=np.float64) - mean) / width
    return score


@remembered
def bollinger(values: Any, window: int = 20, k: float = 2.0) -> tuple[Floats, Floats, Floats]:
    """Return (lower, middle, upper): mean ± k standard deviations."""
    middle, width = mean_std(values, window)
    return middle - k * width, middle, middle + k * width


# --- extremes -------------------------------------------------------------------------------------


def _wide_highest(values: Floats, count: int, length: int) -> tuple[Floats, ...]:
    # A window is two overlapping windows of a power of two: the highest number is the highest however found.
    reach, step = values, 1
    while step * 2 <= length:
        reach = np.maximum(reach[:-step], reach[step:])
        step *= 2
    return (np.maximum(reach[:count], reach[length - step : length - step + count]),)


def _narrow_highest(window: list[float]) -> tuple[float, ...]:
    return (nan if any(value != value for value in window) else max(window),)  # noqa: PLR0124 - NaN


@remembered
def highest(values: Any, window: int) -> Floats:
    """Return the highest of the last `window` values."""
    return _rolled(values, _whole(window, 1, "highest"), _wide_highest, _narrow_highest, 1)[0]


@remembered
def lowest(values: Any, window: int) -> Floats:
    """Return the lowest of the last `window` values."""
    length = _whole(window, 1, "lowest")
    return -_rolled(-np.asarray(values, dtype=np.float64), length, _wide_highest, _narrow_highest, 1)[0]


@remembered
def donchian(high: Any, low: Any, window: int) -> tuple[Floats, Floats]:
    """Return (lowest low, highest high) of the `window` bars BEFORE each bar."""
    return shift(lowest(low, window), 1), shift(highest(high, window), 1)


# --- recursive averages ---------------------------------------------------------------------------


def _wide_ema(alpha: float) -> Wide:
    def wide(values: Floats, count: int, length: int) -> tuple[Floats, ...]:
        level, step = values[:count].copy(), np.empty(count)
        for at in range(1, length):
            np.subtract(values[at : at + count], level, out=step)
            step *= alpha
            level += step
        return (level,)

    return wide


def _narrow_ema(alpha: float) -> Narrow:
    def narrow(window: list[float]) -> tuple[float, ...]:
        level = window[0]
        for value in window[1:]:
            level += (value - level) * alpha
        return (level,)

    return narrow


@remembered
def ema(values: Any, span: int) -> Floats:
    """Return the exponential average, α = 2 / (span + 1), begun at the value RESTART × span bars back."""
    length = RESTART * _whole(span, 1, "ema")
    alpha = 2.0 / (span + 1.0)
    return _rolled(values, length, _wide_ema(alpha), _narrow_ema(alpha), 1)[0]


@remembered
def macd(values: Any, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[Floats, Floats, Floats]:
    """Return (line, signal, histogram): the fast less the slow average, its own average, their difference."""
    line = ema(values, fast) - ema(values, slow)
    average = ema(line, signal)
    return line, average, line - average


@remembered
def wilder(values: Any, span: int) -> Floats:
    """Return Wilder's average: the mean of the first `span` of RESTART × span values, then α = 1 / span."""
    span = _whole(span, 1, "wilder")

    def wide(values: Floats, count: int, length: int) -> tuple[Floats, ...]:
        (level,) = _wide_mean(values[: span + count - 1], count, span)
        step = np.empty(count)
        for at in range(span, length):
            np.subtract(values[at : at + count], level, out=step)
            step /= span
            level += step
        return (level,)

    def narrow(window: list[float]) -> tuple[float, ...]:
        (level,) = _narrow_mean(window[:span])
        for value in window[span:]:
            level += (value - level) / span
        return (level,)

    return _rolled(values, RESTART * span, wide, narrow, 1)[0]


@remembered
def rsi(values: Any, span: int = 14) -> Floats:
    """Return the relative strength index, 0 to 100, by Wilder's averages of gains and losses; flat is 50."""
    change = diff(values)
    gain = wilder(np.where(change > 0, change, np.where(np.isnan(change), nan, 0.0)), span)
    loss = wilder(np.where(change < 0, -change, np.where(np.isnan(change), nan, 0.0)), span)
    both = gain + loss
    with np.errstate(invalid="ignore", divide="ignore"):
        index: Floats = np.where(both == 0, 50.0, 100.0 * gain / both)
    return index


@remembered
def true_range(high: Any, low: Any, close: Any) -> Floats:
    """Return the range of each bar together with the close before it; NaN at the first."""
    high, low = np.asarray(high, dtype=np.float64), np.asarray(low, dtype=np.float64)
    before = shift(close, 1)
    widest: Floats = np.maximum(high, before) - np.minimum(low, before)
    return widest


@remembered
def atr(high: Any, low: Any, close: Any, span: int = 14) -> Floats:
    """Return Wilder's average of the true range."""
    return wilder(true_range(high, low, close), span)


# --- changes --------------------------------------------------------------------------------------


@overload
def shift(values: Bools, bars: int) -> Bools: ...
@overload
def shift(values: Any, bars: int) -> Any: ...
def shift(values: Any, bars: int) -> Any:
    """Return the values of `bars` bars ago: NaN (False for booleans) where there is none.

    StrategyError for a negative number: that would be the future.
    """
    bars = _whole(bars, 0, "shift")
    source = np.asarray(values)
    is_bool = source.dtype == bool
    moved = np.full(len(source), False if is_bool else nan)
    moved[bars:] = source[: max(0, len(source) - bars)]
    return moved


@remembered
def diff(values: Any, bars: int = 1) -> Floats:
    """Return the change over `bars` bars."""
    source = np.asarray(values, dtype=np.float64)
    change: Floats = source - shift(source, bars)
    return change


@remembered
def log_returns(values: Any, bars: int = 1) -> Floats:
    """Return the logarithm of the growth over `bars` bars."""
    source = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        growth: Floats = np.log(source / shift(source, bars))
    return growth


@remembered
def realized_volatility(close: Any, window: int) -> Floats:
    """Return the square root of the sum of the last `window` squared log returns."""
    change = log_returns(close)
    volatility: Floats = np.sqrt(sma(change * change, window) * window)
    return volatility


# --- comparisons ----------------------------------------------------------------------------------


def crosses_above(a: Any, b: Any) -> Bools:
    """Tell where `a` is above `b` and was not a bar before; False at the first bar and beside NaN."""
    return _crosses(np.asarray(a), np.asarray(b))


def crosses_below(a: Any, b: Any) -> Bools:
    """Tell where `a` is below `b` and was not a bar before; False at the first bar and beside NaN."""
    return _crosses(np.asarray(b), np.asarray(a))


def _crosses(upper: npt.NDArray[Any], lower: npt.NDArray[Any]) -> Bools:
    above = upper > lower
    not_above = upper <= lower
    crossed: Bools = above.copy()
    crossed[:1] = False
    crossed[1:] &= not_above[:-1]
    return crossed


def rising(values: Any, bars: int = 1) -> Bools:
    """Tell where each value is above the one `bars` bars ago."""
    return diff(values, bars) > 0


def falling(values: Any, bars: int = 1) -> Bools:
    """Tell where each value is below the one `bars` bars ago."""
    return diff(values, bars) < 0


Where = Literal["any", "all"]


def within(condition: Any, window: int, how: Where = "any") -> Bools:
    """Tell where `condition` held in any (or all) of the last `window` bars; False until they are full."""
    source = np.asarray(condition)
    if source.dtype != bool:
        raise StrategyError(f"ta.within: expected booleans, found {source.dtype}")
    held = source.astype(np.float64)
    found: Bools = (highest(held, window) if how == "any" else lowest(held, window)) > 0.5
    return found
