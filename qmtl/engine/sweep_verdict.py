"""What a sweep's rows say together: the best set, what walking forward earned, how much of it is luck."""

from collections.abc import Mapping, Sequence
from math import nan, sqrt
from typing import Any, NamedTuple

import numpy as np

from qmtl.engine.overfitting import (
    Interval,
    bootstrap_interval,
    deflated_sharpe,
    find_overfitting,
    is_better_than_luck,
    luck_of,
)
from qmtl.engine.statistics import Period, sharpe


class Choice(NamedTuple):
    """One split of the walk forward: the set that was best in training, and what its test gave."""

    split: int
    params: dict[str, Any]
    train_sharpe: float
    test_sharpe: float
    test_return: float
    trades: int


class Verdict(NamedTuple):
    """The whole sweep; Sharpe ratios are a year's, of test periods only.

    `deflated`: probability that the best set's true ratio is above what luck alone shows among so many sets
    (`luck`). `overfitting`: probability that the best of one half of the time is below the median in the
    other. `forward`: the ratio of the chain of sets chosen in training.
    """

    sets: int
    failed: int
    splits: int
    best: dict[str, Any] | None
    best_sharpe: float
    interval: Interval
    deflated: float
    luck: float
    overfitting: float
    forward: float
    choices: tuple[Choice, ...]

    @property
    def words(self) -> str:
        """Say it plainly."""
        if self.best is None:
            return "no set traded"
        if self.best_sharpe <= 0:
            return "no set earned anything, not better than luck"
        return "better than luck" if is_better_than_luck(self.deflated) else "not better than luck"


def number(value: float | None) -> float:
    """Return a figure of a row as a float: None was NaN."""
    return nan if value is None else float(value)


def test_ratio(row: Mapping[str, Any], period: Period) -> float:
    """Return a row's Sharpe ratio a year over all its test periods."""
    return sharpe(np.array(row["result"]["returns"], dtype=np.float64), period.per_year)


def train_ratio(row: Mapping[str, Any]) -> float:
    """Return the mean Sharpe ratio of a row's trainings: what a search may look at."""
    ratios = [number(split["sharpe"]) for split in row["result"]["train"]]
    return float(np.mean(ratios)) if ratios else nan


def judge(rows: Sequence[Mapping[str, Any]], period: Period, seed: int, trials: int | None = None) -> Verdict:
    """Return the verdict over finished rows; `trials` is how many sets were tried where some are not here."""
    done = [row for row in rows if "result" in row]
    failed = len(rows) - len(done)
    ratios = np.array([test_ratio(row, period) for row in done]) / sqrt(period.per_year)
    splits = len(done[0]["result"]["test"]) if done else 0
    if not np.isfinite(ratios).any():
        nothing = Interval(nan, nan)
        return Verdict(len(rows), failed, splits, None, nan, nothing, nan, nan, nan, nan, ())
    at = int(np.nanargmax(ratios))
    returns = np.array([row["result"]["returns"] for row in done], dtype=np.float64).T
    best = np.ascontiguousarray(returns[:, at])
    choices = tuple(_choose(done, split) for split in range(splits))
    chain = np.concatenate([_part(done, returns, choice) for choice in choices])
    return Verdict(
        sets=len(rows),
        failed=failed,
        splits=splits,
        best=dict(done[at]["params"]),
        best_sharpe=float(ratios[at]) * sqrt(period.per_year),
        interval=bootstrap_interval(best, lambda r: sharpe(r, period.per_year), seed),
        deflated=deflated_sharpe(best, ratios, trials),
        luck=luck_of(ratios, trials) * sqrt(period.per_year),
        overfitting=find_overfitting(returns).probability,
        forward=sharpe(chain, period.per_year),
        choices=choices,
    )


def _choose(done: Sequence[Mapping[str, Any]], split: int) -> Choice:
    """Return the set with the best training of a split; what never traded is chosen only if nothing did."""
    ratios = np.array([number(row["result"]["train"][split]["sharpe"]) for row in done])
    at = int(np.argmax(np.where(np.isfinite(ratios), ratios, -np.inf)))
    test = done[at]["result"]["test"][split]
    return Choice(
        split,
        dict(done[at]["params"]),
        float(ratios[at]),
        number(test["sharpe"]),
        number(test["total_return"]),
        int(test["trades"]),
    )


def _part(done: Sequence[Mapping[str, Any]], returns: Any, choice: Choice) -> Any:
    """Return the test returns of the chosen set in its split."""
    at = next(number for number, row in enumerate(done) if row["params"] == choice.params)
    ends = np.cumsum([test["periods"] for test in done[at]["result"]["test"]])
    begin = ends[choice.split] - done[at]["result"]["test"][choice.split]["periods"]
    return returns[begin : ends[choice.split], at]
