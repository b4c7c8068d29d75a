"""Statistics of a run: of its returns, and of its trades.

A return series is one float a period (a day, unless said otherwise), simple, after costs. `periods` is how
many make a year; markets here never close, so a year has 365 days. A figure that does not exist (no loss,
no variation, too few values) is NaN, never 0 and never infinite. docs/en/statistics.md lists what each
agrees with in quantstats and empyrical, and where it differs on purpose.
"""

from math import isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qmtl.core.interval import INTERVAL_MS

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

DAYS = 365.0
TAIL = 0.05
"""Share of the worst periods that value at risk and shortfall speak of."""


class Period(NamedTuple):
    """How often equity is looked at: milliseconds, and how many make a year."""

    name: str
    length_ms: int
    per_year: float


DAY = Period("day", 86_400_000, DAYS)
HOUR = Period("hour", 3_600_000, DAYS * 24)
FEWEST_DAYS = 20
"""Shorter runs are measured by the hour."""


def choose_period(open_ms: Whole, interval_ms: int) -> Period:
    """Return the period for bars of `interval_ms` that open at these times.

    Days, or hours where there are few days; the candle's own where that is longer, which has no more closes.
    """
    span = int(open_ms[-1] - open_ms[0]) if open_ms.size else 0
    usual = DAY if span >= FEWEST_DAYS * DAY.length_ms else HOUR
    if interval_ms <= usual.length_ms:
        return usual
    name = next((name for name, length in INTERVAL_MS.items() if length == interval_ms), "candle")
    return Period(name, interval_ms, DAYS * DAY.length_ms / interval_ms)


def period_ends(open_ms: Whole, period: Period) -> Whole:
    """Return the last row of each period (UTC) that has bars, ascending."""
    if not open_ms.size:
        return np.empty(0, np.int64)
    number = open_ms // period.length_ms
    return np.append(np.flatnonzero(np.diff(number)), open_ms.size - 1).astype(np.int64)


def returns_of(equity: Floats, first: float) -> Floats:
    """Return the simple return of each period from its closing equity, the first from `first`.

    Once equity is 0 or below nothing can be earned: later returns are 0.
    """
    before = np.concatenate(([first], equity[:-1]))
    alive = np.minimum.accumulate(before) > 0
    returns: Floats = np.zeros(equity.size)
    np.divide(equity - before, before, out=returns, where=alive)
    return np.maximum(returns, -1.0)


def _ratio(above: float, below: float) -> float:
    return above / below if below and isfinite(below) else nan


def total_return(returns: Floats) -> float:
    """Return the growth of the whole series, 0.05 for 5 %."""
    return float(np.prod(1.0 + returns) - 1.0)


def annual_return(returns: Floats, periods: float = DAYS) -> float:
    """Return the compound growth a year (CAGR)."""
    if not returns.size:
        return nan
    with np.errstate(over="ignore"):
        # A few good hours make more a year than a float holds: no figure.
        growth = float(np.prod(1.0 + returns) ** (periods / returns.size) - 1.0)
    return growth if isfinite(growth) else nan


def annual_volatility(returns: Floats, periods: float = DAYS) -> float:
    """Return the sample standard deviation (ddof=1) a year."""
    return float(np.std(returns, ddof=1) * sqrt(periods)) if returns.size > 1 else nan


def sharpe(returns: Floats, periods: float = DAYS) -> float:
    """Return mean over sample standard deviation, a year; no risk-free rate is subtracted."""
    if returns.size < 2:
        return nan
    if not _varies(returns):
        return nan
    return float(np.mean(returns)) / float(np.std(returns, ddof=1)) * sqrt(periods)


def _varies(returns: Floats) -> bool:
    """Tell whether returns differ: equal ones leave a rounding error for a deviation."""
    return bool(np.std(returns) > 1e-15 * np.max(np.abs(returns)))


def sortino(returns: Floats, periods: float = DAYS) -> float:
    """Return mean over the root of the mean squared loss, a year."""
    if not returns.size:
        return nan
    downside = float(np.sqrt(np.mean(np.square(np.minimum(returns, 0.0)))))
    return _ratio(float(np.mean(returns)), downside) * sqrt(periods)


def drawdowns(returns: Floats) -> Floats:
    """Return by how much each period's end is below the highest before it, from 0 down to -1."""
    wealth = np.cumprod(np.concatenate(([1.0], 1.0 + returns)))
    fall: Floats = (wealth / np.maximum.accumulate(wealth) - 1.0)[1:]
    return fall


def max_drawdown(returns: Floats) -> float:
    """Return the deepest drawdown, -0.04 for 4 %; the start counts as a high."""
    return float(np.min(drawdowns(returns), initial=0.0))


def calmar(returns: Floats, periods: float = DAYS) -> float:
    """Return the annual return over the deepest drawdown."""
    return _ratio(annual_return(returns, periods), abs(max_drawdown(returns)))


