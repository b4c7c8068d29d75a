"""Issue 6: statistics agree with quantstats and empyrical-reloaded to 1e-9 where definitions coincide."""

import json
import subprocess
from itertools import pairwise
from math import isnan

import numpy as np
import pytest

from qmtl.engine import statistics as st
from qmtl.engine.overfitting import probabilistic_sharpe
from tests.outside.conftest import ROOT

pytestmark = pytest.mark.outside
PYTHON = ROOT / ".venvs" / "statistics" / "bin" / "python"


def series() -> list[list[float]]:
    """Gains, losses, fat tails, long flat times, a first day that loses, few days."""
    draw = np.random.default_rng(6)
    normal = draw.normal(0.0004, 0.01, 700)
    fat = draw.standard_t(3, 400) * 0.008
    idle = np.where(draw.random(500) < 0.7, 0.0, draw.normal(-0.001, 0.02, 500))
    falling = np.concatenate(([-0.05], draw.normal(-0.002, 0.01, 90)))
    return [normal.tolist(), fat.tolist(), idle.tolist(), falling.tolist(), [0.01, -0.02, 0.03, -0.01, 0.02]]


def ours(returns: list[float]) -> dict[str, float]:
    values = np.array(returns)
    mine = st.summarize(values, st.DAY) | st.summarize_trades(values)
    return mine | {"probabilistic_sharpe": probabilistic_sharpe(values)}


def test_figures_agree_with_both_libraries_to_1e_9() -> None:
    if not PYTHON.exists():
        pytest.skip("no environment .venvs/statistics: `make outside` creates it")
    given = series()
    run = subprocess.run(
        [PYTHON, ROOT / "tests/outside/peer_statistics.py"],
        input=json.dumps(given), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2_000:]
    compared = 0
    for returns, said in zip(given, json.loads(run.stdout), strict=True):
        mine = ours(returns)
        for peer, figures in said.items():
            for name, value in figures.items():
                assert not isnan(value), (peer, name)
                assert mine[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (peer, name, len(returns))
                compared += 1
    assert compared == 27 * len(given)


def test_drawdown_and_returns_are_those_of_the_equity() -> None:
    equity = np.array([100.0, 110.0, 99.0, 120.0, 60.0])
    returns = st.returns_of(equity, 100.0)
    assert returns == pytest.approx([0.0, 0.1, -0.1, 120 / 99 - 1, -0.5])
    assert st.max_drawdown(returns) == pytest.approx(-0.5)
    assert [b >= a for a, b in pairwise(np.cumprod(1 + returns) * 100)] == [True, False, True, False]
