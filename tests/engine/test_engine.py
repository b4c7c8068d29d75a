"""The loop: one reason per closed bar, wakes, sessions, and strategies that fail."""

from decimal import Decimal as D

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.core import event as ev
from qmtl.core.command import RaiseAlert
from qmtl.core.order import Role, Side
from qmtl.core.reason import Reason, TradingState
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.strategy import Context
from tests.engine.rig import MINUTE, Rig, Scripted, intent

R = Reason


def enter(ctx: Context, _: object) -> None:
    ctx.submit(intent(limit="60000"))


def leave(ctx: Context, _: object) -> None:
    ctx.submit(intent(Side.SELL, limit="60000", reduce_only=True, role=Role.EXIT))


def keep_back(ctx: Context, _: object) -> None:
    ctx.refuse("cooldown", {"waited": 1.0})


def leave_and_keep_back(ctx: Context, bar: object) -> None:
    leave(ctx, bar)
    keep_back(ctx, bar)


def everything(ctx: Context, bar: object) -> None:
    enter(ctx, bar)
    leave_and_keep_back(ctx, bar)


def test_reasons_in_order_of_precedence() -> None:
    """Every situation holds at once; the first that applies is the reason, then it is taken away."""
    rig = Rig()
    rig.hold()
    rig.bar()
    engine, strategy = rig.engine, rig.strategy
    strategy.warm = False

    strategy.at_bar = everything
    assert rig.bar().reason is R.ENTERED
    strategy.at_bar = leave_and_keep_back
    assert rig.bar().reason is R.EXITED
    strategy.at_bar = keep_back
    decision = rig.bar()
    assert (decision.reason, decision.gate, decision.numbers) == (R.REFUSED, "cooldown", {"waited": 1.0})
    strategy.at_bar = None
    engine.risk.state = TradingState.REDUCING
    engine.risk.state_why = "paused"
    assert rig.bar().reason is R.HOLDING
    engine.account.positions.clear()
    assert (rig.bar(refilled=True).reason, rig.bar().gate) == (R.NOT_TRADING, "paused")
    engine.risk.state = TradingState.ACTIVE
    assert rig.bar(refilled=True).reason is R.REFILLED
    assert rig.bar(warmup=True).reason is R.WARMING_UP
    assert rig.bar().reason is R.WARMING_UP
    strategy.warm = True
    assert rig.bar().reason is R.NO_SIGNAL


def test_a_refusal_by_risk_names_its_code_and_a_ban_counts_as_not_trading() -> None:
    rig = Rig()
    rig.engine.risk.entry_bans["clock_offset"] = "clock is off"
    assert (rig.bar().reason, rig.memory.events[-1].gate) == (R.NOT_TRADING, "clock_offset")  # type: ignore[union-attr]
    rig.strategy.at_bar = enter
    assert (rig.bar().reason, rig.memory.events[-1].gate) == (R.REFUSED, "clock_offset")  # type: ignore[union-attr]


@pytest.mark.parametrize("flag", ["refilled", "warmup"])
def test_late_bars_never_trade(flag: str) -> None:
    rig = Rig()
    rig.strategy.at_bar = everything
    decision = rig.bar(**{flag: True})
    assert decision.reason in {R.REFILLED, R.WARMING_UP}
    assert rig.records(ev.IntentRecorded) == []
    assert rig.records(ev.IntentRefused) == []
    assert rig.bar().reason is R.ENTERED


def test_what_happened_in_the_forming_bar_counts_for_its_close() -> None:
    rig = Rig()
    rig.strategy.at_price = enter
    rig.give(ev.PriceUpdated(rig.now + 1, "BTCUSDT", rig.now, 6e4, 6e4, 6e4, 6e4, 1.0))
    assert rig.bar().reason is R.ENTERED
    assert rig.bar().reason is not R.ENTERED


