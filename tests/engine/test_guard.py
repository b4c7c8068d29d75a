"""Stops at the venue, loss limits, FLATTEN: what holds whatever the strategy does."""

from decimal import Decimal as D

import pytest

from qmtl.core import event as ev
from qmtl.core.command import RaiseAlert
from qmtl.core.limits import RiskLimits
from qmtl.core.order import Order, OrderStatus, OrderType, PositionSide, Role, Side, WorkingType
from qmtl.core.reason import TradingState
from tests.engine.rig import Rig, instrument, status

DAY = 86_400_000


def refuse_stops(rig: Rig) -> None:
    for stop in rig.stops:
        rig.give(ev.OrderRejected(rig.now, stop.client_order_id, "-4120"))


def cancel_done(rig: Rig, order: Order) -> None:
    rig.give(ev.OrderCanceled(rig.now, order.client_order_id))


@pytest.mark.parametrize(
    ("held", "entry", "side", "price"),
    [("1", "60000.1", Side.SELL, "58800.1"), ("-1", "60000.1", Side.BUY, "61200.1")],
)
def test_a_position_gets_a_stop_no_farther_than_allowed(
    held: str, entry: str, side: Side, price: str
) -> None:
    rig = Rig(stop="0.02")
    rig.hold(held, entry)
    (stop,) = rig.stops
    intent = stop.intent
    assert (intent.type, intent.side, intent.stop_price) == (OrderType.STOP_MARKET, side, D(price))
    assert intent.close_position
    assert intent.working_type is WorkingType.MARK_PRICE
    assert rig.engine.guard.is_waiting
    rig.accept(stop)
    assert not rig.engine.guard.is_waiting


def test_without_the_setting_there_is_no_stop() -> None:
    rig = Rig()
    rig.hold()
    assert rig.stops == []


def test_the_stop_goes_when_flat() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    stop = rig.stops[0]
    rig.accept(stop)
    rig.fill(rig.submit(Side.SELL, reduce_only=True, role=Role.EXIT))
    assert rig.cancels() == [stop]
    cancel_done(rig, stop)
    assert not rig.stops
    assert not rig.engine.state.guard
    assert len(rig.sent(Role.PROTECTION)) == 1


def test_a_partial_exit_leaves_the_stop_alone() -> None:
    rig = Rig(stop="0.02")
    rig.hold("3", "60000.1")
    rig.accept(rig.stops[0])
    rig.fill(rig.submit(Side.SELL, "1", reduce_only=True, role=Role.EXIT), price="60123.4")
    assert rig.cancels() == []
    assert len(rig.stops) == 1


def test_a_new_entry_price_replaces_the_stop_one_after_the_other() -> None:
    rig = Rig(stop="0.02")
    rig.hold("1", "60000")
    first = rig.stops[0]
    rig.accept(first)
    rig.hold("1", "61000")
    # The venue takes one closing stop a position, so the second waits for the end of the first.
    assert rig.cancels() == [first]
    assert len(rig.sent(Role.PROTECTION)) == 1
    cancel_done(rig, first)
    (second,) = rig.stops
    assert second.intent.stop_price == D(59290)
    assert not any(isinstance(command, RaiseAlert) for command in rig.commands)


def test_a_flip_turns_the_stop_round() -> None:
    rig = Rig(stop="0.02")
    rig.hold("1")
    first = rig.stops[0]
    rig.accept(first)
    rig.hold("-3")
    assert rig.held == D(-2)
    cancel_done(rig, first)
    assert [stop.intent.side for stop in rig.stops] == [Side.BUY]


def test_a_stop_taken_away_by_somebody_comes_back_within_seconds_with_an_alert() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    first = rig.stops[0]
    rig.accept(first)
    cancel_done(rig, first)
    assert [c.code for c in rig.commands if isinstance(c, RaiseAlert)] == ["unprotected_position"]
    rig.wait(1)
    assert len(rig.stops) == 1


