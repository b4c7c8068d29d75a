"""Kernels: research on a whole history and live on the last window agree to the last bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.runtime.sdk import Bars, StrategyError, ta
from tests.runtime.sdk.strategies import BandBreak, walk

Kernel = Callable[[Bars], tuple[Any, ...]]
# Each kernel with the number of bars its value depends on.
KERNELS: dict[str, tuple[int, Kernel]] = {
    "mean_std": (20, lambda b: ta.mean_std(b.close, 20)),
    "sma": (50, lambda b: (ta.sma(b.close, 50),)),
    "std": (2, lambda b: (ta.std(b.close, 2),)),
    "total": (7, lambda b: (ta.total(b.volume, 7),)),
    "zscore": (30, lambda b: (ta.zscore(b.close, 30),)),
    "bollinger": (20, lambda b: ta.bollinger(b.close)),
    "highest": (13, lambda b: (ta.highest(b.high, 13),)),
    "lowest": (16, lambda b: (ta.lowest(b.low, 16),)),
    "donchian": (21, lambda b: ta.donchian(b.high, b.low, 20)),
    "ema": (8 * 12, lambda b: (ta.ema(b.close, 12),)),
    "macd": (8 * 26 + 8 * 9 - 1, lambda b: ta.macd(b.close)),
    "wilder": (8 * 14, lambda b: (ta.wilder(b.close, 14),)),
    "rsi": (8 * 14 + 1, lambda b: (ta.rsi(b.close, 14),)),
    "atr": (8 * 14 + 1, lambda b: (ta.atr(b.high, b.low, b.close, 14),)),
    "shift": (6, lambda b: (ta.shift(b.close, 5),)),
    "diff": (4, lambda b: (ta.diff(b.close, 3),)),
    "log_returns": (2, lambda b: (ta.log_returns(b.close),)),
    "realized_volatility": (11, lambda b: (ta.realized_volatility(b.close, 10),)),
    "crosses_above": (51, lambda b: (ta.crosses_above(b.close, ta.sma(b.close, 50)),)),
    "crosses_below": (51, lambda b: (ta.crosses_below(b.close, ta.sma(b.close, 50)),)),
    "within": (10, lambda b: (ta.within(b.close > b.open, 10, "all"),)),
    "at": (60 * 5 + 59, lambda b: (b.at("1h").align(ta.sma(b.at("1h").close, 5)),)),
}


def bits(values: Any) -> list[Any]:
    array = np.atleast_1d(values)
    found: list[Any] = (array.view(np.int64) if array.dtype == np.float64 else array).tolist()
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_depends_on_its_window_alone(name: str) -> None:
    length, kernel = KERNELS[name]
    bars = walk(5_000)
    whole = kernel(bars)
    for end in [*range(length, length + 40), *range(4_000, 4_040)]:
        for extra in (0, 3, 9, 50):
            start = end - length - extra
            if start < 0:
                continue
            part = kernel(bars.slice(start, end))
            assert [bits(p[-1]) for p in part] == [bits(w[end - 1]) for w in whole], (end, extra)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 70), st.integers(0, 4_000))
def test_02_1_research_and_live_agree_bit_for_bit(seed: int, window: int, at: int) -> None:
    """quickstart §2.1: once over history equals the last bars, for the strategy of the page."""
    strategy = BandBreak(window=window, inner=0.7)
    bars = walk(at + window + 1, seed)
    research, live = strategy.signals(bars), strategy.signals(bars.slice(at, at + window + 1))
    for column in ("long", "short", "exit_long", "exit_short"):
        assert getattr(research, column)[-1] == getattr(live, column)[-1]
    for line in ("upper", "lower"):
        assert bits(research.plot[line][-1:]) == bits(live.plot[line][-1:])


def test_window_kernels_equal_pandas() -> None:
    bars = walk(2_000)
    close = pd.Series(bars.close)
    mean, width = ta.mean_std(bars.close, 20)
    np.testing.assert_allclose(mean, close.rolling(20).mean(), rtol=1e-12)
    np.testing.assert_allclose(width, close.rolling(20).std(), rtol=1e-7)
    np.testing.assert_array_equal(ta.highest(bars.high, 37), pd.Series(bars.high).rolling(37).max())
    np.testing.assert_array_equal(ta.lowest(bars.low, 8), pd.Series(bars.low).rolling(8).min())
    squares = pd.Series(np.diff(np.log(bars.close), prepend=np.nan) ** 2)
    volatility = np.sqrt(squares.rolling(10).sum())
    np.testing.assert_allclose(ta.realized_volatility(bars.close, 10), volatility, rtol=1e-9)


def test_recursive_kernels_are_near_those_without_an_end() -> None:
    bars = walk(3_000)
    close = pd.Series(bars.close)
    endless = close.ewm(span=26, adjust=False).mean()
    assert np.nanmax(np.abs(ta.ema(bars.close, 26)[1_000:] - endless[1_000:])) < 0.1
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    loss = (-change).clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    index = 100 * gain / (gain + loss)
    assert np.nanmax(np.abs(ta.rsi(bars.close, 14)[1_000:] - index[1_000:])) < 0.1


def test_a_nan_spoils_its_windows_and_no_other() -> None:
    values = np.arange(40.0)
    values[10] = np.nan
    for kernel in (ta.sma, ta.std, ta.highest, ta.lowest):
        assert np.flatnonzero(np.isnan(kernel(values, 5)[4:])).tolist() == list(range(6, 11))
        assert np.isnan(kernel(values[8:14], 5)[-2:]).tolist() == [True, True]


def test_a_cross_needs_both_sides() -> None:
    nan = float("nan")
    a = np.array([1.0, 2.0, 3.0, nan, 4.0, 1.0, 2.0])
    assert ta.crosses_above(a, 1.5).tolist() == [False, True, False, False, False, False, True]
    assert ta.crosses_below(a, 1.5).tolist() == [False, False, False, False, False, True, False]
    assert not ta.crosses_above(np.array([5.0]), 1.0).any()


def test_flat_prices_have_an_index_of_fifty() -> None:
    assert ta.rsi(np.full(200, 7.0), 14)[-1] == 50.0


def test_windows_are_whole_and_the_future_is_out_of_reach() -> None:
    with pytest.raises(StrategyError, match=r"ta\.sma: expected a whole number of bars, at least 1, got 0"):
        ta.sma(np.zeros(3), 0)
    with pytest.raises(StrategyError, match=r"at least 2, got 2\.5"):
        ta.std(np.zeros(3), 2.5)  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match=r"ta\.shift: .* got -1"):
        ta.shift(np.zeros(3), -1)
    assert np.isnan(ta.sma(np.zeros(3), 9)).all()
