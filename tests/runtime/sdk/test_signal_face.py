"""quickstart §2.2: where signals fill, stop and target, reversal, conflict; every figure by hand."""

from decimal import Decimal as D
from typing import Any

import numpy as np
import pytest

from qmtl.core.event import DecisionMade
from qmtl.core.order import OrderType, Role
from qmtl.runtime.sdk import Bars, Param, Signals, Strategy
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.trade_plan import TradePlan
from tests.runtime.sdk.backtest_rig import (
    START,
    candles,
    events_of,
    fills_of,
    flat,
    intents_of,
    reasons_of,
    run,
)


class Planned(Strategy):
    """Signals at the minutes it is told."""

    stop = Param(0.0, role="stop")
    target = Param(0.0, role="target")

    def __init__(self) -> None:
        super().__init__()
        self.plan: dict[str, list[int]] = {}

    def signals(self, bars: Bars) -> Signals:
        minutes = (bars.open_ms - START) // 60_000
        columns: dict[str, Any] = {name: np.isin(minutes, at) for name, at in self.plan.items()}
        return Signals(**columns, plot={"line": np.full(len(bars), 101.0)})


def planned(stop: float = 0.0, target: float = 0.0, **plan: list[int]) -> Planned:
    strategy = Planned()
    strategy.stop, strategy.target = stop, target
    strategy.plan = plan
    return strategy


def test_02_2_a_signal_fills_at_the_next_open_plus_slippage() -> None:
    rows = [*flat(1), [102.0, 103.0, 101.0, 102.5], *flat(1, 104.0), *flat(1, 105.0)]
    strategy = planned(long=[0], exit_long=[2])
    result = run(strategy, candles(rows), terms=BacktestTerms(slippage_ticks=2))
    assert fills_of(result) == [(1, "BUY", "102.2"), (3, "SELL", "104.8")]
    at_close = run(strategy, candles(rows), terms=BacktestTerms(slippage_ticks=0, fill="close"))
    assert fills_of(at_close) == [(0, "BUY", "100.0"), (2, "SELL", "104.0")]
    assert reasons_of(result) == ["entered", "holding", "exited", "no_signal"]


def test_02_2_stop_and_target_rest_reduce_only_from_the_entry_fill() -> None:
    rows = [*flat(2), [100.0, 100.5, 98.9, 99.5], *flat(1)]
    result = run(planned(stop=0.01, target=0.02, long=[0]), candles(rows))
    stop, target = intents_of(result)[1:]
    assert (stop.intent.role, stop.intent.type, stop.intent.stop_price) == (
        Role.STOP, OrderType.STOP_MARKET, D("99.0"),
    )  # fmt: skip
    assert (target.intent.role, target.intent.type, target.intent.limit_price) == (
        Role.TARGET, OrderType.LIMIT, D("102.0"),
    )  # fmt: skip
    assert stop.intent.reduce_only
    assert target.intent.reduce_only
    assert fills_of(result) == [(1, "BUY", "100.0"), (2, "SELL", "99.0")]
    assert reasons_of(result) == ["entered", "holding", "exited", "no_signal"]
    assert result.trades[0].why_out == "stop"
    # 1 × (99 − 100) − 0.04 % of 100 − 0.04 % of 99
    assert result.trades[0].pnl == D(-1) - D("0.04") - D("0.0396")


def test_02_2_a_target_fills_at_its_price_as_maker() -> None:
    rows = [*flat(2), [100.0, 103.0, 99.5, 101.0], *flat(1)]
    result = run(planned(stop=0.01, target=0.02, long=[0]), candles(rows))
    assert fills_of(result)[1] == (2, "SELL", "102.0")
    assert result.trades[0].fee == D("0.04") + D(102) * D("0.0002")
    assert result.trades[0].why_out == "target"


@pytest.mark.parametrize(
    ("bar", "price", "why"),
    [
        ([97, 98, 96, 97], "97.0", "stop"),  # opens beyond the stop
        ([104, 105, 103, 104], "104.0", "target"),  # opens beyond the target
        ([100, 103, 98, 101], "99.0", "stop"),  # holds both: the stop first
    ],
)
def test_02_2_gaps_fill_at_the_open_and_the_stop_comes_first(bar: list[float], price: str, why: str) -> None:
    rows = [*flat(2), [*bar], *flat(1)]
    result = run(planned(stop=0.01, target=0.02, long=[0]), candles(rows))
    assert fills_of(result)[1] == (2, "SELL", price)
    assert result.trades[0].why_out == why


def test_02_2_a_short_is_the_mirror() -> None:
    rows = [*flat(2), [100.0, 103.0, 98.0, 101.0], *flat(1)]
    result = run(planned(stop=0.01, target=0.02, short=[0]), candles(rows))
    assert fills_of(result) == [(1, "SELL", "100.0"), (2, "BUY", "101.0")]


def test_stop_and_target_can_be_met_in_the_bar_of_the_entry() -> None:
    rows = [*flat(1), [100.0, 100.0, 98.0, 99.5], *flat(1)]
    result = run(planned(stop=0.01, long=[0]), candles(rows))
    assert fills_of(result) == [(1, "BUY", "100.0"), (1, "SELL", "99.0")]


