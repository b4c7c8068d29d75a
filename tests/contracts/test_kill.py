"""A backfilling worker is killed anywhere: coverage claims no unstored cell, and the end is the same."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from qmtl.core.ranges import measure_ranges
from qmtl.runtime.sdk.history import HistoryStore
from tests.contracts import backfill_child as work
from tests.contracts.history_rows import MINUTES, TRADES, spans
from tests.contracts.store_places import StorePlace

ROOT = Path(__file__).parents[2]
LINES = 16_000
"""A whole backfill of an embedded store executes more lines than that."""
LONGEST_S = 0.6


def live(place: StorePlace, dice: random.Random, *, is_killed: bool) -> int:
    """Run a worker until it is done or killed; return its exit code."""
    by_line = is_killed and dice.random() < 0.6
    kill_at = dice.randint(1, LINES) if by_line else 0
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.contracts.backfill_child", place.name, place.address, str(kill_at)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if is_killed and not by_line:
            time.sleep(dice.uniform(0, LONGEST_S))
            child.send_signal(signal.SIGKILL)
        return child.wait(300)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]  # opened as a pipe


async def check(store: HistoryStore) -> int:
    """Compare what is covered with what is stored; return how many seconds of bars are covered."""
    rows = await store.read(MINUTES, 0, 2**33)
    reference = work.available(work.START, work.END)
    assert rows.join(reference, on=rows.columns, how="anti").is_empty(), "rows that nobody wrote"
    coverage = await store.coverage(MINUTES)
    for start, end, kind in coverage:
        expected = reference.filter(pl.col("ts").is_between(start, end, closed="left"))
        found = rows.filter(pl.col("ts").is_between(start, end, closed="left"))
        assert found.equals(expected), f"coverage claims {kind} of [{start}, {end})"
        assert expected.is_empty() == kind.startswith("empty")
    traded = await store.read(TRADES, 0, 2**33)
    for start, end, _ in await store.coverage(TRADES):
        found = traded.filter(pl.col("ts").is_between(start, end, closed="left"))
        assert found.equals(work.traded(start, end))
    return measure_ranges((start, end) for start, end, _ in coverage)


@pytest.mark.chaos
@pytest.mark.timeout(3_600)
async def test_26_kill_a_backfill_anywhere(place: StorePlace, count: Callable[[int, int], int]) -> None:
    dice = random.Random(26)
    kills, lives, covered = 0, 0, 0
    while kills < count(8, 200):
        code = await asyncio.to_thread(live, place, dice, is_killed=True)
        assert code in {0, -signal.SIGKILL}, code
        lives += 1
        kills += code != 0
        store = place.open()
        now_covered = await check(store)
        assert now_covered >= covered, "coverage was lost"
        covered = now_covered
        await store.aclose()
        assert await place.faults(is_finished=False) == []
        if covered == work.END - work.START:
            await check_end(place)
            place.renew()
            covered = 0
    await check_end(place)
    print(f"{kills} kills in {lives} lives")


async def check_end(place: StorePlace) -> None:
    """Let a worker finish and compare the store with one that nobody was killed at."""
    assert await asyncio.to_thread(live, place, random.Random(0), is_killed=False) == 0
    store = place.open()
    assert (await store.read(MINUTES, 0, 2**33)).equals(work.available(work.START, work.END))
    assert (await store.read(TRADES, 0, 2**33)).equals(work.traded(*work.TRADED))
    before, after = work.HOLE
    assert await store.coverage(MINUTES) == spans(
        (work.START, before, "rows"), (before, after, "empty"), (after, work.END, "rows")
    )
    assert await store.coverage(TRADES) == spans((*work.TRADED, "rows"))
    await store.aclose()
    assert await place.faults(is_finished=True) == []
