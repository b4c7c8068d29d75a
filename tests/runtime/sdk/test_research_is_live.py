"""quickstart §2.1: what research computes once over a history, live decides bar by bar on the last bars."""

from collections.abc import Callable
from decimal import Decimal as D

import pytest

from qmtl.core.event import AnyEvent, DecisionMade, IntentRecorded, SessionSetup, SessionStarted, Transferred
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.strategy import StrategyPort
from qmtl.runtime.sdk import Param, Signals, Strategy, ta
from qmtl.runtime.sdk.backtest_run import closed_events
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.condition_set import ConditionSet
from qmtl.runtime.sdk.lowered import lower
from qmtl.runtime.sdk.signal_face import SignalFace
from qmtl.runtime.sdk.signal_reader import TableReader, check
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.runtime.sdk.warmup import measure_warmup
from tests.runtime.sdk.backtest_rig import instrument
from tests.runtime.sdk.strategies import BandBreak, walk

ROOM = "qmtl.examples.strategies"


class Rules(Strategy):
    """Every kernel at once, as a rule list."""

    span = Param(5)

    def signals(self, bars: Bars) -> Signals:
        index = ta.rsi(bars.close, self.span)
        low, high = ta.donchian(bars.high, bars.low, 30)
        calm = ta.atr(bars.high, bars.low, bars.close, self.span) < ta.std(bars.close, 40)
        return (
            ConditionSet()
            .long(bars.close > high, calm)
            .long(ta.crosses_above(index, 20.0), ta.rising(bars.volume, 2))
            .short(bars.close < low, ta.shift(calm, 3))
            .clear(ta.within(index > 60, 4))
        )


def donchian() -> Strategy:
    return load_source(f"{ROOM}.donchian_breakout:DonchianBreakout").cls(hours=3, exit_hours=1)


def rsi() -> Strategy:
    return load_source(f"{ROOM}.rsi_reversion:RsiReversion").cls(span=14, low=40, high=60)


def macd() -> Strategy:
    return load_source(f"{ROOM}.macd_cross:MacdCross").cls(fast=6, slow=13, smooth=5)


def trade(port: StrategyPort, bars: Bars) -> list[AnyEvent]:
    """What one port decided and sent."""
    journal = MemoryJournal("same")
    engine = Engine(port, journal)
    one = instrument()
    driver = Backtest(engine, BacktestTerms().make_venue({"BTCUSDT": one}, D(10_000)))
    setup = SessionSetup(strategy="a:B", instruments=(one,))
    driver.start(SessionStarted(0, "same", "backtest", setup), Transferred(0, "USDT", D(10_000)))
    driver.run(closed_events([bars]))
    return [event for event in journal.events if isinstance(event, DecisionMade | IntentRecorded)]


@pytest.mark.parametrize("make", [BandBreak, Rules, donchian, rsi, macd])
@pytest.mark.parametrize("plan", [TradePlan(), TradePlan(volatility_target=D("0.3"), volatility_window=90)])
def test_02_1_both_readings_decide_and_send_the_same(make: Callable[[], Strategy], plan: TradePlan) -> None:
    strategy, bars = make(), walk(1_500, seed=11)
    warmup = measure_warmup(strategy)
    table = TableReader(check(strategy, bars), bars, warmup)
    research = trade(SignalFace(strategy, plan, {"BTCUSDT": table}), bars)
    live = trade(lower(strategy, plan, warmup), bars)
    assert research == live
    assert sum(isinstance(event, IntentRecorded) for event in live) > 10
