"""The kernels against plain statistics, against themselves started later, and their saved state."""

import json
import math
import statistics
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.indicator import RealizedVolatility, RollingExtremes, RollingMoments

PRICES = st.lists(st.floats(0.01, 200_000.0), min_size=1, max_size=120)
REPEATS = st.lists(st.sampled_from([100.1, 100.2, 107.3]), min_size=1, max_size=160)


@given(st.one_of(PRICES, REPEATS), st.integers(2, 25))
def test_moments_are_those_of_the_window(prices: list[float], window: int) -> None:
    kernel = RollingMoments(window)
    for number, price in enumerate(prices, 1):
        kernel.push(number, price)
        assert kernel.is_full == (number >= window)
        if kernel.is_full:
            last = prices[number - window : number]
            assert kernel.mean == pytest.approx(statistics.fmean(last), rel=1e-12)
            # The anchor lies inside the last two windows; rounding scales with their width.
            width = max(abs(p - price) for p in prices[max(0, number - 2 * window) : number])
            assert kernel.std == pytest.approx(statistics.stdev(last), rel=1e-9, abs=1e-6 * width)


def test_a_repeated_price_has_no_deviation_at_all() -> None:
    kernel = RollingMoments(20)
    for number, price in enumerate([100.1 + n for n in range(33)] + [107.3] * 20, 1):
        kernel.push(number, price)
    assert (kernel.mean, kernel.std) == (107.3, 0.0)
    kernel.push(54, 107.4)
    assert kernel.std == pytest.approx(statistics.stdev([107.3] * 19 + [107.4]), rel=1e-9)


@given(st.lists(st.floats(10.0, 20.0), min_size=70, max_size=120), st.integers(0, 40))
def test_instances_started_apart_agree_exactly_after_one_refresh(prices: list[float], late: int) -> None:
    window = 10
    early, later = RollingMoments(window), RollingMoments(window)
    rv_early, rv_later = RealizedVolatility(window), RealizedVolatility(window)
    for number, price in enumerate(prices):
        early.push(number, price)
        rv_early.push(number, price)
        if number >= late:
            later.push(number, price)
            rv_later.push(number, price)
        if number >= late + 2 * window:
            assert (early.mean, early.std) == (later.mean, later.std)
            assert rv_early.value == rv_later.value


@given(st.lists(st.floats(1.0, 5.0), min_size=1, max_size=80), st.integers(1, 12))
def test_extremes_are_those_of_the_window(values: list[float], window: int) -> None:
    kernel = RollingExtremes(window)
    for count, value in enumerate(values, 1):
        kernel.push(value)
        last = values[max(0, count - window) : count]
        assert (kernel.highest, kernel.lowest) == (max(last), min(last))
        assert kernel.is_full == (count >= window)


@given(st.lists(st.floats(50.0, 60.0), min_size=2, max_size=60), st.integers(1, 12))
def test_volatility_is_the_root_of_summed_squares(prices: list[float], window: int) -> None:
    kernel = RealizedVolatility(window)
    for number, price in enumerate(prices):
        kernel.push(number, price)
        assert kernel.is_full == (number >= window)
        if kernel.is_full:
            last = prices[number - window : number + 1]
            squares = [math.log(b / a) ** 2 for a, b in pairwise(last)]
            assert kernel.value == pytest.approx(math.sqrt(math.fsum(squares)), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(10.0, 20.0), min_size=1, max_size=60), st.integers(0, 60))
def test_saved_state_continues_to_the_last_bit(prices: list[float], cut: int) -> None:
    kernels = (RollingMoments(7), RealizedVolatility(5))
    extremes = RollingExtremes(4)
    for number, price in enumerate(prices):
        if number == cut:
            saved = json.loads(json.dumps([k.dump() for k in (*kernels, extremes)]))
            kernels, extremes = (RollingMoments(7), RealizedVolatility(5)), RollingExtremes(4)
            kernels[0].load(saved[0])
            kernels[1].load(saved[1])
            extremes.load(saved[2])
        for kernel in kernels:
            kernel.push(number, price)
        extremes.push(price)
    whole = (RollingMoments(7), RealizedVolatility(5))
    for number, price in enumerate(prices):
        for kernel in whole:
            kernel.push(number, price)
    assert [k.dump() for k in kernels] == [k.dump() for k in whole]


def test_wrong_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="window: expected at least 2, got 1"):
        RollingMoments(1)
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        RollingExtremes(0)
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        RealizedVolatility(0)
    wide = RollingMoments(5)
    for number in range(5):
        wide.push(number, 1.0)
    with pytest.raises(ValueError, match="a window of 5 does not fit a window of 3"):
        RollingMoments(3).load(wide.dump())


def test_cost_does_not_grow_with_the_window() -> None:
    def cost(window: int) -> float:
        kernel = RollingMoments(window)
        values = [100.0 + (n * 37 % 101) / 10 for n in range(20_000)]
        begin = time.process_time()
        for number, value in enumerate(values):
            kernel.push(number, value)
        return time.process_time() - begin

    assert min(cost(1_000) for _ in range(3)) < 4 * min(cost(10) for _ in range(3))
