"""Paired measurement: candidate and anchor in turn, medians, ratio pair by pair."""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measured:
    """One comparison: units per processor second of both sides, and candidate / anchor of each pair."""

    name: str
    unit: str
    anchor: str
    candidate_per_s: float
    anchor_per_s: float
    ratio_median: float
    ratio_min: float
    ratio_max: float
    rounds: int
    time: str = "processor time"

    def line(self) -> str:
        """Return the figure as one printed line."""
        return (
            f"{self.name}: {self.candidate_per_s:,.0f} {self.unit}/s ({self.time}) · {self.anchor}: "
            f"{self.anchor_per_s:,.0f} {self.unit}/s · ratio {self.ratio_median:.3f} "
            f"[{self.ratio_min:.3f}, {self.ratio_max:.3f}] ({self.rounds} rounds)"
        )


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds one call takes, garbage collected before it.

    Both sides of a comparison compute on one thread; processor time leaves out what neighbours on a shared
    machine take away.
    """
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(
    name: str,
    candidate: Callable[[], object],
    anchor: Callable[[], object],
    *,
    count: int,
    anchor_count: int | None = None,
    anchor_name: str,
    unit: str,
    rounds: int = 5,
) -> Measured:
    """Run candidate and anchor in turn `rounds` times after one warm-up of each."""
    candidate()
    anchor()
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        ours.append(count / seconds(candidate))
        theirs.append((anchor_count or count) / seconds(anchor))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Measured(
        name,
        unit,
        anchor_name,
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        rounds,
    )


def caching() -> dict[str, str]:
    """Return the environment of a process whose start is measured warm: it may write compiled modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def machine() -> dict[str, str]:
    """Return what a figure must be quoted with: machine, interpreter, revision."""
    model = "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": model,
        "system": platform.platform(terse=True),
        "python": sys.version.split()[0],
        "revision": revision,
    }


def write(name: str, figures: list[Measured], extra: dict[str, object] | None = None) -> Path:
    """Write `bench/results/NAME.json` and print every line."""
    RESULTS.mkdir(exist_ok=True)
    for figure in figures:
        print(figure.line())
    path = RESULTS / f"{name}.json"
    body = {"machine": machine(), "figures": [asdict(figure) for figure in figures], **(extra or {})}
    path.write_text(json.dumps(body, indent=2) + "\n")
    return path
