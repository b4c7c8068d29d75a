"""A worker whose sets cost nothing, fail, hang or kill it, and a whole sweep as a process to be killed."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmtl.engine.crew import Evaluate, Plain, ProcessCrew, Workload
from qmtl.engine.sweep import GridSampler, SweepFile, build_grid, run_sweep

FACTORY = "tests.engine.sweep_rig:open_worker"
SPACE: dict[str, Sequence[Any]] = {"a": [1, 2, 3, 4], "b": [0.5, 1.0, 1.5]}


def open_worker(config: Plain) -> Evaluate:
    if config.get("broken"):
        raise ValueError("no data in here")

    def evaluate(params: Plain) -> dict[str, Any]:
        if params.get("a") == config.get("fails_at"):
            raise ZeroDivisionError("float division")
        if params.get("a") == config.get("dies_at"):
            os._exit(9)
        if params.get("a") == config.get("waits_at"):
            time.sleep(60)
        if "log" in config:
            with Path(config["log"]).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {params}\n")
        return result_of(params)

    return evaluate


def result_of(params: Plain, splits: int = 3, periods: int = 20) -> dict[str, Any]:
    draw = np.random.default_rng([int(params["a"]), int(params["b"] * 10)])
    edge = 0.01 if params["a"] == 3 else 0.0
    returns = draw.normal(edge, 0.01, splits * periods)
    part = {"sharpe": edge * 100 + params["b"], "total_return": 0.01, "trades": 5, "periods": periods}
    return {"train": [part] * splits, "test": [part] * splits, "returns": returns.tolist()}


if __name__ == "__main__":
    crew = ProcessCrew(Workload(FACTORY, {"waits_at": 4}), 2)
    results = SweepFile(Path(sys.argv[1]), {"sweep": "one"})
    for row in run_sweep(GridSampler(build_grid(SPACE), results.rows), crew, results, {"seed": 1}):
        print(row["params"], flush=True)
