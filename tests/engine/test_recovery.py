"""A process dies at the worst moments; the next one has no order twice and loses no fill."""

import asyncio
from decimal import Decimal as D

import pytest

from qmtl.core import event as ev
from qmtl.core.order import OrderStatus, Role, Side
from qmtl.engine.replay import replay
from qmtl.engine.state import FINISHED_KEPT, dump_state
from qmtl.engine.strategy import Context
from tests.engine.live_rig import LiveRig
from tests.engine.rig import Rig, intent, status

S = OrderStatus


BUY, CANCEL = 60_001.0, 60_003.0


def act(ctx: Context, update: ev.PriceUpdated) -> None:
    """Do what the price says: the next process must decide the same when it replays."""
    if update.close == BUY:
        ctx.submit(intent(limit="60000"))
    elif update.close == CANCEL:
        for order in ctx.orders:
            ctx.cancel(order)


async def die(rig: LiveRig) -> LiveRig:
    """Kill the process: only what was committed is left. Return the next one, about to start."""
    assert rig.task is not None
    rig.live._checkpoint = None
    rig.task.cancel()
    kept = rig.journal.events[: rig.journal.durable]
    await asyncio.gather(rig.task, return_exceptions=True)
    after = LiveRig(stop="0.02" if rig.setup.catastrophe_stop else None)
    after.clock.set_now_ms(rig.clock.now_ms() + 2000)
    after.venue.book, after.venue.position = rig.venue.book, rig.venue.position
    after.venue.fills, after.venue.wallet = rig.venue.fills, rig.venue.wallet
    after.strategy.at_price = act
    replayed = replay(enumerate(kept, 1), lambda _: after.strategy)
    assert replayed is not None
    after.engine = after.live.engine = replayed.engine
    after.journal.extend(kept)
    replayed.engine.attach(after.journal)
    return after


async def started(*, stop: str | None = None) -> LiveRig:
    rig = LiveRig(stop=stop)
    rig.strategy.at_price = act
    await rig.start()
    return rig


def errors(rig: LiveRig) -> list[str]:
    return [event.code for event in rig.journal.events if isinstance(event, ev.ErrorRecorded)]


@pytest.mark.parametrize(
    ("moment", "ends"),
    [("before sending", S.REJECTED), ("before the answer", S.ACCEPTED), ("before the fill's news", S.FILLED)],
)
async def test_an_intent_that_was_durable_is_at_most_one_order(moment: str, ends: OrderStatus) -> None:
    rig = await started()
    rig.venue.faults["submit"] = ["never"]
    await rig.price(BUY)
    (order,) = rig.orders()
    if moment != "before sending":
        rig.venue.book[order.client_order_id] = order
    if moment == "before the fill's news":
        await rig.fill(order)
    after = await die(rig)
    await after.start()
    same = after.engine.orders.find(order.client_order_id)
    assert same is not None
    assert status(same) is ends
    assert "submit" not in after.venue.log
    assert after.engine.account.net_quantity("BTCUSDT") == after.venue.position
    assert errors(after) == []
    await after.price(BUY)
    assert after.venue.log == ["submit"]
    await after.stop()


async def test_an_event_whose_group_was_not_durable_comes_again_from_the_venue() -> None:
    rig = await started()
    await rig.price(BUY)
    (order,) = rig.orders()
    await rig.clock.advance(1)
    durable = rig.journal.durable
    await rig.fill(order)
    rig.journal.durable = durable
    after = await die(rig)
    await after.start()
    assert after.engine.account.net_quantity("BTCUSDT") == D(1) == after.venue.position
    assert errors(after) == []
    await after.stop()


async def test_a_cancel_that_was_decided_is_sent_by_the_next_process() -> None:
    rig = await started()
    await rig.price(BUY)
    rig.venue.faults["cancel"] = ["never"]
    await rig.price(CANCEL)
    after = await die(rig)
    await after.start()
    assert after.venue.book == {}
    assert after.orders() == []
    await after.stop()


async def test_a_position_gets_its_stop_when_the_process_died_before_it_was_sent() -> None:
    rig = await started(stop="0.02")
    await rig.price(BUY)
    rig.venue.faults["submit"] = ["never"]
    await rig.fill(rig.orders()[0])
    after = await die(rig)
    await after.start()
    await after.clock.advance(3)
    (stop,) = after.venue.book.values()
    assert stop.intent.role is Role.PROTECTION
    assert not after.engine.guard.is_waiting
    await after.stop()


async def test_halted_stays_halted_and_a_flatten_goes_on() -> None:
    rig = await started()
    await rig.price(BUY)
    await rig.fill(rig.orders()[0])
    rig.venue.faults["submit"] = ["never"]
    rig.live.post(ev.FlattenRequested(rig.clock.now_ms(), "me", "storm"))
    after = await die(rig)
    after.live.begin(
        ev.SessionStarted(after.clock.now_ms(), "two", "live", after.setup), lambda _: after.strategy
    )
    after.task = asyncio.create_task(after.live.run())
    await after.clock.advance(10)
    assert after.engine.risk.state == "HALTED"
    sent = [order for order in after.venue.book.values() if order.intent.role is Role.FLATTEN]
    assert [(order.intent.side, order.intent.quantity) for order in sent] == [(Side.SELL, D(1))]
    await after.stop()


def test_the_state_does_not_grow_with_messages() -> None:
    rig = Rig()
    sizes = []
    for number in range(12_000):
        rig.now += 1000
        rig.give(ev.PriceUpdated(rig.now, "BTCUSDT", rig.now, 6e4, 6e4, 6e4, 6e4, 1.0))
        if number % 10 == 0:
            order = rig.submit(limit="60000")
            rig.cancel(order)
            rig.accept(order)
            rig.engine.context.wake_in(5)
            rig.give(ev.OrderCanceled(rig.now, order.client_order_id))
            fill = ev.OrderFilled(
                rig.now, f"web{number}", f"f{number}", "BTCUSDT", Side.BUY, D(1), D(6), D(0), "USDT"
            )
            rig.engine.risk.state = rig.engine.risk.state.ACTIVE
            rig.give(fill)
            rig.engine.risk.state = rig.engine.risk.state.ACTIVE
        rig.wait(0)
        if number % 100 == 99:
            sizes.append(len(dump_state(rig.engine.state)))
    assert len(rig.engine.state.finished) <= 2 * FINISHED_KEPT
    assert len(rig.engine.state.foreign_trades) <= 256
    assert len(rig.engine.state.wakes) < 10
    assert max(sizes[90:]) < 1.02 * max(sizes[60:90])
