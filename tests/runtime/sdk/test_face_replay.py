"""operations.md §8 item 8: strategy state after replay equals state before, for both faces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from qmtl.core import event as ev
from qmtl.core.instrument import list_instrument
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.loader import load_strategy
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.replay import replay
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.lowered import LOWERED, dump_lowered
from qmtl.runtime.sdk.strategy import make_strategy
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.trade_plan import TradePlan

FILE = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"
FACES = {
    "signals": "tests.runtime.sdk.strategies:BandBreak",
    "events": "qmtl.examples.strategies.grid:Grid",
}


@pytest.fixture
def bars(recorded_file: Callable[[str], Path], count: Callable[[int, int], int]) -> list[ev.BarClosed]:
    frame = pl.read_ipc(recorded_file(FILE)).head(count(4_000, 70_000))
    times = frame["date"].dt.epoch("ms").to_list()
    columns = [frame[name].to_list() for name in ("open", "high", "low", "close", "volume")]
    return [
        ev.BarClosed(open_ms + 59_999, "BTCUSDT", open_ms, *row)
        for open_ms, *row in zip(times, *columns, strict=True)
    ]


def begin(reference: str) -> tuple[Engine, MemoryJournal, Backtest]:
    source = load_source(reference)
    params = dump_lowered(source, make_strategy(source.cls), TradePlan())
    instrument = list_instrument("BTCUSDT", 1, 3)
    setup = ev.SessionSetup(strategy=LOWERED, params=params, instruments=(instrument,))
    journal = MemoryJournal()
    engine = Engine(load_strategy(setup), journal)
    terms = BacktestTerms()
    driver = Backtest(engine, terms.make_venue({"BTCUSDT": instrument}, terms.wallet))
    driver.start(ev.SessionStarted(0, "epoch", "dryrun", setup), ev.Transferred(0, "USDT", terms.wallet))
    return engine, journal, driver


@pytest.mark.soak
@pytest.mark.recorded
@pytest.mark.timeout(900)
@pytest.mark.parametrize("face", FACES)
def test_08_state_after_a_replay_is_the_state_before(face: str, bars: list[ev.BarClosed]) -> None:
    engine, journal, driver = begin(FACES[face])
    half = len(bars) // 2
    driver.run(bars[:half])
    snapshot, at = engine.snapshot(), len(journal.events)
    driver.run(bars[half:])
    assert sum(isinstance(event, ev.OrderFilled) for event in journal.events) > len(bars) // 400
    expected: Any = engine.strategy.dump_state()
    for begun in (None, (at, snapshot)):
        replayed = replay(journal.read(at if begun else 0), load_strategy, snapshot=begun)
        assert replayed is not None
        assert replayed.engine.state_hash() == engine.state_hash()
        assert replayed.engine.strategy.dump_state() == expected
