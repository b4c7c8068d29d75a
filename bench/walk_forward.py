"""Walk forward of the quickstart's strategy over three years of one-minute candles: 20 sets × 6 splits.

Recorded candles first, a seeded walk beyond them (it says so). Two worker processes, wall time, progress on
standard error; wanted: at most 60 s on two cores.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bench.backtesters import write_strategy
from bench.measure import RESULTS, machine
from bench.recorded import BTCUSDT, load_bars
from qmtl.engine.crew import ProcessCrew
from qmtl.engine.kernel import compile_kernel
from qmtl.engine.splits import walk_forward
from qmtl.engine.statistics import DAY
from qmtl.engine.sweep import GridSampler, SweepFile, build_grid, run_sweep
from qmtl.engine.sweep_verdict import judge
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.market_history import MarketHistory, make_history
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.sweep_job import SweepJob
from qmtl.runtime.sdk.trade_plan import TradePlan

CANDLES = 3 * 365 * 1_440
SPACE: dict[str, Sequence[Any]] = {"window": [10, 20, 30, 40, 50], "inner": [0.5, 1.0, 1.5, 2.0]}
WANTED_S = 60


def three_years() -> tuple[MarketHistory, str]:
    """Return the candles and where they come from."""
    recorded, source = load_bars(70_000)
    draw = np.random.default_rng(7)
    more = CANDLES - len(recorded)
    last = recorded[-1].close
    close = np.round(last * np.exp(np.cumsum(draw.normal(0, 5e-4, more))), 1)
    opened = np.append(last, close[:-1])
    high = np.round(np.maximum(opened, close) + np.abs(draw.normal(0, 10, more)), 1)
    low = np.round(np.minimum(opened, close) - np.abs(draw.normal(0, 10, more)), 1)
    bars = Bars(
        recorded[0].open_ms + np.arange(CANDLES, dtype=np.int64) * 60_000,
        np.append([bar.open for bar in recorded], opened),
        np.append([bar.high for bar in recorded], high),
        np.append([bar.low for bar in recorded], low),
        np.append([bar.close for bar in recorded], close),
        np.ones(CANDLES),
        symbol="BTCUSDT",
        interval="1m",
    )
    history = make_history(bars, source="bench", node_id="ohlcv:bench")
    return history, f"{len(recorded):,} candles {source}, then {more:,} SYNTHETIC"


def run(folder: Path, history: MarketHistory) -> dict[str, Any]:
    """Run the sweep as `qmtl sweep` does and return what it took."""
    begin = time.perf_counter()
    job = SweepJob(
        source=load_source(str(write_strategy(folder))), fixed={}, plan=TradePlan(), terms=BacktestTerms(),
        histories={"BTCUSDT": history}, instrument=BTCUSDT, splits=walk_forward(CANDLES, 6),
    )  # fmt: skip
    workload = job.write(folder / "columns")
    compile_kernel()
    sampler = GridSampler(build_grid(SPACE))
    with (
        closing(ProcessCrew(workload, 2)) as crew,
        closing(SweepFile(folder / "rows", job.identify())) as rows,
    ):
        ready = time.perf_counter()
        for done, _ in enumerate(run_sweep(sampler, crew, rows, {}), 1):
            rate = done / (time.perf_counter() - ready)
            left = (sampler.total - done) / rate
            print(
                f"\r{done}/{sampler.total} sets · {rate:.2f} sets/s · left {left:.0f} s ",
                end="",
                file=sys.stderr,
            )
        verdict = judge(rows.rows, DAY, 7)
    print(file=sys.stderr)
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "start_seconds": round(ready - begin, 1),
        "sets": verdict.sets, "splits": verdict.splits, "words": verdict.words,
        "best_sharpe": verdict.best_sharpe, "deflated": verdict.deflated,
    }  # fmt: skip


def main() -> None:
    """Measure once and write the figure."""
    history, source = three_years()
    with tempfile.TemporaryDirectory() as folder:
        figure = run(Path(folder), history)
    print(machine(), source)
    print(f"walk forward, {CANDLES:,} candles, {figure['sets']} sets × {figure['splits']} splits: "
          f"{figure['seconds']} s wall time (wanted ≤ {WANTED_S} s)")  # fmt: skip
    body = {"machine": machine(), "source": source, "wanted_s": WANTED_S, **figure}
    (RESULTS / "walk_forward.json").write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()
