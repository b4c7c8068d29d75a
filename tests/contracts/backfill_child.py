"""A worker that backfills a store and is killed while it does: `python -m … PLACE ADDRESS KILL_AT`.

The process sends itself SIGKILL at the KILL_AT-th line that the store's own modules execute, in whichever
thread; 0 lets it finish. It prints `ready` before it begins and `done` at the end.
"""

import asyncio
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import polars as pl

from qmtl.core.ranges import Range, clip_ranges, merge_ranges, subtract_ranges
from qmtl.runtime.sdk.history import HistoryStore, SeriesKey
from tests.contracts.history_rows import MINUTES, MONTH_END, TRADES, minutes, trades
from tests.contracts.store_places import open_at

START, END = MONTH_END - 3 * 86_400, MONTH_END + 2 * 86_400
HOLE: Range = (MONTH_END - 9_000, MONTH_END + 9_000)
"""Cells in which the exchange has nothing, across the end of a month."""
WINDOW_S = 200 * 60
YOUNG_FROM = END - WINDOW_S
TRADED: Range = (MONTH_END - 7_200, MONTH_END + 7_200)


def available(start: int, end: int) -> pl.DataFrame:
    """Return the bars that the exchange has of [start, end)."""
    every = minutes(start, (end - start) // 60)
    return every.filter((pl.col("ts") < HOLE[0]) | (pl.col("ts") >= HOLE[1]))


def traded(start: int, end: int) -> pl.DataFrame:
    """Return the trades that the exchange has of [start, end): every third second two of one millisecond."""
    rows = [(ts * 1000 + 7, f"{ts}-{k}", float(k)) for ts in range(start, end, 3) for k in (0, 1)]
    return trades(rows)


async def backfill(store: HistoryStore) -> None:
    """Fetch window by window what is not covered, then the young end once more."""
    for start in await missing(store, MINUTES, (START, END), WINDOW_S):
        end = min(start + WINDOW_S, END)
        rows = available(start, end)
        holes = clip_ranges([HOLE], start, end)
        full = subtract_ranges([(start, end)], holes)
        young = start >= YOUNG_FROM
        await store.write(MINUTES, rows, covered=full, provisional=young, fence=1)
        await store.mark_empty(MINUTES, holes, permanent=True)
    await store.write(MINUTES, available(YOUNG_FROM, END), covered=[(YOUNG_FROM, END)], fence=1)
    for start in await missing(store, TRADES, TRADED, 1_800):
        await store.write(TRADES, traded(start, start + 1_800), covered=[(start, start + 1_800)])


async def missing(store: HistoryStore, key: SeriesKey, whole: Range, step: int) -> list[int]:
    """Return the starts of windows of which something is not covered."""
    covered = merge_ranges((span.start, span.end) for span in await store.coverage(key))
    holes = subtract_ranges([whole], covered)
    return [at for at in range(whole[0], whole[1], step) if clip_ranges(holes, at, min(at + step, whole[1]))]


class Executioner:
    """Counts lines of the store's modules and ends the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "/qmtl/runtime/io/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace


async def main(place: str, address: str, kill_at: int) -> None:
    store = open_at(place, address)
    print("ready", flush=True)
    if kill_at:
        executioner = Executioner(kill_at)
        threading.settrace(executioner.trace)
        sys.settrace(executioner.trace)
    await backfill(store)
    await store.aclose()
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
