"""What a strategy foresees is a short cut, never another result: a list and events one by one are equal."""

from collections.abc import Callable
from decimal import Decimal as D
from typing import Any

import msgspec
import numpy as np
import pytest

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    FundingPaid,
    OrderFilled,
    SessionSetup,
    SessionStarted,
    TradingStateSet,
    Transferred,
)
from qmtl.core.interval import FUNDING_MS
from qmtl.core.limits import RiskLimits
from qmtl.core.reason import TradingState
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.strategy import StrategyPort
from qmtl.runtime.sdk import Param, Signals, Strategy, ta
from qmtl.runtime.sdk.backtest_run import closed_events
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.foreseen_face import ForeseenFace
from qmtl.runtime.sdk.funded_venue import FundedVenue
from qmtl.runtime.sdk.market_history import Funding
from qmtl.runtime.sdk.signal_reader import TableReader, check
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.trader.close_form import CloseForm, CloseFormParams
from tests.runtime.sdk.backtest_rig import instrument
from tests.runtime.sdk.strategies import BandBreak, walk

BARS = 3_000


class Slow(Strategy):
    """Long stretches without a signal, no stop, conflicts now and then."""

    def signals(self, bars: Bars) -> Signals:
        middle = ta.mean_std(bars.close, 200)[0]
        above, below = ta.crosses_above(bars.close, middle), ta.crosses_below(bars.close, middle)
        odd = bars.open_ms % 7 == 0
        return Signals(long=above, short=below | (above & odd), exit_long=below, exit_short=above)


class Stubborn(Strategy):
    """Enters once and never leaves by itself."""

    is_long = Param(False)

    def signals(self, bars: Bars) -> Signals:
        is_time = bars.open_ms // 60_000 % 600 == 400
        never = np.zeros(len(bars), np.bool_)
        return Signals(
            long=is_time & self.is_long,
            short=is_time & (not self.is_long),
            exit_long=never,
            exit_short=never,
        )


def signals_of(make: Callable[[], Strategy], **plan: Any) -> Callable[[Bars], StrategyPort]:
    def port(bars: Bars) -> StrategyPort:
        strategy = make()
        reader = TableReader(check(strategy, bars), bars, 21)
        return ForeseenFace(strategy, TradePlan(**plan), "BTCUSDT", reader)

    return port


def close_form(quantity: str = "1") -> Callable[[Bars], StrategyPort]:
    def port(bars: Bars) -> StrategyPort:
        strategy = CloseForm(CloseFormParams(quantity=D(quantity)))
        strategy.prepare([event for event in closed_events([bars]) if isinstance(event, BarClosed)])
        return strategy

    return port