def test_a_triggered_stop_ends_the_position_and_the_guard() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    stop = rig.stops[0]
    rig.accept(stop)
    rig.fill(stop, "0.4")
    assert status(stop) is OrderStatus.PARTIALLY_FILLED
    rig.fill(stop, "0.6")
    assert status(stop) is OrderStatus.FILLED
    assert rig.held == 0
    assert not rig.engine.state.guard
    assert rig.errors() == []


def test_a_stop_written_for_less_closes_all_of_a_grown_position() -> None:
    rig = Rig(stop="0.02")
    rig.hold("1")
    stop = rig.stops[0]
    rig.accept(stop)
    rig.hold("1")
    rig.fill(stop, "1")
    assert status(stop) is OrderStatus.PARTIALLY_FILLED
    rig.fill(stop, "1")
    assert status(stop) is OrderStatus.FILLED
    assert rig.errors() == []


@pytest.mark.parametrize("speed", [1.0, 60.0, 7.3])
def test_a_refused_stop_flattens_and_halts_after_30_real_seconds(speed: float) -> None:
    rig = Rig(stop="0.02", speed=speed)
    rig.hold()
    for _ in range(29):
        refuse_stops(rig)
        rig.wait(1)
    assert rig.trading() is TradingState.ACTIVE
    assert len(rig.sent(Role.PROTECTION)) >= 25
    refuse_stops(rig)
    rig.wait(1.1)
    assert rig.trading() is TradingState.HALTED
    (close,) = rig.sent(Role.FLATTEN)
    assert (close.intent.side, close.intent.quantity, close.intent.reduce_only) == (Side.SELL, D(1), True)
    assert "unprotected_position" in rig.errors()


def test_a_stop_that_is_never_answered_counts_as_none() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    rig.wait(29)
    assert rig.trading() is TradingState.ACTIVE
    rig.wait(1)
    assert rig.trading() is TradingState.HALTED


def test_a_stop_that_worked_once_starts_the_30_seconds_anew() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    refuse_stops(rig)
    rig.wait(20)
    rig.accept(rig.stops[0])
    cancel_done(rig, rig.stops[0])
    rig.wait(20)
    assert rig.trading() is TradingState.ACTIVE


def test_a_position_in_a_foreign_instrument_is_reported_not_fatal() -> None:
    rig = Rig(stop="0.02", wallet=None)
    report = ev.PositionReport("ETHUSDT", D(2), D(3000))
    rig.give(ev.AccountReconciled(rig.now, (), (ev.BalanceReport("USDT", D(100)),), (report,)))
    assert rig.errors() == ["unprotected_position"]
    rig.give(ev.FlattenRequested(rig.now, "me"))
    assert rig.errors()[-1] == "not_flattened"
    rig.wait(5)
    assert rig.engine.state.flatten is None


def test_flatten_repeats_until_flat_and_stays_halted() -> None:
    rig = Rig(stop="0.02")
    rig.hold("2")
    resting = rig.submit(Side.BUY, limit="50000")
    rig.accept(resting)
    rig.give(ev.FlattenRequested(rig.now, "me", "storm"))
    assert resting in rig.cancels()
    for round_number in range(1, 4):
        close = rig.sent(Role.FLATTEN)[-1]
        assert len(rig.sent(Role.FLATTEN)) == round_number
        rig.give(ev.OrderExpired(rig.now, close.client_order_id, "no liquidity"))
        rig.wait(5)
    rig.fill(rig.sent(Role.FLATTEN)[-1])
    rig.wait(5)
    assert rig.held == 0
    assert rig.engine.state.flatten is None
    assert rig.trading() is TradingState.HALTED
    assert len(rig.sent(Role.FLATTEN)) == 4
    assert not rig.engine.needs_timer


def test_flatten_of_more_than_one_market_order_may_carry() -> None:
    rig = Rig(instruments=(instrument(market_max_quantity=D(2)),))
    order = rig.submit(Side.BUY, "5", limit="60000")
    rig.fill(order)
    rig.give(ev.FlattenRequested(rig.now, "me"))
    while rig.held:
        rig.fill(rig.sent(Role.FLATTEN)[-1])
        rig.wait(5)
    assert [o.intent.quantity for o in rig.sent(Role.FLATTEN)] == [D(2), D(2), D(1)]


