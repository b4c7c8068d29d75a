"""The event tier: costs to the cent, holes, cuts, several symbols, and what a result adds up to."""

from decimal import Decimal as D
from typing import Any

import numpy as np
import pytest

from qmtl.core.bar import BarError
from qmtl.core.event import DecisionMade
from qmtl.runtime.sdk import Bars, Signals, Strategy
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.market_history import Funding, check_bars
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.runtime.sdk.warmup import measure_warmup
from tests.runtime.sdk.backtest_rig import (
    MINUTE,
    START,
    candles,
    events_of,
    fills_of,
    flat,
    reasons_of,
    run,
)
from tests.runtime.sdk.strategies import BandBreak, walk
from tests.runtime.sdk.test_signal_face import planned

SLOT = 8 * 3_600_000


def around_funding(count: int = 6) -> list[int]:
    """Minutes that begin three before the second funding time."""
    return list(range(477, 477 + count))


def test_06_fees_to_the_cent() -> None:
    """Commission = notional × rate (Binance, Trading Fees): 0.04 % taker in, 0.02 % maker out."""
    rows = [*flat(2, 60_000.0), [60_000.0, 60_700.0, 59_990.0, 60_500.0]]
    plan = TradePlan(quantity=D("0.1"))
    result = run(planned(target=0.01, long=[0]), candles(rows), plan=plan)
    # In: 0.1 × 60,000 × 0.0004 = 2.40; out: 0.1 × 60,600 × 0.0002 = 1.212; gross 60.
    assert result.trades[0].fee == D("2.40") + D("1.212")
    assert result.trades[0].pnl == D(60) - D("3.612")
    assert result.fees == pytest.approx(3.612)
    assert result.net == pytest.approx(56.388)
    assert result.gross == pytest.approx(60.0)


