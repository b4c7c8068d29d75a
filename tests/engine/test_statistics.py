"""Statistics of returns and trades: what does not exist is NaN, periods are the calendar's."""

from math import isnan

import numpy as np
import pytest

from qmtl.engine import statistics as st

DAY_MS = 86_400_000


def test_figures_that_do_not_exist_are_nan() -> None:
    empty, flat, winning = np.empty(0), np.zeros(30), np.full(30, 0.01)
    for name, value in st.summarize(empty, st.DAY).items():
        assert isnan(value) or name in {"total_return", "max_drawdown"}, name
    assert [isnan(f(flat)) for f in (st.sharpe, st.sortino, st.calmar, st.omega, st.skewness)] == [True] * 5
    assert [isnan(f(winning)) for f in (st.sharpe, st.sortino, st.calmar, st.omega)] == [True] * 4
    assert [isnan(f(winning)) for f in (st.skewness, st.kurtosis)] == [True] * 2
    assert isnan(st.annual_return(np.array([0.5, 0.2]), st.HOUR.per_year))
    assert isnan(st.expectancy(empty))
    assert st.summarize_trades(empty)["trades"] == 0
    assert isnan(st.payoff_ratio(winning))
    assert isnan(st.turnover(10.0, empty, 1.0))


def test_trade_figures_of_a_hand_made_list() -> None:
    profits = np.array([10.0, -5.0, 0.0, 20.0, -10.0])
    assert st.summarize_trades(profits) == {
        "trades": 5.0, "profit_factor": 2.0, "win_rate": 0.5, "payoff_ratio": 2.0, "expectancy": 3.0,
    }  # fmt: skip
    assert st.exposure(25, 100) == 0.25
    assert st.turnover(50_000.0, np.array([9_000.0, 11_000.0]), 0.5) == 10.0


def test_a_day_ends_at_its_last_bar_whatever_is_missing() -> None:
    open_ms = np.array([0, 60_000, DAY_MS - 60_000, DAY_MS + 60_000, 3 * DAY_MS, 3 * DAY_MS + 60_000])
    assert st.period_ends(open_ms, st.DAY).tolist() == [2, 3, 5]
    assert st.period_ends(open_ms, st.HOUR).tolist() == [1, 2, 3, 5]
    assert st.period_ends(np.empty(0, np.int64), st.DAY).tolist() == []
    assert st.choose_period(open_ms, 60_000) is st.HOUR
    assert st.choose_period(np.array([0, 20 * DAY_MS]), DAY_MS) is st.DAY


def test_candles_longer_than_a_period_are_periods_themselves() -> None:
    """Ten days of 4h candles are 60 returns, of which a year has 2,190 and not 8,760."""
    hours, weeks = np.arange(60) * 14_400_000, np.arange(40) * 7 * DAY_MS
    assert st.choose_period(hours, 14_400_000) == ("4h", 14_400_000, 365 * 6)
    assert st.choose_period(weeks, 7 * DAY_MS) == ("1w", 7 * DAY_MS, 365 / 7)
    assert st.choose_period(np.arange(3) * DAY_MS, DAY_MS) == ("1d", DAY_MS, 365)
    for opens, length in ((hours, 14_400_000), (weeks, 7 * DAY_MS)):
        period = st.choose_period(opens, length)
        assert st.period_ends(opens, period).tolist() == list(range(len(opens)))
        grown = st.annual_return(np.full(len(opens), 0.001), period.per_year)
        assert grown == pytest.approx(1.001 ** (365 * DAY_MS / length) - 1)


def test_months_multiply_up_to_the_whole() -> None:
    start = np.datetime64("2025-01-15", "ms").astype(np.int64)
    ends = start + np.arange(60) * DAY_MS
    returns = np.random.default_rng(1).normal(0, 0.01, 60)
    months = st.monthly_returns(ends, returns)
    assert list(months) == ["2025-01", "2025-02", "2025-03"]
    assert np.prod([1 + value for value in months.values()]) == pytest.approx(1 + st.total_return(returns))


def test_a_lost_account_earns_nothing_more() -> None:
    returns = st.returns_of(np.array([50.0, -10.0, 30.0, 40.0]), 100.0)
    assert returns.tolist() == [-0.5, -1.0, 0.0, 0.0]
    assert st.max_drawdown(returns) == -1.0
