"""quickstart §2.5: the event face; floats outside, steps inside, refusals as events."""

from decimal import Decimal as D
from typing import Any

import pytest

from qmtl.core.event import DecisionMade, IntentRefused
from qmtl.core.order import OrderType, Role, TimeInForce
from qmtl.runtime.sdk import Bars, Param, Strategy, StrategyError
from tests.runtime.sdk.backtest_rig import (
    MINUTE,
    START,
    candles,
    events_of,
    fills_of,
    flat,
    intents_of,
    reasons_of,
    run,
)


class Grid(Strategy):
    interval, step = "1m", Param(0.002)

    def on_bar(self, ctx: Any, bar: Any) -> None:
        if not ctx.orders:
            ctx.buy(notional=100, limit=bar.close * (1 - self.step), post_only=True)

    def on_fill(self, ctx: Any, fill: Any) -> None:
        if fill.side == "BUY":
            ctx.sell(fill.quantity, limit=fill.price * (1 + self.step), reduce_only=True)


class Script(Strategy):
    """Does at each minute what it is told, and writes down what it is called with."""

    lookback = 3

    def __init__(self) -> None:
        super().__init__()
        self.acts: dict[int, Any] = {}
        self.log: list[Any] = []

    def on_bar(self, ctx: Any, bar: Any) -> None:
        act = self.acts.get((bar.open_ms - START) // MINUTE)
        if act is not None:
            self.log.append(act(ctx))

    def on_order(self, ctx: Any, order: Any) -> None:
        self.log.append((order.status, order.reason))


def script(**acts: Any) -> Script:
    made = Script()
    made.acts = {int(name[1:]): act for name, act in acts.items()}
    return made


def test_02_the_grid_of_the_page_trades() -> None:
    rows = [*flat(1), [100, 100, 99.7, 99.9], *flat(1)]
    result = run(Grid(), candles(rows))
    assert fills_of(result) == [(1, "BUY", "99.8"), (1, "SELL", "100.0")]
    first, second = intents_of(result)[:2]
    assert (first.intent.quantity, first.intent.time_in_force) == (D("1.002"), TimeInForce.GTX)
    assert (second.intent.reduce_only, second.intent.role) == (True, Role.TARGET)
    assert second.intent.quantity == D("1.002")


def test_02_5_prices_and_quantities_go_to_the_steps() -> None:
    def act(ctx: Any) -> None:
        ctx.buy(0.1 + 0.2, limit=99.99999)
        ctx.sell(0.5, limit=100.01)
        ctx.buy(1.0009, stop=101.01)

    intents = [one.intent for one in intents_of(run(script(_0=act), candles(flat(2))))]
    assert [(i.quantity, i.limit_price, i.stop_price, i.type) for i in intents] == [
        (D("0.300"), D("99.9"), None, OrderType.LIMIT),
        (D("0.500"), D("100.1"), None, OrderType.LIMIT),
        (D("1.000"), None, D("101.1"), OrderType.STOP_MARKET),
    ]


def test_02_5_below_the_minimum_is_an_event_with_a_reason() -> None:
    strategy = script(_0=lambda ctx: ctx.buy(0.0004))
    result = run(strategy, candles(flat(2)))
    assert strategy.log == [None]
    refused = [event for event in events_of(result) if isinstance(event, IntentRefused)]
    assert [one.code for one in refused] == ["below_minimum"]
    assert reasons_of(result)[0] == "refused:below_minimum"


def test_02_5_the_context_tells_and_does() -> None:
    def look(ctx: Any) -> Any:
        bars: Bars = ctx.bars(3)
        return ctx.position, round(ctx.equity, 4), ctx.now, bars.close.tolist(), ctx.entry_price(), ctx.state

    strategy = script(
        _0=lambda ctx: ctx.state.update(seen=1) or ctx.buy(1.0, why="because"),
        _2=look,
        _3=lambda ctx: ctx.close(why="enough"),
    )
    rows = [[100.0 + n] * 4 for n in range(5)]
    result = run(strategy, candles(rows))
    found = next(one for one in strategy.log if isinstance(one, tuple) and len(one) == 6)
    # Bought at 101, marked at 102, fee 0.04 % of 101.
    assert found == (1.0, 10_000.9596, START + 3 * MINUTE - 1, [100.0, 101.0, 102.0], 101.0, {"seen": 1})
    assert fills_of(result) == [(1, "BUY", "101.0"), (4, "SELL", "104.0")]
    assert (result.trades[0].why_in, result.trades[0].why_out) == ("because", "enough")


def test_02_5_orders_are_cancelled_by_view_id_or_all() -> None:
    def cancel(ctx: Any) -> list[str]:
        first, second, *_ = ctx.orders
        ctx.cancel(first)
        ctx.cancel(second.id)
        return [order.type for order in ctx.orders]

    strategy = script(
        _0=lambda ctx: [ctx.buy(1, limit=price) for price in (90, 91, 92)] and None,
        _1=cancel,
        _2=lambda ctx: ctx.cancel(),
        _3=lambda ctx: len(ctx.orders),
    )
    run(strategy, candles(flat(5)))
    assert strategy.log[-1] == 0
    assert [status for status, _ in (x for x in strategy.log if isinstance(x, tuple))].count("canceled") == 3


def test_02_5_notes_stand_beside_the_reason() -> None:
    strategy = script(_0=lambda ctx: ctx.note("calm", spread=0.5), _1=lambda ctx: ctx.refuse("cooldown"))
    decisions = [e for e in events_of(run(strategy, candles(flat(3)))) if isinstance(e, DecisionMade)]
    assert (decisions[0].why, decisions[0].numbers, decisions[0].reason) == (
        "calm",
        {"spread": 0.5},
        "no_signal",
    )
    assert (decisions[1].reason, decisions[1].gate) == ("refused", "cooldown")
    assert decisions[2].why == ""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda ctx: ctx.bars(4), r"bars\(4\): at most 3; set the strategy's lookback"),
        (lambda ctx: ctx.buy(-1), "quantity: expected a finite number of at least 0, got -1"),
        (lambda ctx: ctx.buy(1, limit=float("nan")), "limit: expected a finite number"),
        (lambda ctx: ctx.buy(1, post_only=True), "post_only: only a limit order can rest"),
        (
            lambda ctx: ctx.buy(1, lmit=3),
            r"ctx\.buy has no lmit \(quantity, notional, .*\); did you mean limit\?",
        ),
        (lambda ctx: ctx.position_of("ETHUSDT"), r"symbol ETHUSDT: not among those traded \(BTCUSDT\)"),
    ],
)
def test_wrong_calls_are_named(act: Any, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        run(script(_0=act), candles(flat(1)))


def test_02_5_ticks_walk_the_bar_and_both_bounds_are_told() -> None:
    class Ticks(Strategy):
        def on_tick(self, ctx: Any, tick: Any) -> None:
            if tick.price <= 99 and not ctx.position:
                ctx.buy(1)
            elif tick.price >= 102 and ctx.position:
                ctx.close()

    result = run(Ticks(), candles([*flat(1), [100, 102, 99, 100], *flat(1)]))
    assert result.other_bound is not None
    assert [len(result.trades), len(result.other_bound.trades)] == [0, 1]
    assert result.net < result.other_bound.net


def test_02_5_timers_come_between_bars() -> None:
    woken: list[int] = []

    class Waker(Strategy):
        def on_bar(self, ctx: Any, bar: Any) -> None:
            if bar.open_ms == START:
                ctx.wake_in(90)

        def on_timer(self, ctx: Any) -> None:
            woken.append(ctx.now - START)

    run(Waker(), candles(flat(5)))
    assert woken == [MINUTE - 1 + 90_000]
