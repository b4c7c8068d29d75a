"""History stores beside each other: `python -m bench.history_stores [ROWS]` (seamless.md §16, item 30).

Bulk write, append of one durable bar, read of a day, read of everything, in wall-clock time; peers take
turns within a round, and ratios are medians over the rounds. Aim: both reads in at most half of DuckDB's
time, bulk write at most 4 times bare synced segment files, one bar at most 4 times one such file.
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from bench.history_peers import KEY, PEERS, BarePeer, Peer, QuestDBPeer, months
from bench.measure import Measured, write
from bench.questdb_server import questdb_at_hand

ROUNDS = 5
START = 1_640_995_200  # 2022-01-01
DAY_S = 86_400
APPENDS, DAYS, WHOLES = 15, 31, 3
OURS = "embedded store"
Times = dict[str, float]


def candles(count: int) -> pl.DataFrame:
    """Return `count` one-minute bars of a seeded walk."""
    dice = np.random.default_rng(1)
    close = 60_000 + dice.normal(0, 10, count).cumsum()
    opened = np.roll(close, 1)
    high, low = np.maximum(opened, close) + 5, np.minimum(opened, close) - 5
    times = np.arange(START, START + 60 * count, 60)
    columns = {"ts": times, "open": opened, "high": high, "low": low, "close": close}
    return pl.DataFrame({**columns, "volume": dice.random(count)})


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call: what a disk costs is not processor time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[int], object], count: int) -> float:
    """Return the median of `count` calls, given their numbers, after one that warms up."""
    work(0)
    return statistics.median(seconds(lambda n=n: work(n)) for n in range(1, count + 1))  # type: ignore[misc]


def whole(peer: Peer, end: int) -> None:
    """Read everything and touch every value, so that a mapped file is really read."""
    peer.read(0, end).sum()


def measure(peer: Peer, frame: pl.DataFrame, bare: BarePeer | None) -> tuple[Times, Times]:
    """Return the seconds of each kind of work of a peer, and of bare segment files taking turns with it."""
    end = START + 60 * frame.height
    middle = START + (frame.height // 2 // 1440) * DAY_S
    *_, (_, month) = months(frame)
    last = frame[-1:]
    bare_times = {"bulk write": seconds(lambda: bare.write(frame))} if bare else {}
    bulk = seconds(lambda: peer.write(frame))
    ours, theirs = [], []
    for number in range(APPENDS):
        bar = last.with_columns(ts=pl.lit(end + 60 * number, dtype=pl.Int64))
        ours.append(seconds(lambda bar=bar: peer.write(bar)))  # type: ignore[misc]
        if bare:
            theirs.append(seconds(lambda: bare.write(month)))
    if bare:
        bare_times["append of one bar"] = statistics.median(theirs)
    peer.settle()

    def day(number: int) -> None:
        start = middle - number * DAY_S
        assert peer.read(start, start + DAY_S).height == 1440

    times = {
        "bulk write": bulk,
        "append of one bar": statistics.median(ours),
        "read of 1,440 rows": median(day, DAYS),
        "read of all rows": median(lambda _: whole(peer, end), WHOLES),
    }
    return times, bare_times


def play(peers: dict[str, Callable[[Path], Peer]], frame: pl.DataFrame) -> dict[str, Times]:
    """Run every peer once, each in a folder that goes afterwards."""
    found: dict[str, Times] = {}
    bare: Times = {}
    for name, make in peers.items():
        gc.collect()
        with tempfile.TemporaryDirectory(prefix="qmtl-bench-") as folder:
            beside = Path(folder, "bare")
            beside.mkdir()
            peer = make(Path(folder))
            found[name], beside_times = measure(peer, frame, BarePeer(beside) if name == OURS else None)
            bare |= beside_times
            peer.close()
    return {**found, "bare files": bare}


def show(rounds: list[dict[str, Times]]) -> dict[str, dict[str, float]]:
    """Print the median milliseconds of every peer and kind of work, and return them."""
    kinds = list(rounds[0][OURS])
    table = {
        name: {
            kind: statistics.median(r[name][kind] for r in rounds) * 1000
            for kind in kinds
            if kind in rounds[0][name]
        }
        for name in rounds[0]
    }
    print(f"{'milliseconds, wall clock':<22}" + "".join(f"{kind:>22}" for kind in kinds))
    for name, times in table.items():
        cells = (f"{times[kind]:>22,.2f}" if kind in times else f"{'–':>22}" for kind in kinds)
        print(f"{name:<22}  " + "".join(cells))
    return table


def figures(rounds: list[dict[str, Times]], rows: int) -> list[Measured]:
    """Return ours beside each anchor that a target names."""
    count = {"bulk write": rows, "append of one bar": 1, "read of 1,440 rows": 1440, "read of all rows": rows}
    compared = [("bulk write", "bare files"), ("append of one bar", "bare files")]
    compared += [("read of 1,440 rows", "DuckDB table"), ("read of all rows", "DuckDB table")]
    found = []
    for kind, anchor in compared:
        ratios = [r[anchor][kind] / r[OURS][kind] for r in rounds]
        ours = statistics.median(count[kind] / r[OURS][kind] for r in rounds)
        theirs = statistics.median(count[kind] / r[anchor][kind] for r in rounds)
        middle = statistics.median(ratios)
        found.append(
            Measured(
                f"{kind}, embedded store",
                "rows",
                anchor,
                ours,
                theirs,
                middle,
                min(ratios),
                max(ratios),
                len(rounds),
                time="wall clock",
            )
        )
    return found


def main() -> None:
    """Print and record every figure."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    frame = candles(rows)
    with questdb_at_hand() as server:
        peers = dict(PEERS)
        if server is not None:
            peers["QuestDB server"] = partial(QuestDBPeer, server)
        rounds = [play(peers, frame) for _ in range(ROUNDS + 1)][1:]
    table = show(rounds)
    write(
        "history_stores", figures(rounds, rows), {"rows": rows, "series": KEY.node_id, "milliseconds": table}
    )


if __name__ == "__main__":
    main()