def test_flatten_closes_both_sides_of_a_hedge() -> None:
    rig = Rig()
    for side, of in ((Side.BUY, PositionSide.LONG), (Side.SELL, PositionSide.SHORT)):
        rig.fill(rig.submit(side, position_side=of))
    rig.give(ev.FlattenRequested(rig.now, "me"))
    sent = [(o.intent.side, o.intent.position_side, o.intent.reduce_only) for o in rig.sent(Role.FLATTEN)]
    assert sent == [(Side.SELL, PositionSide.LONG, False), (Side.BUY, PositionSide.SHORT, False)]


def test_resume_ends_a_flatten_and_measures_losses_anew() -> None:
    rig = Rig(limits=RiskLimits(max_daily_loss=D(50)))
    rig.hold()
    rig.mark(59_900.0)
    assert rig.trading() is TradingState.REDUCING
    rig.give(ev.FlattenRequested(rig.now, "me"))
    rig.give(ev.TradingStateSet(rig.now, TradingState.ACTIVE, "me", "looked"))
    assert rig.engine.state.flatten is None
    rig.mark(59_899.0)
    assert rig.trading() is TradingState.ACTIVE


def test_the_daily_loss_counts_the_utc_day_to_the_cent() -> None:
    rig = Rig(limits=RiskLimits(max_daily_loss=D(50)))
    rig.hold()
    rig.mark(59_950.1)
    assert rig.trading() is TradingState.ACTIVE
    rig.now = (rig.now // DAY + 1) * DAY
    rig.mark(59_930.0)
    rig.mark(59_880.1)
    assert rig.trading() is TradingState.ACTIVE
    rig.mark(59_880.0)
    assert rig.trading() is TradingState.REDUCING
    assert "max_daily_loss" in rig.engine.risk.state_why
    assert rig.try_submit(limit="59000") is None
    assert rig.try_submit(Side.SELL, reduce_only=True, role=Role.EXIT) is not None


def test_drawdown_is_measured_from_the_peak() -> None:
    rig = Rig(limits=RiskLimits(max_drawdown=D("0.01")))
    rig.hold()
    rig.mark(61_000.0)
    rig.mark(60_890.1)
    assert rig.trading() is TradingState.ACTIVE
    rig.mark(60_890.0)
    assert rig.trading() is TradingState.REDUCING


def test_money_moved_is_neither_profit_nor_loss() -> None:
    rig = Rig(limits=RiskLimits(max_daily_loss=D(50), max_drawdown=D("0.01")))
    rig.mark(60_000.0)
    rig.give(ev.Transferred(rig.now, "USDT", D(-5000)))
    rig.mark(60_000.0)
    assert rig.trading() is TradingState.ACTIVE


def test_limits_change_while_running_and_bad_ones_change_nothing() -> None:
    rig = Rig()
    rig.give(ev.LimitSet(rig.now, "max_open_orders", "0", "me"))
    assert rig.try_submit(limit="60000") is None
    rig.give(ev.LimitSet(rig.now, "max_open_orders", None, "me"))
    assert rig.try_submit(limit="60000") is not None
    before = rig.engine.state.setup
    for name, value in (
        ("max_open_orders", "1.5"),
        ("max_daily_loss", "much"),
        ("max_daily_loss", "NaN"),
        ("max_daily_loss", "-1"),
        ("max_fun", "1"),
    ):
        rig.give(ev.LimitSet(rig.now, name, value, "me"))
    assert rig.engine.state.setup == before
    assert rig.errors() == ["bad_limit"] * 4 + ["unknown_limit"]


def test_a_loss_limit_set_while_running_is_watched() -> None:
    rig = Rig()
    rig.hold()
    rig.mark(60_000.0)
    rig.give(ev.LimitSet(rig.now, "max_daily_loss", "10", "me"))
    rig.mark(60_000.0)
    rig.mark(59_990.0)
    assert rig.trading() is TradingState.REDUCING