class Run:
    """One run over `events`, given whole or one by one."""

    def __init__(
        self,
        port: StrategyPort,
        events: list[AnyEvent],
        terms: BacktestTerms,
        limits: RiskLimits,
        *,
        is_list: bool,
    ) -> None:
        self.journal = MemoryJournal("same")
        self.engine = Engine(port, self.journal)
        one = instrument()
        rates = {
            slot: Funding(slot * FUNDING_MS, 0.0001)
            for slot in range(events[0].ts_ms // FUNDING_MS, events[-1].ts_ms // FUNDING_MS + 1)
            if slot % 3
        }
        simulated = terms.make_venue({"BTCUSDT": one}, terms.wallet)
        self.venue = FundedVenue(simulated, {"BTCUSDT": rates})
        self.taken = 0
        driver = Backtest(self.engine, self.venue)
        setup = SessionSetup(strategy="a:B", instruments=(one,), limits=limits)
        driver.start(SessionStarted(0, "same", "backtest", setup), Transferred(0, "USDT", terms.wallet))
        passed = self.engine.pass_quiet

        def count(bars: Any) -> None:
            self.taken += len(bars)
            passed(bars)

        self.engine.pass_quiet = count  # type: ignore[method-assign]
        driver.run(events if is_list else iter(events))

    def count(self, kind: type[AnyEvent]) -> int:
        return sum(isinstance(event, kind) for event in self.journal.events)


def both(
    make: Callable[[Bars], StrategyPort],
    terms: BacktestTerms,
    *,
    limits: RiskLimits | None = None,
    seed: int = 3,
    mend: Callable[[list[AnyEvent]], list[AnyEvent]] = list,
    bars: Bars | None = None,
) -> Run:
    """Run both ways, compare everything, return the run that foresees."""
    bars = walk(BARS, seed=seed) if bars is None else bars
    events = mend(list(closed_events([bars])))
    quick, plain = (
        Run(make(bars), events, terms, limits or RiskLimits(), is_list=is_list) for is_list in (True, False)
    )
    assert plain.taken == 0
    assert quick.journal.events == plain.journal.events
    assert quick.engine.state_hash() == plain.engine.state_hash()
    shown = [getattr(run.engine.strategy, "lines", None) for run in (quick, plain)]
    assert shown[0] == shown[1]
    accounts = [run.venue.venue.core.account for run in (quick, plain)]
    assert msgspec.to_builtins(accounts[0]) == msgspec.to_builtins(accounts[1])
    assert quick.venue.missing == plain.venue.missing
    return quick


TERMS = {
    "usual": BacktestTerms(),
    "at the close": BacktestTerms(fill="close", slippage_ticks=0),
    "latency": BacktestTerms(latency_ms=90_000),
    "thin": BacktestTerms(liquidity="candle_share"),
    "cross": BacktestTerms(margin_mode="cross", leverage=5),
}
MAKERS = {
    "band break": signals_of(BandBreak),
    "slow": signals_of(Slow),
    "slow, sized": signals_of(Slow, volatility_target=D("0.3"), volatility_window=90),
    "close form": close_form("0.01"),
}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("make", MAKERS)
def test_a_list_gives_what_one_by_one_gives(make: str, terms: str) -> None:
    run = both(MAKERS[make], TERMS[terms])
    assert run.count(OrderFilled) > 20
    assert run.count(FundingPaid) > 0
    # Where liquidity is a share of each candle, every candle has to be looked at.
    assert (run.taken > BARS / 20) is (terms != "thin")


def wild(seed: int) -> Bars:
    """Moves that liquidate what is carried with leverage."""
    random = np.random.default_rng(seed)
    calm = walk(BARS, seed=seed)
    factor = np.exp(np.cumsum(random.normal(0, 4e-3, BARS)))
    columns = (np.round(column * factor, 1) for column in (calm.open, calm.high, calm.low, calm.close))
    opened, high, low, close = columns
    high = np.maximum.reduce([opened, high, low, close])
    low = np.minimum.reduce([opened, high, low, close])
    return Bars(calm.open_ms, opened, high, low, close, calm.volume, symbol="BTCUSDT", interval="1m")


@pytest.mark.parametrize(("seed", "is_long"), [(1, True), (2, True), (3, False), (5, False)])
def test_a_liquidation_comes_where_it_came(seed: int, is_long: bool) -> None:

    terms = BacktestTerms(leverage=20, wallet=D(100_000))
    run = both(signals_of(lambda: Stubborn(is_long=is_long), size_pct=D(1)), terms, bars=wild(seed))
    fills = [event for event in run.journal.events if isinstance(event, OrderFilled)]
    assert any(fill.client_order_id.startswith("autoclose-") for fill in fills)
    assert run.taken > BARS / 2


def late(events: list[AnyEvent]) -> list[AnyEvent]:
    return [
        msgspec.structs.replace(event, refilled=900 <= row < 930) if isinstance(event, BarClosed) else event
        for row, event in enumerate(events)
    ]


def halted(events: list[AnyEvent]) -> list[AnyEvent]:
    stop = TradingStateSet(events[999].ts_ms, TradingState.REDUCING, "test", "planned")
    go = TradingStateSet(events[1999].ts_ms, TradingState.ACTIVE, "test", "planned")
    return [*events[:1000], stop, *events[1000:2000], go, *events[2000:]]


@pytest.mark.parametrize("mend", [late, halted])
def test_what_is_no_plain_bar_is_processed_as_ever(mend: Callable[..., list[AnyEvent]]) -> None:
    run = both(MAKERS["slow"], BacktestTerms(), mend=mend)
    assert 0 < run.taken < BARS


def test_a_limit_on_losses_looks_at_every_bar() -> None:
    limits = RiskLimits(max_drawdown=D("0.0005"))
    run = both(MAKERS["slow"], BacktestTerms(), limits=limits)
    assert run.taken == 0
    assert run.engine.risk.state is TradingState.REDUCING


def test_another_history_is_refused_in_a_list_too() -> None:
    bars = walk(300)
    strategy = close_form()(bars)
    events = [event for event in closed_events([bars]) if isinstance(event, BarClosed)]
    moved = [msgspec.structs.replace(event, open_ms=event.open_ms + 60_000) for event in events]
    with pytest.raises(ValueError, match="is not row 0 of the history"):
        Run(strategy, list(moved), BacktestTerms(), RiskLimits(), is_list=True)
