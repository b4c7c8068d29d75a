"""trader.md §7 item 7: backtest, dry run and live against the paper exchange decide the same."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from qmtl.core.event import IntentRecorded
from qmtl.engine.loader import load_strategy
from qmtl.engine.replay import replay
from tests.simulation.parity import (
    LockStep,
    MakeSetup,
    decisions_of,
    lowered,
    make_setup,
    run_backtest,
    run_dryrun,
)

FACES: dict[str, Callable[[], MakeSetup]] = {
    "trader": lambda: make_setup,
    "signals": lambda: lowered("tests.runtime.sdk.strategies:BandBreak"),
    "events": lambda: lowered("qmtl.examples.strategies.grid:Grid"),
}
CANDLES = 2_000 if os.environ.get("QMTL_CAMPAIGN") == "chaos" else 240


@pytest.fixture
def candles(recorded_file: Callable[[str], Path], tmp_path: Path) -> Path:
    frame = pl.read_ipc(recorded_file("candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"))
    path = tmp_path / "candles.feather"
    frame.slice(600, CANDLES + 50).write_ipc(path)
    return path


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("face", FACES)
async def test_07_three_ways_decide_the_same(candles: Path, face: str) -> None:
    first_ms = int(pl.read_ipc(candles)["date"].dt.epoch("ms")[0])
    room = LockStep(candles, first_ms - 1, FACES[face]())
    await room.open()
    try:
        await room.run(CANDLES * 4)
        live_hash = room.engine.state_hash()
        live = decisions_of(room.journal)
        replayed = replay(room.journal.read(), load_strategy)
    finally:
        await room.close()
    assert replayed is not None
    assert replayed.engine.state_hash() == live_hash

    intents = [event for event in room.journal.events if isinstance(event, IntentRecorded)]
    assert len(intents) >= CANDLES // 60, "too quiet to prove anything"
    assert len([row for row in live if row[0] == "bar"]) == CANDLES
    tested, journal = run_backtest(room.market(), room.setup)
    assert decisions_of(journal) == live
    assert tested.account.wallet == room.engine.account.wallet
    dry, journal = await asyncio.wait_for(run_dryrun(room.market(), room.setup), 300)
    assert decisions_of(journal) == live
    assert dry.account.wallet == room.engine.account.wallet
