"""Luck and edge: deflated Sharpe ratio, probability of overfitting, bootstrap."""

from math import isnan

import numpy as np
import pytest

from qmtl.engine import overfitting as of
from qmtl.engine.statistics import max_drawdown, sharpe

TRUE_RATIO = 0.001 / 0.01 * 365**0.5


def noise(rows: int, sets: int, seed: int) -> of.Floats:
    return np.random.default_rng(seed).normal(0.0, 0.01, (rows, sets))


def test_the_best_of_many_noises_is_called_luck_and_an_edge_is_not() -> None:
    verdicts = []
    for seed in range(40):
        returns = noise(500, 60, seed)
        ratios = np.array([sharpe(column, 1.0) for column in returns.T])
        best = returns[:, ratios.argmax()]
        assert of.probabilistic_sharpe(best) > 0.9  # alone it looks like an edge
        verdicts.append(of.is_better_than_luck(of.deflated_sharpe(best, ratios)))
    assert sum(verdicts) <= 4
    returns = noise(1_000, 60, 1)
    returns[:, 7] += 0.0025
    ratios = np.array([sharpe(column, 1.0) for column in returns.T])
    assert of.is_better_than_luck(of.deflated_sharpe(returns[:, 7], ratios))


def test_luck_grows_with_trials_as_the_largest_of_normals_does() -> None:
    draw = np.random.default_rng(3)
    for trials in (10, 100, 1_000):
        drawn = draw.normal(0.0, 0.1, (2_000, trials))
        expected = of.luck_of(drawn[0] / drawn[0].std(ddof=1) * 0.1, trials)
        assert expected == pytest.approx(drawn.max(axis=1).mean(), rel=0.03)
    assert of.luck_of(np.array([0.3])) == 0.0


def test_probability_of_overfitting_is_half_for_noise_and_small_for_an_edge() -> None:
    noisy = np.mean([of.find_overfitting(noise(640, 20, seed), 10).probability for seed in range(12)])
    assert 0.35 < noisy < 0.75
    returns = noise(640, 20, 5)
    returns[:, 3] += 0.004
    found = of.find_overfitting(returns)
    assert len(found.logits) == 12_870
    assert found.probability < 0.05
    assert found.loss < 0.05


def test_overfitting_equals_the_plain_definition() -> None:
    returns = noise(41, 5, 9)
    found = of.find_overfitting(returns, 4)
    blocks = returns[1:].reshape(4, 10, 5)
    below = 0
    halves = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for half in halves:
        rest = [k for k in range(4) if k not in half]
        first = [sharpe(np.concatenate([blocks[k][:, j] for k in half]), 1.0) for j in range(5)]
        other = [sharpe(np.concatenate([blocks[k][:, j] for k in rest]), 1.0) for j in range(5)]
        rank = sorted(other).index(other[int(np.argmax(first))]) + 1
        below += rank / 6 <= 0.5
    assert found.probability == pytest.approx(below / len(halves))
    # A small position in a large account is no other strategy.
    assert of.find_overfitting(returns * 1e-9, 4).logits == pytest.approx(found.logits)
    for bad in (of.find_overfitting(returns[:, :1], 4), of.find_overfitting(returns[:6], 4)):
        assert isnan(bad.probability)


def test_the_interval_repeats_with_its_seed_and_holds_the_truth() -> None:
    held = 0
    for seed in range(40):
        returns = np.random.default_rng(seed).normal(0.001, 0.01, 250)
        interval = of.bootstrap_interval(returns, sharpe, 1, resamples=200)
        held += interval.low <= TRUE_RATIO <= interval.high
    assert held >= 32
    returns = np.random.default_rng(1).normal(0, 0.01, 100)
    assert of.bootstrap_interval(returns, max_drawdown, 7, resamples=50) == of.bootstrap_interval(
        returns, max_drawdown, 7, resamples=50
    )
    assert of.bootstrap_interval(returns, sharpe, 7) != of.bootstrap_interval(returns, sharpe, 8)
    assert isnan(of.bootstrap_interval(returns[:2], sharpe, 7).low)


def test_resampled_rows_come_in_blocks_that_wrap() -> None:
    rows = of.resample_rows(1_000, 3, 100)
    follows = (np.diff(rows, axis=1) % 1_000 == 1).mean()
    assert follows == pytest.approx(0.9, abs=0.02)
    assert np.bincount(rows.ravel(), minlength=1_000).min() > 40