def test_a_bar_seen_twice_is_an_error_unless_history_was_asked_for_again() -> None:
    rig = Rig()
    rig.bar()
    open_ms = rig.now - MINUTE
    for flags in ({"warmup": True}, {"refilled": True}):
        rig.give(ev.BarClosed(rig.now, "BTCUSDT", open_ms, 1.0, 1.0, 1.0, 1.0, 1.0, **flags))
    assert rig.errors() == []
    rig.give(ev.BarClosed(rig.now, "BTCUSDT", open_ms, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert rig.errors() == ["duplicate_bar"]
    assert len(rig.records(ev.DecisionMade)) == 1


steps = st.lists(
    st.sampled_from(
        [
            "bar",
            "refilled",
            "warmup",
            "again",
            "tick",
            "stale",
            "fresh",
            "halt",
            "resume",
            "fill",
            "timer",
            "x",
        ]
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(steps, st.randoms(use_true_random=False))
def test_every_closed_bar_has_exactly_one_reason(steps: list[str], random) -> None:  # type: ignore[no-untyped-def]
    rig = Rig()
    acts = [enter, leave, keep_back, lambda _ctx, _: None]

    def act(ctx: Context, seen: object) -> None:
        random.choice(acts)(ctx, seen)

    rig.strategy.at_bar = rig.strategy.at_price = act
    bars = 0
    for step in steps:
        if step in {"bar", "refilled", "warmup"}:
            intents = len(rig.records(ev.IntentRecorded))
            decision = rig.bar(**({} if step == "bar" else {step: True}))
            bars += 1
            if step != "bar":
                assert len(rig.records(ev.IntentRecorded)) == intents
                assert decision.reason is not R.NO_SIGNAL
        elif step == "again" and bars:
            rig.give(ev.BarClosed(rig.now, "BTCUSDT", 0, 1.0, 1.0, 1.0, 1.0, 1.0))
        elif step == "tick":
            rig.give(ev.PriceUpdated(rig.now, "BTCUSDT", rig.now, 6e4, 6e4, 6e4, 6e4, 1.0))
        elif step in {"stale", "fresh"}:
            rig.give(ev.FeedStateChanged(rig.now, "kline", is_fresh=step == "fresh"))
        elif step in {"halt", "resume"}:
            target = TradingState.HALTED if step == "halt" else TradingState.ACTIVE
            rig.give(ev.TradingStateSet(rig.now, target, "me", ""))
        elif step == "fill":
            for order in rig.engine.orders.open()[:1]:
                rig.fill(order)
        else:
            rig.wait(1)
    decisions = rig.records(ev.DecisionMade)
    assert len(decisions) == bars
    assert len({decision.open_ms for decision in decisions}) == bars


@pytest.mark.parametrize("speed", [1.0, 60.0, 7.3, 0.37, 1.0003])
@pytest.mark.parametrize("real_s", [0.0, 0.001, 5.0, 29.999, 30.0, 300.0])
def test_a_wake_is_never_too_early_for_its_own_time_out(speed: float, real_s: float) -> None:
    rig = Rig(speed=speed)
    since = rig.engine.context.now_ms
    rig.engine.context.wake_in(real_s)
    (due,) = rig.engine.state.wakes
    rig.give(ev.TimerFired(due))
    assert rig.engine.context.elapsed_real_s(since) >= real_s
    assert due - since <= real_s * 1000 * speed + 1.001
    assert rig.engine.state.wakes == []


def test_wakes_outlive_a_restart() -> None:
    rig = Rig()
    rig.engine.context.wake_in(5)
    rig.give(ev.SessionStarted(rig.now + 10_000, "two", "live", rig.setup))
    assert rig.engine.state.wakes
    rig.wait(11)
    assert rig.strategy.told == ["timer"]


def test_resting_orders_alone_need_no_heartbeat() -> None:
    rig = Rig()
    rig.accept(rig.submit(limit="60000"))
    assert not rig.engine.needs_timer


@pytest.mark.parametrize("hook", ["on_bar", "on_price", "on_timer", "on_order", "on_fill"])
def test_a_failing_strategy_stops_entering_and_the_engine_lives(hook: str) -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    where = "<object object at 0x7f00>"

    def fail(*_: object) -> None:
        raise KeyError(where)

    setattr(rig.strategy, hook, fail)
    rig.bar()
    rig.give(ev.PriceUpdated(rig.now, "BTCUSDT", rig.now, 6e4, 6e4, 6e4, 6e4, 1.0))
    rig.wait(1)
    rig.fill(order)
    assert rig.held == D(1)
    assert rig.errors() == ["strategy_error"]
    # The record must be the same at a replay, where addresses differ.
    assert rig.records(ev.ErrorRecorded)[0].detail == f"{hook} raised KeyError"
    assert rig.trading() is TradingState.REDUCING
    assert any(isinstance(c, RaiseAlert) and where in c.detail for c in rig.commands)


def test_a_failing_strategy_fails_a_backtest() -> None:
    rig = Rig(domain="backtest")
    rig.strategy.at_bar = lambda ctx, bar: 1 / 0
    with pytest.raises(ZeroDivisionError):
        rig.bar()


def test_a_price_of_a_session_without_mark_stream_is_the_mark_again() -> None:
    rig = Rig(mark=50_000.0)
    rig.bar()
    assert rig.engine.account.marks["BTCUSDT"] == 50_000.0
    rig.give(ev.SessionStarted(rig.now, "two", "live", rig.setup))
    rig.bar()
    assert rig.engine.account.marks["BTCUSDT"] == 60_000.0


def test_a_stopping_process_takes_no_entry_and_cancels_those_that_rest() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    entry = rig.submit(limit="50000")
    rig.accept(entry)
    rig.give(ev.EntriesPaused(rig.now, "stopping"))
    assert rig.cancels() == [entry]
    assert rig.try_submit(limit="50000") is None
    rig.give(ev.SessionStarted(rig.now, "two", "live", rig.setup))
    assert rig.try_submit(limit="50000") is not None


def test_a_clock_off_by_more_than_a_second_stops_entries_until_it_is_back() -> None:
    rig = Rig()
    for offset, is_open in ((1000.0, True), (-1000.1, False), (20.0, True)):
        rig.give(ev.ClockChecked(rig.now, offset))
        assert (rig.try_submit(limit="60000") is not None) is is_open


def test_how_far_the_clock_may_be_off_is_the_sessions_setting() -> None:
    rig = Rig()
    rig.give(
        ev.SessionStarted(rig.now, "two", "live", msgspec.structs.replace(rig.setup, clock_limit_ms=250.0))
    )
    for offset, is_open in ((250.0, True), (-251.0, False), (0.0, True)):
        rig.give(ev.ClockChecked(rig.now, offset))
        assert (rig.try_submit(limit="60000") is not None) is is_open


def test_time_never_runs_backwards() -> None:
    rig = Rig()
    before = rig.engine.risk.now_ms
    rig.give(ev.PriceUpdated(before - 5000, "BTCUSDT", 0, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert rig.engine.risk.now_ms == before


def test_nothing_may_be_submitted_before_a_session() -> None:
    with pytest.raises(RuntimeError, match=r"process\(SessionStarted\) comes first"):
        Engine(Scripted(), MemoryJournal()).submit(intent())
