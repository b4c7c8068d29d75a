"""What every measured program does: load candles, prepare, run when told, say how long it took.

Run in an environment of the program's own. One JSON line in, one out: {"task", "candles", "options"} prepares
and runs once (what compiles, compiles then); {"again": n} runs n times and answers with the seconds of each.
"""

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Candles(NamedTuple):
    """Columns of closed one-minute candles."""

    open_ms: npt.NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats


class Outcome(NamedTuple):
    """Trades as (entry row, exit row, direction, entry price, exit price, profit), as columns or rows."""

    rows: Any
    sets: int = 1


Work = Callable[[], Any]
Prepare = Callable[[Candles, Mapping[str, Any]], Work]
Read = Callable[[Any], Outcome]


def memory_kb(name: str) -> int:
    """Return what Linux says of this process' memory, in KiB: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise KeyError(name)


def settle_memory() -> int:
    """Give back what is free, begin a new peak, and return what is held, in KiB.

    Without it, what loading libraries has left free would take in a part of the candles unseen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory_kb("VmRSS")


def serve(version: str, tasks: Mapping[str, tuple[Prepare, Read]]) -> None:
    """Answer requests until standard input ends."""
    work: Work | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "task" in asked:
            prepare, read = tasks[asked["task"]]
            before = settle_memory()
            with np.load(asked["candles"]) as stored:
                candles = Candles(*(stored[name] for name in Candles._fields))
            begin = time.perf_counter()
            work = prepare(candles, asked.get("options", {}))
            result = work()
            first = time.perf_counter() - begin
            peak = memory_kb("VmHWM")
            outcome = read(result)
            rows = np.asarray(outcome.rows, dtype=np.float64).reshape(-1, 6)
            said: dict[str, Any] = {
                "version": version, "first_s": first, "trades": len(rows), "profit": float(rows[:, 5].sum()),
                "sets": outcome.sets, "grown_kb": peak - before, "peak_kb": peak,
            }  # fmt: skip
            if asked.get("rows"):
                said["rows"] = rows.tolist()
            del result, outcome
        else:
            assert work is not None
            said = {"seconds": [timed(work) for _ in range(asked["again"])]}
        print(json.dumps(said), flush=True)


def timed(work: Work) -> tuple[float, float]:
    """Return processor and wall seconds of one run."""
    gc.collect()
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall
