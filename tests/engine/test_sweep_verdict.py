"""The verdict over a sweep's rows."""

from math import isnan
from typing import Any

import numpy as np
import pytest

from qmtl.engine.statistics import DAY, sharpe
from qmtl.engine.sweep_verdict import judge

PERIODS, SPLITS = 40, 3


def row(number: int, returns: Any, train: list[float | None]) -> dict[str, Any]:
    tests = [{"sharpe": 1.0, "total_return": 0.1, "trades": 4, "periods": PERIODS} for _ in range(SPLITS)]
    trains = [{"sharpe": ratio} for ratio in train]
    return {"params": {"a": number}, "result": {"train": trains, "test": tests, "returns": list(returns)}}


def noise(sets: int, seed: int = 1) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    return [row(n, draw.normal(0, 0.01, PERIODS * SPLITS), [n, -n, None]) for n in range(sets)]


def test_noise_is_not_better_than_luck_and_an_edge_is() -> None:
    verdict = judge(noise(30), DAY, 7)
    assert verdict.words == "not better than luck"
    assert (verdict.sets, verdict.failed, verdict.splits) == (30, 0, 3)
    assert verdict.best_sharpe == pytest.approx(
        max(sharpe(np.array(r["result"]["returns"])) for r in noise(30))
    )
    assert verdict.deflated < 0.9
    assert verdict.interval.low < verdict.best_sharpe < verdict.interval.high
    rows = noise(30)
    rows[4]["result"]["returns"] = [value + 0.006 for value in rows[4]["result"]["returns"]]
    verdict = judge(rows, DAY, 7)
    assert verdict.best == {"a": 4}
    assert verdict.words == "better than luck"
    assert verdict.overfitting < 0.1


def test_more_trials_than_rows_make_the_same_best_less_believable() -> None:
    few, many = judge(noise(30), DAY, 7), judge(noise(30), DAY, 7, trials=3_000)
    assert many.luck > few.luck
    assert many.deflated < few.deflated


def test_the_chain_is_what_was_best_in_training() -> None:
    rows = noise(5)
    verdict = judge(rows, DAY, 7)
    assert [choice.params["a"] for choice in verdict.choices] == [4, 0, 0]
    chain = [
        *rows[4]["result"]["returns"][:PERIODS],
        *rows[0]["result"]["returns"][PERIODS : 2 * PERIODS],
        *rows[0]["result"]["returns"][2 * PERIODS :],
    ]
    assert verdict.forward == pytest.approx(sharpe(np.array(chain)))


def test_failures_losses_and_silence_have_their_words() -> None:
    failed = {"params": {"a": 9}, "error": "ValueError: no"}
    verdict = judge([failed, *noise(2)], DAY, 7)
    assert (verdict.sets, verdict.failed) == (3, 1)
    silent = judge([failed, row(1, np.zeros(PERIODS * SPLITS), [None] * 3)], DAY, 7)
    assert silent.words == "no set traded"
    assert isnan(silent.best_sharpe)
    assert judge([failed], DAY, 7).words == "no set traded"
    losing = [row(n, np.full(PERIODS * SPLITS, -0.01) + np.arange(120) * 1e-6, [1.0] * 3) for n in range(2)]
    assert judge(losing, DAY, 7).words == "no set earned anything, not better than luck"
