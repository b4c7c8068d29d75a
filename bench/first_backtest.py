"""Seconds from a cold interpreter to the end of the first backtest, caches warm; fresh processes in turn."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import caching, machine

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
PRELUDE = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
from bench.peers.qmtl_side import TASKS
from bench.peers.serving import Candles
draw = np.random.default_rng(1)
close = np.round(60_000 * np.exp(np.cumsum(draw.normal(0, 5e-4, 10_000))), 1)
opened = np.append(60_000.0, close[:-1])
high, low = np.round(np.maximum(opened, close) + 5, 1), np.round(np.minimum(opened, close) - 5, 1)
candles = Candles(1_700_006_400_000 + np.arange(10_000) * 60_000, opened, high, low, close)
prepare, read = TASKS[{task!r}]
print(len(read(prepare(candles, {{"file": {file!r}}})()).rows))
"""


def seconds(task: str, file: Path) -> float:
    """Return the wall seconds of one fresh process that imports and runs 10,000 candles."""
    code = PRELUDE.format(root=str(ROOT), task=task, file=str(file))
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT, env=caching())
    return time.perf_counter() - begin


def measure(file: Path) -> dict[str, float]:
    """Return the median of each tier; the first process of each warms the caches and is not counted."""
    names = {"events": "close form, event tier", "kernel": "close form, kernel"}
    names |= {"file_events": "strategy file, event tier", "file": "strategy file, kernel"}
    taken: dict[str, list[float]] = {task: [] for task in names}
    for number in range(ROUNDS + 1):
        for task, times in taken.items():
            spent = seconds(task, file)
            if number:
                times.append(spent)
    return {names[task]: round(statistics.median(times), 3) for task, times in taken.items()}


if __name__ == "__main__":
    import tempfile

    from bench.backtesters import write_strategy

    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for name, spent in measure(write_strategy(Path(folder))).items():
            print(f"import + first backtest of 10,000 candles, {name}: {spent:.2f} s (wanted < 1.5)")
