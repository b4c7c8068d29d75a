"""The whole state goes into a snapshot and comes back the same, whatever happened before."""

from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.core import event as ev
from qmtl.core.order import Role, Side
from qmtl.core.reason import TradingState
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.strategy import Context
from tests.engine.rig import Rig, Scripted, intent

DIGITS = {"tick": 0, "buy": 1, "sell": 2, "cancel": 3, "refuse": 4}
STEPS = [*DIGITS, "bar", "fill", "part", "ack", "unsettled", "drift", "stale", "pause"]


def act(ctx: Context, update: ev.PriceUpdated) -> None:
    """Do what the last digit of the price says, so that events alone decide."""
    what = int(update.close) % 10
    ctx.note({"close": update.close})
    if what == 1:
        ctx.submit(intent(Side.BUY, "0.5", limit="60000"))
    elif what == 2:
        ctx.submit(intent(Side.SELL, "0.5", limit="60000", reduce_only=True, role=Role.EXIT))
    elif what == 3:
        for order in ctx.orders:
            ctx.cancel(order)
    elif what == 4:
        ctx.refuse("cooldown", {"waited": 1.0})
        ctx.wake_in(3)


def play(rig: Rig, steps: list[str]) -> None:
    for number, step in enumerate(steps):
        rig.now += 700
        orders = rig.engine.orders.open()
        if step == "bar":
            rig.bar()
        elif step in DIGITS:
            price = 60_000.0 + DIGITS[step]
            rig.give(ev.PriceUpdated(rig.now, "BTCUSDT", rig.now, price, price, price, price, 1.0))
        elif step == "drift":
            held = ev.PositionReport("BTCUSDT", rig.held + 1, rig.engine.account.wallet)
            rig.give(ev.AccountUpdated(rig.now, "ORDER", (), (held,)))
        elif step == "stale":
            rig.give(ev.FeedStateChanged(rig.now, "kline", is_fresh=number % 2 == 0))
        elif step == "pause":
            state = list(TradingState)[number % 3]
            rig.give(ev.TradingStateSet(rig.now, state, "me", "test"))
        elif orders:
            order = orders[number % len(orders)]
            if step == "fill":
                rig.fill(order, str(max(order.remaining, 0)))
            elif step == "part":
                rig.fill(order, "0.001")
            elif step == "ack":
                rig.accept(order)
            else:
                rig.give(ev.OrderUnsettled(rig.now, order.client_order_id, "timeout"))
        rig.wait(0.5)


def attached(rig: Rig) -> Engine:
    """A second engine from the snapshot of the first."""
    strategy = Scripted()
    strategy.at_price = act
    engine = Engine(strategy, MemoryJournal())
    engine.restore(rig.engine.snapshot())
    return engine


@settings(max_examples=150)
@given(st.lists(st.sampled_from(STEPS), max_size=25), st.lists(st.sampled_from(STEPS), max_size=12))
def test_an_engine_from_a_snapshot_decides_like_the_one_that_went_on(
    first: list[str], then: list[str]
) -> None:
    rig = Rig(stop="0.02")
    rig.strategy.at_price = act
    play(rig, first)
    second = attached(rig)
    assert second.state_hash() == rig.engine.state_hash()
    mark, before = len(rig.memory.events), rig.memory
    play(rig, then)
    inputs = [event for event in before.events[mark:] if isinstance(event, ev.INPUTS)]
    for event in inputs:
        second.process(event)
    assert second.state_hash() == rig.engine.state_hash()
    assert second.journal.events == before.events[mark:]  # type: ignore[attr-defined]


def test_what_a_forming_bar_compared_survives_a_snapshot() -> None:
    rig = Rig()
    rig.strategy.at_price = act
    rig.give(ev.PriceUpdated(rig.now, "BTCUSDT", rig.now, 6e4, 6e4, 6e4, 60_001.0, 1.0))
    second = attached(rig)
    decision = rig.bar()
    second.process(next(event for event in reversed(rig.memory.events) if isinstance(event, ev.BarClosed)))
    assert decision.numbers == {"close": 60_001.0}
    assert second.journal.events[-1] == decision  # type: ignore[attr-defined]


def test_restored_parts_look_at_the_restored_state() -> None:
    rig = Rig(stop="0.02")
    engine = rig.engine
    engine.restore(engine.snapshot())
    state = engine.state
    order = engine.context.submit(intent(limit="60000"))
    assert order is not None
    assert engine.risk is state.risk
    assert engine.context.account is state.risk.account
    assert engine.orders.find(order.client_order_id) is order
    rig.fill(order)
    assert list(state.guard) == ["BTCUSDT"]
    assert list(state.protections.values()) == rig.stops
    assert engine.context.position("BTCUSDT").quantity == 1


def test_every_part_of_the_state_moves_the_hash() -> None:
    rig = Rig()
    seen = {rig.engine.state_hash()}
    for change in (
        lambda: rig.hold("1"),
        lambda: rig.mark(61_000.0),
        lambda: rig.engine.context.wake_in(5),
        rig.strategy.fills.clear,
        lambda: rig.engine.set_state(TradingState.HALTED, "me", "why"),
        lambda: rig.give(ev.Transferred(rig.now, "USDT", rig.engine.account.wallet)),
    ):
        change()
        digest = rig.engine.state_hash()
        assert digest not in seen
        assert digest == rig.engine.state_hash()
        seen.add(digest)