def test_06_funding_to_the_cent() -> None:
    """Funding amount = mark × quantity × rate, longs pay where it is positive (Binance, Funding Rates)."""
    rates = {START // SLOT + 1: Funding(START + SLOT, 0.0001, 60_100.0)}
    bars = candles(flat(6, 60_000.0), at=around_funding())
    plan = TradePlan(quantity=D("0.1"))
    long = run(planned(long=[477]), bars, plan=plan, funding=rates)
    assert long.open_trades[0].funding == D("-0.601")
    assert long.net == pytest.approx(-2.40 - 0.601)
    short = run(planned(short=[477]), bars, plan=plan, funding=rates)
    assert short.open_trades[0].funding == D("0.601")
    # Entered at 08:00 itself: the payment was due before.
    late = run(planned(long=[479]), bars, plan=plan, funding=rates)
    assert late.open_trades[0].funding == 0


def test_06_funding_without_a_mark_takes_the_open() -> None:
    rates = {START // SLOT + 1: Funding(START + SLOT, -0.0002)}
    bars = candles(flat(6, 60_000.0), at=around_funding())
    result = run(planned(long=[477]), bars, plan=TradePlan(quantity=D("0.1")), funding=rates)
    assert result.funding == pytest.approx(0.1 * 60_000 * 0.0002)


def test_04_a_missing_rate_counts_zero_and_is_a_hole() -> None:
    """trader.md §4: a missing rate counts 0 and is reported as a hole."""
    bars = candles(flat(6, 60_000.0), at=around_funding())
    result = run(planned(long=[477]), bars, plan=TradePlan(quantity=D("0.1")), funding={})
    assert result.funding == 0
    assert [(hole.start_ms, hole.reason) for hole in result.holes] == [
        (START + SLOT, "BTCUSDT: no funding rate")
    ]
    assert run(planned(), bars, funding={}).holes == []


def test_06_liquidation_to_the_cent() -> None:
    """Isolated, 10x: LP = (WB + cum − q·EP) / (q·(MMR − 1)) = (6,050 − 60,000) / (0.005 − 1) = 54,221.11.

    WB is the isolated margin; 50,000 to 600,000 of notional have MMR 0.5 % and cum 50 (Binance, How to
    Calculate Liquidation Price). The fill is at the tick below, the clearance fee 1.25 % of it, bounded by
    the margin that is left.
    """
    rows = [*flat(2, 60_000.0), [60_000.0, 60_000.0, 54_000.0, 55_000.0], *flat(1, 55_000.0)]
    terms = BacktestTerms(slippage_ticks=0, leverage=10)
    result = run(planned(long=[0]), candles(rows), terms=terms)
    trade = result.trades[0]
    assert trade.why_out == "liquidation"
    assert trade.exit == 54_221.1
    loss, entry_fee = D(60000) - D("54221.1"), D(24)
    clearance = min(D("54221.1") * D("0.0125"), D(6000) - loss)
    assert trade.fee == entry_fee + clearance
    assert trade.pnl == -loss - entry_fee - clearance
    assert result.net == pytest.approx(float(-D(6000) - entry_fee))


def test_06_a_short_is_liquidated_to_the_cent() -> None:
    """Isolated, 10x, short: LP = (WB + cum + q·EP) / (q·(MMR + 1)) = (6,050 + 60,000) / 1.005 = 65,721.39."""
    rows = [*flat(2, 60_000.0), [60_000.0, 66_000.0, 60_000.0, 65_000.0], *flat(1, 65_000.0)]
    terms = BacktestTerms(slippage_ticks=0, leverage=10)
    trade = run(planned(short=[0]), candles(rows), terms=terms).trades[0]
    assert (trade.why_out, trade.exit) == ("liquidation", 65_721.4)
    # What is left of the margin pays the clearance fee: the margin is gone, and no more.
    assert trade.pnl == -D(6000) - D(24)


def test_06_cross_margin_stands_on_the_whole_wallet() -> None:
    """Cross: WB is the wallet: (10,000 − 24 + 50 − 60,000) / (0.005 − 1) = 50,225.13."""
    rows = [*flat(2, 60_000.0), [60_000.0, 60_000.0, 54_000.0, 55_000.0], *flat(1, 50_000.0)]
    terms = BacktestTerms(slippage_ticks=0, leverage=10, margin_mode="cross")
    trade = run(planned(long=[0]), candles(rows), terms=terms).trades[0]
    assert (trade.why_out, trade.exit) == ("liquidation", 50_000.0)
    slow = [*flat(2, 60_000.0), [60_000.0, 60_000.0, 50_000.0, 50_000.0]]
    trade = run(planned(long=[0]), candles(slow), terms=terms).trades[0]
    assert trade.exit == 50_225.1


def test_profits_and_equity_add_up() -> None:
    result = run(BandBreak(), walk(3_000), warmup=21, terms=BacktestTerms(), plan=TradePlan())
    trades = [*result.trades, *result.open_trades]
    assert len(trades) > 50
    assert float(sum(trade.pnl for trade in trades)) == pytest.approx(result.net, abs=1e-6)
    assert float(sum(trade.fee for trade in trades)) == pytest.approx(result.fees, abs=1e-6)
    assert result.gross - result.fees + result.funding == pytest.approx(result.net)
    assert len(result.curve.equity) == 3_000
    assert sum(result.counts["reasons"].values()) == 3_000
    figures = result.figures()
    assert figures["trades"] == len(result.trades)
    assert figures["sharpe_low"] <= figures["sharpe"] <= figures["sharpe_high"]
    assert result.plots.keys() == {"upper", "lower"}
    again = run(BandBreak(), walk(3_000), warmup=21, terms=BacktestTerms(), plan=TradePlan())
    assert again.trades_hash() == result.trades_hash()


def test_latency_moves_a_fill_to_a_later_price() -> None:
    rows = [*flat(1), [100.0, 110.0, 100.0, 110.0], *flat(2, 110.0)]
    terms = BacktestTerms(slippage_ticks=0, latency_ms=40_000)
    result = run(planned(long=[0]), candles(rows), terms=terms)
    assert fills_of(result)[0][2] == "110.0"


def test_a_trade_over_a_hole_is_flagged() -> None:
    bars = candles(flat(6), at=[0, 1, 2, 7, 8, 9])
    result = run(planned(long=[0], exit_long=[8]), bars)
    assert [trade.over_hole for trade in result.trades] == [True]
    assert [(h.start_ms, h.end_ms) for h in result.holes] == [(START + 3 * MINUTE, START + 7 * MINUTE)]
    assert result.trades_over_holes == result.trades
    assert run(planned(long=[7]), bars).trades_over_holes == []


def test_05_a_cut_is_never_joined_across() -> None:
    """trader.md §5: --exclude leaves flat before, warms up anew after."""
    rows = [[100.0 + n] * 4 for n in range(10)]
    cut = (START + 4 * MINUTE, START + 6 * MINUTE)
    result = run(planned(long=[1, 3, 6, 7]), candles(rows), excluded=[cut], warmup=2)
    # Held at the end of minute 3: closed at its close. Minute 6 warms up, minute 7 enters.
    assert fills_of(result) == [(2, "BUY", "102.0"), (3, "SELL", "103.0"), (8, "BUY", "108.0")]
    assert reasons_of(result)[4:] == ["warming_up", "entered", "holding", "holding"]
    assert len(result.curve.equity) == 8
    assert result.trades[0].why_out == "excluded"
    assert result.holes == []


class Pair(Strategy):
    """Buys what fell behind the other at the close of the same minute."""

    symbols = ("BTC/USDT", "ETH/USDT")

    def signals(self, bars: Bars) -> Signals:
        other = bars.of("ETH/USDT" if bars.symbol == "BTCUSDT" else "BTC/USDT")
        return Signals(long=bars.close < other.close, exit_long=bars.close > other.close)


def test_02_6_several_symbols_decide_on_the_same_minute() -> None:
    first = candles([[100.0] * 4, [101.0] * 4, [102.0] * 4, [90.0] * 4, [90.0] * 4])
    second = candles([[100.0] * 4, [100.0] * 4, [103.0] * 4, [99.0] * 4, [99.0] * 4], symbol="ETHUSDT")
    result = run(Pair(), first, second)
    fills = [(trade.symbol, (trade.entry_ts - START) // MINUTE, trade.exit_ts) for trade in result.trades]
    # ETH behind at minute 1: bought at 2, left at 3 after minute 2; BTC behind at minute 2: bought at 3.
    assert fills == [("ETHUSDT", 2, START + 3 * MINUTE)]
    assert [(t.symbol, t.entry) for t in result.open_trades] == [("BTCUSDT", 90.0)]
    # Held at the closes of minutes 2 (ETH), 3 and 4 (BTC).
    assert result.figures()["exposure"] == 3 / 5
    decisions = [
        (e.symbol, (e.open_ms - START) // MINUTE, str(e.reason))
        for e in events_of(result)
        if isinstance(e, DecisionMade)
    ]
    assert len(decisions) == 10
    assert ("ETHUSDT", 1, "entered") in decisions
    assert ("BTCUSDT", 1, "no_signal") in decisions
    assert ("BTCUSDT", 2, "entered") in decisions
    assert ("ETHUSDT", 2, "exited") in decisions
    assert result.net == pytest.approx(float(sum(t.pnl for t in (*result.trades, *result.open_trades))))
    # ETH at the close of minute 2, BTC at those of 3 and 4: a position in any symbol is one.
    assert result.figures()["exposure"] == 3 / 5


def test_a_symbol_without_its_bar_does_not_hold_the_others_up() -> None:
    first = candles([[100.0] * 4, [99.0] * 4, [99.0] * 4, [99.0] * 4])
    second = candles([[100.0] * 4, [100.0] * 4, [100.0] * 4], symbol="ETHUSDT", at=[0, 2, 3])
    result = run(Pair(), first, second)
    # Minute 1 has no ETH bar: BTC is compared with the last one, at the time the wait is over.
    assert [(t.symbol, (t.entry_ts - START) // MINUTE) for t in result.open_trades] == [("BTCUSDT", 2)]


def test_warmup_is_measured_from_both_faces_of_a_signal() -> None:
    assert [measure_warmup(BandBreak(window=window)) for window in (10, 20, 60)] == [11, 21, 61]

    class Hourly(Strategy):
        def signals(self, bars: Bars) -> Signals:
            hourly = bars.at("1h")
            return Signals(long=bars.close > hourly.align(hourly.close))

    # The hour before, and up to 59 minutes of the present one.
    assert measure_warmup(Hourly()) == 119

    class Endless(Strategy):
        def signals(self, bars: Bars) -> Signals:
            mean: Any = np.cumsum(bars.close) / np.arange(1, len(bars) + 1)
            return Signals(long=bars.close > mean, plot={"mean": mean})

    with pytest.raises(ValueError, match="signals depend on bars to come, or on more than 65,536 past"):
        measure_warmup(Endless())


def test_weeks_open_on_monday_as_exchanges_have_them() -> None:
    monday = 1_704_067_200_000 + np.arange(4) * 7 * 86_400_000
    for opens, is_taken in ((monday, True), (monday + 3 * 86_400_000, False)):
        bars = Bars(opens, *(np.ones(4) for _ in range(5)), symbol="BTCUSDT", interval="1w")
        if is_taken:
            assert check_bars(bars, "weeks.csv") is bars
        else:
            with pytest.raises(BarError, match=r"weeks\.csv: row 0: its time is not on the 1w grid"):
                check_bars(bars, "weeks.csv")


class Counts(Strategy):
    """Buys at its third bar, by a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_bar(self, ctx: Any, bar: Any) -> None:
        self.seen.append(bar.close)
        if len(self.seen) == 3:
            ctx.buy(1.0)


class Holds(Counts):
    """What it holds cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.session = (number for number in range(3))


class CountsTicks(Counts):
    def on_tick(self, ctx: Any, tick: Any) -> None:
        """Be run along both paths."""


def test_what_a_run_leaves_in_a_strategy_reaches_no_other_stretch_or_path() -> None:
    bars = candles(flat(12))
    cut = [(START + 5 * MINUTE, START + 6 * MINUTE)]
    for strategy in (Counts(), Holds()):
        result = run(strategy, bars, excluded=cut)
        assert [trade.entry_ts for trade in result.trades] == [START + 3 * MINUTE]
        assert [trade.entry_ts for trade in result.open_trades] == [START + 9 * MINUTE]
    worse = run(CountsTicks(), bars)
    assert worse.other_bound is not None
    assert len(worse.open_trades) == len(worse.other_bound.open_trades) == 1


def test_candles_of_all_trades_are_those_with_a_position() -> None:
    result = run(planned(long=[0, 5], exit_long=[2]), candles(flat(9)))
    assert [trade.bars for trade in (*result.trades, *result.open_trades)] == [2, 3]
    assert result.figures()["exposure"] == 5 / 9
    # What is cut off at the end is no part of the trade that is open before it.
    cut = run(planned(long=[0]), candles(flat(9)), excluded=[(START + 4 * MINUTE, START + 9 * MINUTE)])
    assert [trade.bars for trade in cut.open_trades] == [3]
