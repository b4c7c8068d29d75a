"""How much of a result is luck: intervals, deflated Sharpe ratio, probability of backtest overfitting.

Sources: Bailey and López de Prado, "The Sharpe Ratio Efficient Frontier" (2012) and "The Deflated Sharpe
Ratio" (2014); Bailey, Borwein, López de Prado and Zhu, "The Probability of Backtest Overfitting" (2015);
Politis and Romano, "The Stationary Bootstrap" (1994). Sharpe ratios in here are per period, not per year.
"""

from collections.abc import Callable
from itertools import combinations
from math import e, isnan, nan, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qmtl.engine.statistics import kurtosis, sharpe, skewness

Floats = npt.NDArray[np.float64]

_NORMAL = NormalDist()
_EULER = 0.5772156649015329
CONFIDENCE = 0.95
"""A deflated Sharpe ratio at or above this is called better than luck."""
RESAMPLES = 1_000
BLOCKS = 16
"""Blocks of time that the overfitting estimate recombines: 12,870 ways to halve them."""


class Interval(NamedTuple):
    """Bounds that hold the true value with the stated confidence."""

    low: float
    high: float


def resample_rows(rows: int, seed: int, resamples: int = RESAMPLES) -> npt.NDArray[np.int64]:
    """Return row numbers of `resamples` stationary bootstrap series, one a line.

    Blocks have geometric lengths with mean rows^(1/3) and wrap around; the same seed gives the same rows.
    """
    draw = np.random.default_rng(seed)
    chance = 1.0 / max(1.0, rows ** (1 / 3))
    starts = draw.integers(0, rows, (resamples, rows))
    begins = draw.random((resamples, rows)) < chance
    begins[:, 0] = True
    at = np.arange(rows)
    begun = np.maximum.accumulate(np.where(begins, at, 0), axis=1)
    chosen: npt.NDArray[np.int64] = (np.take_along_axis(starts, begun, axis=1) + at - begun) % rows
    return chosen


def bootstrap_interval(
    returns: Floats,
    statistic: Callable[[Floats], float],
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile interval of `statistic` over stationary bootstrap series of `returns`."""
    if returns.size < 3:
        return Interval(nan, nan)
    rows = resample_rows(returns.size, seed, resamples)
    values = np.array([statistic(returns[line]) for line in rows])
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(nan, nan)
    rest = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [rest, 100.0 - rest])
    return Interval(float(low), float(high))


def probabilistic_sharpe(returns: Floats, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio a period is above `benchmark`.

    NaN with fewer than four returns or none that vary. Skewness and kurtosis are the unbiased ones.
    """
    ratio = sharpe(returns, 1.0)
    if isnan(ratio) or returns.size < 4:
        return nan
    tail = (kurtosis(returns) + 2.0) / 4.0
    variance = (1.0 - skewness(returns) * ratio + tail * ratio * ratio) / (returns.size - 1)
    return _NORMAL.cdf((ratio - benchmark) / sqrt(variance)) if variance > 0 else nan


def luck_of(ratios: Floats, trials: int | None = None) -> float:
    """Return the best Sharpe ratio a period that pure luck would show among as many trials.

    `ratios` are those of the trials; `trials` is how many there were where not all are at hand.
    """
    known = ratios[np.isfinite(ratios)]
    count = trials or known.size
    if known.size < 2 or count < 2:
        return 0.0
    spread = float(np.std(known, ddof=1))
    first, second = _NORMAL.inv_cdf(1.0 - 1.0 / count), _NORMAL.inv_cdf(1.0 - 1.0 / (count * e))
    return spread * ((1.0 - _EULER) * first + _EULER * second)


def deflated_sharpe(returns: Floats, ratios: Floats, trials: int | None = None) -> float:
    """Return the probability that the best trial's true Sharpe ratio is above what luck alone would show.

    `returns` are the best trial's, `ratios` the Sharpe ratios a period of all trials.
    """
    return probabilistic_sharpe(returns, luck_of(ratios, trials))


def is_better_than_luck(probability: float) -> bool:
    """Tell whether a deflated Sharpe ratio is enough to speak of an edge."""
    return probability >= CONFIDENCE


class Overfitting(NamedTuple):
    """What combinatorially symmetric cross-validation found.

    `probability`: how often the best set in one half is below the median in the other. `logits`: of its
    relative rank there, one for each way to halve the time. `degradation`: slope of its ratio in the other
    half over its ratio in the first. `loss`: how often the other half lost money.
    """

    probability: float
    logits: Floats
    degradation: float
    loss: float


def find_overfitting(returns: Floats, blocks: int = BLOCKS) -> Overfitting:
    """Return the probability of backtest overfitting of `returns`, one column a parameter set.

    The time (rows) is cut into `blocks` (even) of equal length, what is left over at the start is not used;
    sets that never vary rank last. Fewer than two sets, or than two rows a block, give NaN.
    """
    length = returns.shape[0] // blocks
    if blocks % 2 or returns.shape[1] < 2 or length < 2:
        return Overfitting(nan, np.empty(0), nan, nan)
    used = returns[returns.shape[0] - length * blocks :].reshape(blocks, length, -1)
    # A ratio does not hang on how large the returns are; a deviation of about nothing has to be told apart.
    used = used / np.maximum(np.abs(used).max(axis=(0, 1)), np.finfo(float).tiny)
    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    inside = np.zeros((len(chosen), blocks))
    np.put_along_axis(inside, chosen, 1.0, axis=1)
    sums, squares = used.sum(axis=1), np.square(used).sum(axis=1)
    rows = length * blocks // 2
    first = _sharpe_of(inside @ sums, inside @ squares, rows)
    other = _sharpe_of((1.0 - inside) @ sums, (1.0 - inside) @ squares, rows)
    best = first.argmax(axis=1)
    lines = np.arange(len(chosen))
    reached = other[lines, best]
    below = (other < reached[:, None]).sum(axis=1) + ((other == reached[:, None]).sum(axis=1) + 1) / 2
    rank = below / (returns.shape[1] + 1)
    logits: Floats = np.log(rank / (1.0 - rank))
    was = first[lines, best]
    valid = np.isfinite(was) & np.isfinite(reached)
    slope = nan
    if valid.sum() > 1 and np.ptp(was[valid]) > 0:
        away = was[valid] - was[valid].mean()
        slope = float(away @ reached[valid] / (away @ away))
    return Overfitting(float(np.mean(logits <= 0)), logits, slope, float(np.mean(reached < 0)))


def _sharpe_of(total: Floats, squares: Floats, rows: int) -> Floats:
    mean = total / rows
    variance = (squares - total * mean) / (rows - 1)
    ratio = np.full(total.shape, -np.inf)
    np.divide(mean, np.sqrt(np.maximum(variance, 0.0)), out=ratio, where=variance > 1e-18)
    return ratio