def test_02_2_an_entry_in_a_position_waits_for_its_exit_and_then_reverses() -> None:
    strategy = planned(stop=0.1, target=0.1, long=[0, 1], short=[2, 3], exit_long=[3])
    result = run(strategy, candles(flat(6)))
    assert fills_of(result) == [(1, "BUY", "100.0"), (4, "SELL", "100.0"), (4, "SELL", "100.0")]
    assert reasons_of(result) == ["entered", "holding", "holding", "exited", "entered", "holding"]
    assert [trade.side for trade in (*result.trades, *result.open_trades)] == ["long", "short"]
    working = [one.intent for one in intents_of(result) if one.intent.role in {Role.STOP, Role.TARGET}]
    assert [(str(i.role), str(i.stop_price or i.limit_price)) for i in working[2:]] == [
        ("stop", "110.0"), ("target", "90.0"),
    ]  # fmt: skip


def test_an_entry_of_the_same_side_does_not_outlive_its_exit() -> None:
    result = run(planned(long=[0, 2], exit_long=[2]), candles(flat(5)))
    assert fills_of(result) == [(1, "BUY", "100.0"), (3, "SELL", "100.0")]


def test_02_2_long_and_short_on_one_bar_are_neither() -> None:
    result = run(planned(long=[0, 2], short=[0]), candles(flat(4)))
    assert reasons_of(result) == ["refused:conflict", "no_signal", "entered", "holding"]


def test_02_9_every_bar_has_one_reason_with_numbers_and_distance() -> None:
    result = run(planned(long=[3]), candles(flat(6)), warmup=3)
    assert reasons_of(result) == ["warming_up", "warming_up", "no_signal", "entered", "holding", "holding"]
    decisions = [event for event in events_of(result) if isinstance(event, DecisionMade)]
    assert decisions[0].numbers is None
    assert decisions[2].numbers == {"close": 100.0, "line": 101.0, "distance": 0.01}


def test_an_entry_below_the_minimum_is_refused_with_its_reason() -> None:
    plan = TradePlan(notional=D(3))
    assert reasons_of(run(planned(long=[0]), candles(flat(3)), plan=plan))[0] == "refused:below_minimum"
    result = run(planned(long=[0]), candles(flat(3)), plan=TradePlan(quantity=D(110)))
    assert result.counts["rejected"] == {"-2019 Margin is insufficient.": 1}


@pytest.mark.parametrize(
    ("plan", "quantity"),
    [
        (TradePlan(quantity=D("1.2345")), "1.234"),
        (TradePlan(notional=D(250)), "2.500"),
        (TradePlan(size_pct=D("0.05")), "5.000"),
        (TradePlan(), "10.000"),
    ],
)
def test_05_sizes(plan: TradePlan, quantity: str) -> None:
    result = run(planned(long=[0]), candles(flat(3)), plan=plan)
    assert intents_of(result)[0].intent.quantity == D(quantity)


def test_05_a_volatility_target_sizes_by_the_last_closes() -> None:
    closes = [100.0, 101.0, 100.0, 101.0, 100.0]
    rows = [[close] * 4 for close in [*closes, 100.0]]
    plan = TradePlan(volatility_target=D("0.5"), volatility_window=4)
    result = run(planned(long=[4]), candles(rows), plan=plan)
    yearly = np.log(1.01) * np.sqrt(365 * 24 * 60)
    assert float(intents_of(result)[0].intent.quantity) == np.floor(10_000 * 0.5 / yearly / 100 * 1000) / 1000


def test_limited_liquidity_protects_what_was_filled() -> None:
    rows = [*flat(6)]
    strategy = planned(stop=0.05, long=[0])
    terms = BacktestTerms(slippage_ticks=0, liquidity="candle_share")
    result = run(strategy, candles(rows), terms=terms, plan=TradePlan(quantity=D(2)))
    stops = [one.intent.quantity for one in intents_of(result) if one.intent.role is Role.STOP]
    assert stops[0] == D("0.25")
    assert stops[-1] == D(2)
    assert len(fills_of(result)) == 8


def test_02_3_on_ticks_a_stop_between_two_updates_fills_at_its_own_price() -> None:
    class Ticks(Planned):
        decide_on = "tick"

    strategy = Ticks()
    strategy.stop, strategy.plan = 0.01, {"long": [1]}
    result = run(strategy, candles([*flat(2), [100.0, 100.5, 98.0, 99.5], *flat(1)]))
    # Entered at the first price of minute 1, inside the bar; the stop is met on the way to 98.
    assert fills_of(result) == [(1, "BUY", "100.0"), (2, "SELL", "99.0")]
    assert result.other_bound is not None


def test_a_reversal_whose_exit_took_longer_than_a_bar_is_off() -> None:
    strategy = planned(long=[0], short=[4], exit_long=[4])
    quick = run(strategy, candles(flat(10)))
    assert [side for _, side, _ in fills_of(quick)] == ["BUY", "SELL", "SELL"]
    slow = run(strategy, candles(flat(10)), terms=BacktestTerms(slippage_ticks=0, latency_ms=90_000))
    assert [side for _, side, _ in fills_of(slow)] == ["BUY", "SELL"]
    assert reasons_of(slow)[-1] == "no_signal"
