"""The backtester beside its peers, each in an environment of its own, on the same candles, side by side.

First every program's trades and profit are compared with ours, then both sides of each figure run in turn.
Event-driven tiers are compared by processor time, as are single kernels; many sets by wall time, since both
sides may use both cores. `make bench` installs the peers (bench/peers/*.txt).

A kernel's run begins at the array of closes, checked on our side, and ends at the same on both: every trade
with its rows and prices, its profit after fees, and equity at every close. vectorbt hands trades over as the
array it has inside, which is faster than its table. Memory is compared twice: the peak of the whole process,
and what candles and run added after a short run, from a heap that has given back what it did not use.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Measured, machine, write

ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    "vectorbt": "vectorbt_side",
    "backtesting": "backtesting_side",
    "nautilus-trader": "nautilus_side",
    "backtrader": "backtrader_side",
}
ROUNDS = 5
RECORDED, EVENTS = 70_000, 30_000
SETS = list(range(10, 110))
FILE_SETS = [{"window": window, "inner": inner / 4} for window in range(10, 60, 5) for inner in range(2, 12)]
WALL = 1


class Side:
    """One program in its environment, asked over pipes."""

    def __init__(self, environment: str, script: str) -> None:
        python = Path(sys.executable) if not environment else ROOT / ".venvs" / environment / "bin" / "python"
        self.process = subprocess.Popen(
            [str(python), str(ROOT / "bench" / "peers" / f"{script}.py")],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.name = script

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        message = f"{self.name} ended with code {self.process.wait(10)}"
        raise RuntimeError(message)

    def run(self, task: str, candles: Path, *, rows: bool = False, **options: Any) -> dict[str, Any]:
        """Prepare a task and run it once."""
        return self.ask({"task": task, "candles": str(candles), "rows": rows, "options": options})

    def again(self, clock: int = 0) -> float:
        """Return the seconds of one more run: processor time, or wall time."""
        return float(self.ask({"again": 1})["seconds"][0][clock])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def ours() -> Side:
    return Side("", "qmtl_side")


def has(peer: str) -> bool:
    return (ROOT / ".venvs" / peer / "bin" / "python").exists()


def recorded(folder: Path, count: int = RECORDED) -> tuple[Path, str]:
    from bench.recorded import load_bars

    bars, source = load_bars(count)
    path = folder / f"recorded_{count}.npz"
    np.savez(
        path,
        open_ms=np.array([bar.open_ms for bar in bars]),
        open=np.array([bar.open for bar in bars]),
        high=np.array([bar.high for bar in bars]),
        low=np.array([bar.low for bar in bars]),
        close=np.array([bar.close for bar in bars]),
    )
    return path, source


def synthetic(folder: Path, count: int) -> Path:
    """Write a seeded walk of `count` candles on the tick."""
    draw = np.random.default_rng(7)
    close = np.round(60_000 * np.exp(np.cumsum(draw.normal(0, 5e-4, count))), 1)
    opened = np.append(60_000.0, close[:-1])
    high = np.round(np.maximum(opened, close) + np.abs(draw.normal(0, 10, count)), 1)
    low = np.round(np.minimum(opened, close) - np.abs(draw.normal(0, 10, count)), 1)
    path = folder / f"synthetic_{count}.npz"
    np.savez(
        path,
        open_ms=1_700_006_400_000 + np.arange(count) * 60_000,
        open=opened,
        high=high,
        low=low,
        close=close,
    )
    return path


def write_strategy(folder: Path) -> Path:
    """Write the quickstart's strategy file."""
    path = folder / "band_break.py"
    path.write_bytes((ROOT / "qmtl/examples/strategies/band_break.py").read_bytes())
    return path


def check_equal(candles: Path) -> dict[str, Any]:
    """Raise AssertionError unless every program makes our kernel's trades; return counts and versions."""
    side = ours()
    wanted = side.run("kernel", candles, rows=True)
    found = {"qmtl event tier": side.run("events", candles, rows=True)}
    side.close()
    for peer in filter(has, PEERS):
        side = Side(peer, PEERS[peer])
        answer = side.run("close_form", candles, rows=True)
        found[str(answer["version"])] = answer
        side.close()
    whole = np.array(wanted["rows"])
    with np.load(candles) as stored:
        last = stored["close"].size - 1
    for name, answer in found.items():
        theirs = np.array(answer["rows"])
        # backtesting.py and backtrader process orders at the next bar: one sent at the last close stays open.
        is_late = name.startswith(("backtesting", "backtrader"))
        mine = whole[whole[:, 1] < last] if is_late else whole
        if theirs.shape != mine.shape or not np.allclose(theirs, mine, rtol=1e-12, atol=1e-6):
            message = f"{name}: {len(theirs)} trades, {len(mine)} here, or their prices or profits differ"
            raise AssertionError(message)
        print(f"{name}: {len(theirs):,} trades, {answer['profit']:,.2f} after fees, equal to ours")
    return {"trades": len(whole), "profit": wanted["profit"], "equal": sorted(found)}


