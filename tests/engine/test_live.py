"""The live driver: durable before sent, whatever the venue says, late, never, or wrongly."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from qmtl.core import event as ev
from qmtl.core.order import DomainViolation, OrderStatus, Role, Side
from qmtl.core.reason import TradingState
from qmtl.engine.journal import JournalError
from qmtl.engine.live import LiveEngine, check_reach
from qmtl.engine.strategy import Context
from tests.engine.live_rig import START, LiveRig
from tests.engine.rig import intent, status

S = OrderStatus


def buy(ctx: Context) -> object:
    return ctx.submit(intent(limit="60000"))


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[LiveRig]:
    opened = LiveRig()
    await opened.start()
    yield opened
    if opened.task is not None and not opened.task.done():
        await opened.stop()


async def test_an_order_is_durable_before_it_is_sent(rig: LiveRig) -> None:
    await rig.do(buy)
    assert rig.venue.log == ["submit"]
    (order,) = rig.orders()
    assert status(order) is S.ACCEPTED
    assert rig.watcher.answered


async def test_several_orders_of_one_decision_are_one_commit(rig: LiveRig) -> None:
    before = rig.journal.commits
    await rig.do(lambda ctx: [buy(ctx), buy(ctx), buy(ctx)])
    assert rig.venue.log == ["submit"] * 3
    # One group for the decision; each answer waits for the next.
    assert rig.journal.commits == before + 1


async def test_a_full_journal_sends_nothing_and_ends_the_run(rig: LiveRig) -> None:
    rig.journal.is_full = True
    await rig.do(buy)
    await rig.clock.advance(1)
    assert rig.venue.log == []
    assert rig.task is not None
    with pytest.raises(JournalError, match="disk is full"):
        await rig.task


async def test_a_full_journal_met_by_the_control_port_ends_the_run_too(rig: LiveRig) -> None:
    rig.journal.is_full = True
    rig.strategy.at_price = lambda ctx, _: buy(ctx)
    with pytest.raises(JournalError):
        rig.live.post(ev.PriceUpdated(rig.clock.now_ms(), "BTCUSDT", 0, 6e4, 6e4, 6e4, 6e4, 1.0))
    rig.journal.is_full = False
    await rig.clock.advance(1)
    assert rig.venue.log == []
    assert rig.task is not None
    with pytest.raises(JournalError):
        await rig.task


async def test_quiet_events_are_durable_within_a_tenth_of_a_second(rig: LiveRig) -> None:
    await rig.price()
    await rig.clock.advance(0.2)
    assert rig.journal.durable == len(rig.journal.events)


@pytest.mark.parametrize("fault", ["timeout", "lost", "brokerage"])
async def test_an_unclear_answer_blocks_the_instrument_until_settled(rig: LiveRig, fault: str) -> None:
    rig.venue.faults["submit"] = [fault]
    rig.venue.faults["settle"] = ["brokerage"]
    await rig.do(buy)
    (order,) = rig.orders()
    assert status(order) is S.UNKNOWN
    assert not rig.live.ready()[0]
    await rig.do(buy)
    assert rig.venue.log.count("submit") == 1
    await rig.clock.advance(5)
    assert status(order) is (S.ACCEPTED if fault == "timeout" else S.REJECTED)
    assert rig.live.ready() == (True, [])
    # Nothing was sent again: one venue order an intent.
    assert rig.venue.log.count("submit") == 1


async def test_an_answer_that_never_comes_is_unsettled_after_ten_seconds(rig: LiveRig) -> None:
    rig.venue.faults["submit"] = ["never"]
    await rig.do(buy)
    (order,) = rig.orders()
    await rig.clock.advance(9)
    assert status(order) is S.SUBMITTED
    await rig.clock.advance(6)
    assert status(order) is S.REJECTED
    assert order.reason == "absent"


async def test_an_order_still_on_its_way_is_not_taken_for_absent(rig: LiveRig) -> None:
    rig.venue.delay_s = 3.0
    await rig.do(buy)
    (order,) = rig.orders()
    rig.live.post(ev.FeedStateChanged(rig.clock.now_ms(), "user", is_fresh=False))
    rig.live.post(ev.FeedStateChanged(rig.clock.now_ms(), "user", is_fresh=True))
    await rig.clock.advance(1)
    assert rig.venue.asked_orders[-1] == []
    await rig.clock.advance(10)
    assert status(order) is S.ACCEPTED
    assert not [event for event in rig.journal.events if isinstance(event, ev.ErrorRecorded)]


async def test_a_cancel_the_venue_refuses_is_tried_again(rig: LiveRig) -> None:
    await rig.do(buy)
    (order,) = rig.orders()
    rig.venue.faults["cancel"] = ["reject", "brokerage"]
    rig.live.post(ev.TradingStateSet(rig.clock.now_ms(), TradingState.HALTED, "me", "storm"))
    await rig.clock.advance(10)
    assert rig.venue.log.count("cancel") == 3
    assert status(order) is S.CANCELED
    assert rig.venue.book == {}


async def test_a_bug_in_the_venue_stops_the_run_with_its_error(rig: LiveRig) -> None:
    rig.venue.faults["submit"] = ["bug"]
    await rig.do(buy)
    assert rig.task is not None
    with pytest.raises(ZeroDivisionError):
        await rig.task
    assert rig.feed.is_closed
    assert rig.checkpoints == 0


async def test_a_failing_feed_stops_the_run_with_its_error(rig: LiveRig) -> None:
    await rig.feed.queue.put(OSError("socket gone"))
    await rig.clock.advance(1)
    assert rig.task is not None
    with pytest.raises(OSError, match="socket gone"):
        await rig.task


async def test_a_feed_that_ends_leaves_nobody_trading_blind(rig: LiveRig) -> None:
    await rig.feed.queue.put(None)
    await rig.clock.advance(1)
    is_ready, reasons = rig.live.ready()
    assert not is_ready
    assert "the feed ended" in reasons[0]


async def test_stopping_cancels_entries_and_leaves_protection() -> None:
    rig = LiveRig(stop="0.02")
    await rig.start()
    await rig.do(buy)
    await rig.fill(rig.orders()[0])
    await rig.do(lambda ctx: ctx.submit(intent(Side.BUY, limit="50000")))
    await rig.do(lambda ctx: ctx.submit(intent(Side.SELL, limit="70000", reduce_only=True, role=Role.TARGET)))
    assert len(rig.venue.book) == 3
    await rig.stop()
    roles = sorted(order.intent.role for order in rig.venue.book.values())
    assert roles == [Role.PROTECTION, Role.TARGET]
    assert rig.checkpoints == 1
    assert rig.journal.durable == len(rig.journal.events)
    assert rig.feed.is_closed


async def test_stopping_waits_for_answers_but_not_for_ever(rig: LiveRig) -> None:
    rig.venue.faults["submit"] = ["never"]
    await rig.do(buy)
    before = rig.clock.real_ms()
    await rig.stop()
    assert 5_000 <= rig.clock.real_ms() - before <= 6_000


async def test_reconciling_is_tried_again_slower_each_time() -> None:
    rig = LiveRig()
    rig.venue.faults["reconcile"] = ["brokerage"] * 6
    rig.live.begin(ev.SessionStarted(START, "epoch", "live", rig.setup), lambda _: rig.strategy)
    rig.task = asyncio.create_task(rig.live.run())
    await rig.clock.advance(20)
    assert 4 <= rig.venue.log.count("reconcile") <= 6
    assert not rig.live.ready()[0]
    assert "reconcile_failed" in rig.watcher.alerts
    await rig.clock.advance(120)
    assert rig.live.ready() == (True, [])
    await rig.stop()


async def test_a_fill_missed_while_the_stream_was_away_is_asked_for_from_before_it(rig: LiveRig) -> None:
    await rig.do(lambda ctx: [buy(ctx), buy(ctx)])
    first, second = rig.orders()
    away_ms = rig.clock.now_ms()
    rig.live.post(ev.FeedStateChanged(away_ms, "user", is_fresh=False, reason="closed"))
    missed = ev.OrderFilled(
        away_ms + 1, first.client_order_id, "m1", "BTCUSDT", Side.BUY, first.intent.quantity,
        first.intent.limit_price or first.intent.quantity, first.fee, "USDT",
    )  # fmt: skip
    rig.venue.fills.append(missed)
    rig.venue.book.pop(first.client_order_id)
    rig.venue.position += 1
    await rig.clock.advance(600)
    rig.live.post(ev.FeedStateChanged(rig.clock.now_ms(), "user", is_fresh=True))
    await rig.fill(second)
    await rig.clock.advance(5)
    assert rig.venue.asked_since[-1] <= away_ms
    assert status(first) is S.FILLED
    assert rig.engine.account.net_quantity("BTCUSDT") == 2
    assert not [event for event in rig.journal.events if isinstance(event, ev.ErrorRecorded)]


async def test_the_first_start_asks_for_no_fills_of_the_past() -> None:
    rig = LiveRig()
    await rig.start()
    assert rig.venue.asked_since[0] >= START
    await rig.stop()


@pytest.mark.parametrize("speed", [1.0, 60.0])
async def test_time_outs_fire_in_real_time_at_every_speed(speed: float) -> None:
    rig = LiveRig(speed=speed)
    await rig.start()
    await rig.do(lambda ctx: ctx.wake_in(30))
    await rig.clock.advance(29.5)
    assert rig.strategy.told == []
    await rig.clock.advance(0.6)
    assert rig.strategy.told == ["timer"]
    await rig.clock.advance(60)
    assert rig.strategy.told == ["timer"]
    await rig.stop()


async def test_a_refused_stop_flattens_in_30_seconds_with_nobody_looking() -> None:
    rig = LiveRig(stop="0.02")
    await rig.start()
    await rig.do(buy)
    rig.venue.faults["submit"] = ["reject"] * 40
    await rig.fill(rig.orders()[0])
    await rig.clock.advance(29)
    assert rig.engine.risk.state == "ACTIVE"
    rig.venue.faults["submit"] = ["reject", ""]
    await rig.clock.advance(2)
    assert rig.engine.risk.state == "HALTED"
    assert "unprotected_position" in rig.watcher.alerts
    assert [o.intent.role for o in rig.all_orders() if o.intent.role is Role.FLATTEN] == [Role.FLATTEN]
    await rig.stop()


async def test_health_is_the_turning_of_the_loop(rig: LiveRig) -> None:
    assert rig.live.health()[0]
    rig.clock.set_now_ms(rig.clock.now_ms() + 6_000)
    assert not rig.live.health()[0]


@pytest.mark.parametrize(
    ("domain", "fills", "allowed"),
    [
        ("backtest", "simulated", {"memory"}),
        ("backtest", "venue", {"memory"}),
        ("dryrun", "simulated", {"memory"}),
        ("dryrun", "venue", {"sandbox"}),
        ("shadow", "venue", {"memory"}),
        ("live", "venue", {"sandbox", "live"}),
        ("Live", "venue", {"memory"}),
    ],
)
def test_which_domain_reaches_which_venue(domain: str, fills: str, allowed: set[str]) -> None:
    for reach in ("memory", "sandbox", "live"):
        if reach in allowed:
            check_reach(domain, fills, reach)
        else:
            with pytest.raises(DomainViolation, match=f"cannot reach a {reach} venue"):
                check_reach(domain, fills, reach)


def test_one_place_for_orders_to_go() -> None:
    rig = LiveRig()
    with pytest.raises(ValueError, match="exactly one"):
        LiveEngine(rig.engine, rig.journal, rig.clock, [])
