"""The synchronous driver: the venue first, then the engine, time-outs between events."""

from collections.abc import Sequence
from decimal import Decimal as D

import pytest

from qmtl.core import event as ev
from qmtl.core.order import Order, Side
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import Reach
from qmtl.engine.strategy import Context
from tests.engine.rig import MINUTE, Scripted, instrument, intent


class InstantVenue:
    """Accepts, and fills at the next market event; writes down what it was told, and when."""

    reach: Reach = "memory"

    def __init__(self) -> None:
        self.resting: list[Order] = []
        self.log: list[str] = []

    def on_market(self, event: ev.Event) -> Sequence[ev.AnyEvent]:
        self.log.append(type(event).__name__)
        orders, self.resting = self.resting, []
        return [
            ev.OrderFilled(
                event.ts_ms, order.client_order_id, order.client_order_id, "BTCUSDT", order.intent.side,
                order.intent.quantity, D(60000), D(0), "USDT",
            )
            for order in orders
        ]  # fmt: skip

    def submit(self, order: Order, ts_ms: int) -> Sequence[ev.AnyEvent]:
        self.log.append(f"submit@{ts_ms}")
        self.resting.append(order)
        return [ev.OrderAccepted(ts_ms, order.client_order_id)]

    def cancel(self, order: Order, ts_ms: int) -> Sequence[ev.AnyEvent]:
        self.log.append(f"cancel@{ts_ms}")
        self.resting = [other for other in self.resting if other is not order]
        return [ev.OrderCanceled(ts_ms, order.client_order_id)]


class FarVenue(InstantVenue):
    reach: Reach = "sandbox"


def tick(ts_ms: int) -> ev.PriceUpdated:
    return ev.PriceUpdated(ts_ms, "BTCUSDT", ts_ms // MINUTE * MINUTE, 6e4, 6e4, 6e4, 6e4, 1.0)


class Rig:
    def __init__(self, venue: InstantVenue) -> None:
        self.strategy = Scripted()
        self.journal = MemoryJournal()
        self.engine = Engine(self.strategy, self.journal)
        self.venue = venue
        self.driver = Backtest(self.engine, venue)
        setup = ev.SessionSetup(strategy="scripted", instruments=(instrument(),))
        self.driver.start(
            ev.SessionStarted(0, "epoch", "backtest", setup), ev.Transferred(0, "USDT", D(10_000))
        )


def test_a_venue_out_of_memory_is_out_of_reach() -> None:
    with pytest.raises(ValueError, match="cannot reach a sandbox venue"):
        Backtest(Engine(Scripted(), MemoryJournal()), FarVenue())


def test_fills_of_an_event_come_before_the_strategy_sees_it() -> None:
    rig = Rig(InstantVenue())
    seen: list[D] = []

    def act(ctx: Context, _: ev.PriceUpdated) -> None:
        seen.append(ctx.position("BTCUSDT").quantity)
        if len(seen) == 1:
            ctx.submit(intent())

    rig.strategy.at_price = act
    rig.driver.run([tick(1000), tick(2000)])
    assert seen == [D(0), D(1)]
    assert rig.venue.log == ["PriceUpdated", "submit@1000", "PriceUpdated"]


def test_every_command_is_answered_before_the_next_event() -> None:
    rig = Rig(InstantVenue())
    rig.strategy.at_price = lambda ctx, _: ctx.cancel(ctx.orders[0])
    rig.strategy.at_bar = lambda ctx, _: ctx.submit(intent(limit="60000"))
    rig.driver.run([ev.BarClosed(59_999, "BTCUSDT", 0, 6e4, 6e4, 6e4, 6e4, 1.0)])
    (order,) = rig.engine.risk.working.values()
    assert order.status == "accepted"


def test_time_outs_fire_at_their_moment_between_events_and_before_fills() -> None:
    rig = Rig(InstantVenue())
    timers: list[int] = []

    def on_timer(ctx: Context) -> None:
        timers.append(ctx.now_ms)
        for order in ctx.orders:
            ctx.cancel(order)

    def act(ctx: Context, _: ev.PriceUpdated) -> None:
        ctx.submit(intent(Side.BUY, limit="60000"))
        ctx.wake_in(30)
        ctx.wake_in(40)

    rig.strategy.on_timer = on_timer  # type: ignore[method-assign]
    rig.strategy.at_price = act
    rig.driver.run([tick(1000)])
    rig.strategy.at_price = None
    rig.driver.run([tick(60_000)])
    assert timers == [31_000, 41_000]
    assert "cancel@31000" in rig.venue.log
    assert rig.engine.account.net_quantity("BTCUSDT") == 0


def test_a_strategy_that_wakes_itself_for_ever_still_comes_to_an_end() -> None:
    rig = Rig(InstantVenue())
    rig.strategy.on_timer = lambda ctx: ctx.wake_in(0)  # type: ignore[method-assign]
    rig.strategy.at_price = lambda ctx, _: ctx.wake_in(0)
    rig.driver.run([tick(1000), tick(1100)])
    fired = [event for event in rig.journal.events if isinstance(event, ev.TimerFired)]
    assert len(fired) == 100
