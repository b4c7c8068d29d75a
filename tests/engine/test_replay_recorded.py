"""Strategies over 70k recorded candles: what a replay rebuilds is what was there."""

from collections.abc import Callable
from decimal import Decimal as D
from pathlib import Path

import polars as pl
import pytest

from qmtl.core import event as ev
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.matching import MatchingCore
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.replay import replay
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.strategy import StrategyPort
from qmtl.trader.callback import Callback
from tests.engine.rig import MINUTE, instrument
from tests.engine.test_replay import Swinger

FILE = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"
BARS = 70_000


@pytest.fixture(scope="module")
def bars(recorded_file: Callable[[str], Path]) -> list[ev.AnyEvent]:
    frame = pl.read_ipc(recorded_file(FILE)).head(BARS)
    times = frame["date"].dt.epoch("ms").to_list()
    columns = [frame[name].to_list() for name in ("open", "high", "low", "close", "volume")]
    return [
        ev.BarClosed(open_ms + MINUTE - 1, "BTCUSDT", open_ms, *row)
        for open_ms, *row in zip(times, *columns, strict=True)
    ]


@pytest.mark.recorded
@pytest.mark.parametrize("make", [Callback, lambda: Swinger({})], ids=["bands", "swinger"])
def test_state_after_a_replay_is_the_state_before(
    make: Callable[[], StrategyPort], bars: list[ev.AnyEvent]
) -> None:
    journal = MemoryJournal()
    engine = Engine(make(), journal)
    driver = Backtest(engine, SimulatedVenue(MatchingCore({"BTCUSDT": instrument()}), fill="close"))
    setup = ev.SessionSetup(strategy="s", instruments=(instrument(),), catastrophe_stop=D("0.02"))
    driver.start(ev.SessionStarted(0, "epoch", "dryrun", setup), ev.Transferred(0, "USDT", D(10_000)))
    driver.run(bars)
    replayed = replay(journal.read(), lambda _: make())
    assert replayed is not None
    assert replayed.engine.state_hash() == engine.state_hash()
    assert replayed.engine.strategy.dump_state() == engine.strategy.dump_state()
    assert engine.state.bars == BARS
    fills = sum(isinstance(event, ev.OrderFilled) for event in journal.events)
    assert fills > 100
    assert sum(isinstance(event, ev.DecisionMade) for event in journal.events) == BARS