def ulcer_index(returns: Floats) -> float:
    """Return the root of the mean squared drawdown (n - 1)."""
    if returns.size < 2:
        return nan
    return float(np.sqrt(np.sum(np.square(drawdowns(returns))) / (returns.size - 1)))


def omega(returns: Floats) -> float:
    """Return the sum of gains over the sum of losses of the periods."""
    return _ratio(float(returns[returns > 0].sum()), float(-returns[returns < 0].sum()))


def tail_ratio(returns: Floats) -> float:
    """Return the 95th percentile over the 5th, both absolute."""
    if not returns.size:
        return nan
    high, low = np.percentile(returns, [100 * (1 - TAIL), 100 * TAIL])
    return _ratio(abs(float(high)), abs(float(low)))


def value_at_risk(returns: Floats) -> float:
    """Return the 5th percentile of the returns that were."""
    return float(np.percentile(returns, 100 * TAIL)) if returns.size else nan


def expected_shortfall(returns: Floats) -> float:
    """Return the mean of the worst 5 % of the returns that were."""
    if not returns.size:
        return nan
    cut = int((returns.size - 1) * TAIL)
    return float(np.mean(np.partition(returns, cut)[: cut + 1]))


def skewness(returns: Floats) -> float:
    """Return the unbiased sample skewness."""
    n = returns.size
    if n < 3 or not _varies(returns):
        return nan
    away = returns - np.mean(returns)
    second = float(np.mean(away**2))
    biased = _ratio(float(np.mean(away**3)), second**1.5)
    return biased * sqrt(n * (n - 1)) / (n - 2)


def kurtosis(returns: Floats) -> float:
    """Return the unbiased sample excess kurtosis, 0 for a normal distribution."""
    n = returns.size
    if n < 4 or not _varies(returns):
        return nan
    away = returns - np.mean(returns)
    second = float(np.mean(away**2))
    biased = _ratio(float(np.mean(away**4)), second**2) - 3.0
    return ((n + 1) * biased + 6.0) * (n - 1) / ((n - 2) * (n - 3))


# --- trades ---------------------------------------------------------------------------------------


def profit_factor(profits: Floats) -> float:
    """Return what winners made over what losers lost."""
    return omega(profits)


def win_rate(profits: Floats) -> float:
    """Return the share of winners among those that won or lost."""
    return _ratio(float(np.count_nonzero(profits > 0)), float(np.count_nonzero(profits)))


def payoff_ratio(profits: Floats) -> float:
    """Return the average winner over the average loser."""
    won, lost = profits[profits > 0], profits[profits < 0]
    return _ratio(float(won.mean()), float(-lost.mean())) if won.size and lost.size else nan


def expectancy(profits: Floats) -> float:
    """Return the average profit of a trade."""
    return float(profits.mean()) if profits.size else nan


def exposure(bars_held: int, bars: int) -> float:
    """Return the share of bars with a position."""
    return _ratio(float(bars_held), float(bars))


def turnover(traded: float, equity: Floats, years: float) -> float:
    """Return how often a year the average equity was traded; `traded` is the notional of all fills."""
    return _ratio(traded, float(equity.mean()) * years) if equity.size else nan


def monthly_returns(end_ms: Whole, returns: Floats) -> dict[str, float]:
    """Return the growth of each calendar month (UTC, "2025-05") from returns that end at these times."""
    if not returns.size:
        return {}
    months = end_ms.astype("datetime64[ms]").astype("datetime64[M]")
    first = np.flatnonzero(np.append(True, months[1:] != months[:-1]))
    growth = np.multiply.reduceat(1.0 + returns, first) - 1.0
    return {str(month): float(value) for month, value in zip(months[first], growth, strict=True)}


def summarize(returns: Floats, period: Period) -> dict[str, float]:
    """Return every figure of a return series by name."""
    year = period.per_year
    return {
        "total_return": total_return(returns),
        "annual_return": annual_return(returns, year),
        "annual_volatility": annual_volatility(returns, year),
        "sharpe": sharpe(returns, year),
        "sortino": sortino(returns, year),
        "calmar": calmar(returns, year),
        "max_drawdown": max_drawdown(returns),
        "ulcer_index": ulcer_index(returns),
        "omega": omega(returns),
        "tail_ratio": tail_ratio(returns),
        "value_at_risk": value_at_risk(returns),
        "expected_shortfall": expected_shortfall(returns),
        "skewness": skewness(returns),
        "kurtosis": kurtosis(returns),
    }


def summarize_trades(profits: Floats) -> dict[str, float]:
    """Return every figure of closed trades by name."""
    return {
        "trades": float(profits.size),
        "profit_factor": profit_factor(profits),
        "win_rate": win_rate(profits),
        "payoff_ratio": payoff_ratio(profits),
        "expectancy": expectancy(profits),
    }