def compare(
    name: str, mine: Side, theirs: Side, anchor: str, *, count: int, unit: str = "candles", clock: int = 0
) -> Measured:
    """Run both in turn and return the figure."""
    pairs = [(count / mine.again(clock), count / theirs.again(clock)) for _ in range(ROUNDS)]
    ratios = [a / b for a, b in pairs]
    figure = Measured(
        name, unit, anchor, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
        statistics.median(ratios), min(ratios), max(ratios), ROUNDS,
    )  # fmt: skip
    line = figure.line()
    print(line.replace("processor time", "wall time") if clock else line, flush=True)
    return figure


def event_figures(candles: Path) -> list[Measured]:
    """Compare the event tier with every event-driven peer."""
    figures = []
    mine = ours()
    for peer in [peer for peer in ("backtesting", "nautilus-trader", "backtrader") if has(peer)]:
        theirs = Side(peer, PEERS[peer])
        version = theirs.run("close_form", candles)["version"]
        mine.run("events", candles)
        figures.append(compare("event tier, close form", mine, theirs, version, count=EVENTS))
        # No peer records what was compared at each bar; ours writes it out when somebody reads.
        mine.run("events", candles, written_out=True)
        name = "event tier, close form, every record written out"
        figures.append(compare(name, mine, theirs, version, count=EVENTS))
        theirs.close()
    mine.close()
    return figures


def kernel_figures(folder: Path) -> tuple[list[Measured], dict[str, Any]]:
    """Compare the kernel with vectorbt at two lengths and with a hundred sets; memory of fresh processes."""
    figures, memory = [], {}
    for count in (100_000, 1_000_000):
        candles = synthetic(folder, count)
        mine, theirs = ours(), Side("vectorbt", PEERS["vectorbt"])
        # A short run first: what grows afterwards is candles and run, not libraries and compiled code.
        short = synthetic(folder, 2_000)
        mine.run("kernel", short)
        theirs.run("close_form", short)
        here, there = mine.run("kernel", candles), theirs.run("close_form", candles)
        name = f"kernel, close form, {count:,}"
        figures.append(compare(name, mine, theirs, there["version"], count=count))
        memory[f"{count:,} candles"] = {
            "qmtl_peak_mb": here["peak_kb"] // 1024, "vectorbt_peak_mb": there["peak_kb"] // 1024,
            "peak_ratio": round(here["peak_kb"] / there["peak_kb"], 3),
            "qmtl_grown_mb": here["grown_kb"] // 1024, "vectorbt_grown_mb": there["grown_kb"] // 1024,
            "grown_ratio": round(here["grown_kb"] / there["grown_kb"], 3),
        }  # fmt: skip
        mine.close()
        theirs.close()
    candles = synthetic(folder, 100_000)
    mine, theirs = ours(), Side("vectorbt", PEERS["vectorbt"])
    mine.run("kernel", candles, windows=SETS, threads=2)
    there = theirs.run("close_form", candles, windows=SETS)
    name = f"{len(SETS)} sets × 100,000, close form"
    figures.append(compare(name, mine, theirs, there["version"], count=len(SETS), unit="sets", clock=WALL))
    mine.close()
    theirs.close()
    return figures, memory


def file_figures(folder: Path, recorded_candles: Path) -> dict[str, float]:
    """Measure the quickstart's strategy file the same ways; median rates a second."""
    file, side = str(write_strategy(folder)), ours()
    found: dict[str, float] = {}
    works: Sequence[tuple[str, str, Path, int, dict[str, Any]]] = (
        ("event tier, candles/s", "file_events", recorded_candles, RECORDED, {}),
        ("kernel 100,000, candles/s", "file", synthetic(folder, 100_000), 100_000, {}),
        ("kernel 1,000,000, candles/s", "file", synthetic(folder, 1_000_000), 1_000_000, {}),
        (
            "100 sets × 100,000, sets/s",
            "file",
            synthetic(folder, 100_000),
            100,
            {"sets": FILE_SETS, "threads": 2},
        ),
    )
    for name, task, candles, count, options in works:
        side.run(task, candles, file=file, **options)
        clock = WALL if "sets" in options else 0
        found[name] = round(statistics.median(count / side.again(clock) for _ in range(ROUNDS)))
        print(f"quickstart's file, {name}: {found[name]:,}", flush=True)
    side.close()
    return found


def main() -> None:
    """Check the trades, then measure."""
    from bench.first_backtest import measure

    print(machine())
    for peer in PEERS:
        if not has(peer):
            print(f"{peer}: not installed (scripts/environment.sh peers); left out")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        candles, source = recorded(folder)
        extra: dict[str, Any] = {"source": source, "recorded": check_equal(candles)}
        extra["synthetic"] = check_equal(synthetic(folder, 30_000))
        figures = event_figures(recorded(folder, EVENTS)[0])
        if has("vectorbt"):
            kernels, extra["memory"] = kernel_figures(folder)
            figures += kernels
        extra["quickstart_file"] = file_figures(folder, candles)
        extra["first_backtest_s"] = measure(write_strategy(folder))
    for name in ("memory", "first_backtest_s"):
        print(f"{name}: {extra.get(name)}")
    extra["wanted"] = "event tier >= 3 x best peer; kernel >= 10 x vectorbt at half its memory; first < 1.5 s"
    write("backtesters", figures, extra)


if __name__ == "__main__":
    main()
