"""The simulated venue behind its ports: when orders fill, when commands arrive, when funding is paid."""

from decimal import Decimal as D
from typing import Any

import pytest

from qmtl.core.event import (
    AccountReconciled,
    AnyEvent,
    BarClosed,
    FundingPaid,
    MarkPriceUpdated,
    OrderAccepted,
    OrderFilled,
    OrderRejected,
    PriceUpdated,
)
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.order import OrderStatus, TimeInForce
from qmtl.engine.candle_path import CandlePath, CandleTick, candle_ticks
from qmtl.engine.matching import MatchingCore
from qmtl.engine.simulated_venue import FillMode, SimulatedAsyncVenue, SimulatedVenue
from qmtl.engine.venue_models import CandleShare, FixedLatency, TickSlippage, VenueModels
from tests.engine.market import BTC, MINUTE_MS, fills, make_bar, make_order, names, traded

FLAT = (100.0, 101.0, 99.0, 100.0)
NONE = MakerTakerFeeModel(D(0), D(0))


def make_venue(fill: FillMode = "next_open", **models: Any) -> SimulatedVenue:
    models.setdefault("fees", NONE)
    return SimulatedVenue(MatchingCore({"BTCUSDT": BTC}, models=VenueModels(**models)), fill=fill)


def send_bar(
    venue: SimulatedVenue, number: int, prices: tuple[float, float, float, float] = FLAT
) -> list[AnyEvent]:
    return list(venue.on_market(make_bar(number, prices)))


def update(bar: BarClosed, tick: CandleTick) -> PriceUpdated:
    return PriceUpdated(
        bar.open_ms + tick.offset_ms,
        bar.symbol,
        bar.open_ms,
        bar.open,
        tick.high,
        tick.low,
        tick.price,
        tick.volume,
    )


def test_a_market_order_sent_at_a_close_fills_at_the_next_open_plus_slippage() -> None:
    venue = make_venue(slippage=TickSlippage(1))
    send_bar(venue, 0)
    assert names(venue.submit(make_order("a", "BUY", "1"), MINUTE_MS)) == ["OrderAccepted"]
    (fill,) = fills(send_bar(venue, 1, (102.0, 103.0, 101.0, 102.0)))
    assert (fill.price, fill.ts_ms) == (D("102.1"), MINUTE_MS)


def test_a_limit_order_sent_at_a_close_meets_the_next_open() -> None:
    venue = make_venue()
    send_bar(venue, 0)
    venue.submit(make_order("take", "BUY", "1", kind="LIMIT", limit_price=103), MINUTE_MS)
    gtx = make_order("gtx", "BUY", "1", kind="LIMIT", limit_price=103, time_in_force=TimeInForce.GTX)
    assert names(venue.submit(gtx, MINUTE_MS)) == ["OrderAccepted"]
    events = send_bar(venue, 1, (102.0, 103.0, 101.0, 102.0))
    assert traded(events) == [("take", D(1), D("102.0"))]
    assert [e.client_order_id for e in events if isinstance(e, OrderRejected)] == ["gtx"]


def test_fill_at_close_is_at_once() -> None:
    venue = make_venue(fill="close")
    send_bar(venue, 0, (100.0, 101.0, 99.0, 100.5))
    assert traded(venue.submit(make_order("a", "BUY", "1"), MINUTE_MS)) == [("a", D(1), D("100.5"))]


def test_protection_sent_on_the_entry_fill_works_inside_the_same_bar() -> None:
    venue = make_venue()
    send_bar(venue, 0)
    venue.submit(make_order("in", "BUY", "1"), MINUTE_MS)
    seen = []
    for event in venue.on_market(make_bar(1, (100.0, 105.0, 94.0, 100.0))):
        if isinstance(event, OrderFilled):
            seen.append((event.client_order_id, event.price))
            if event.client_order_id == "in":
                stop = make_order("stop", "SELL", "1", kind="STOP_MARKET", stop_price=95, reduce_only=True)
                target = make_order("target", "SELL", "1", kind="LIMIT", limit_price=104, reduce_only=True)
                assert names(venue.submit(stop, event.ts_ms)) == ["OrderAccepted"]
                assert names(venue.submit(target, event.ts_ms)) == ["OrderAccepted"]
    assert seen == [("in", D("100.0")), ("stop", D(95))]


def test_what_the_caller_leaves_comes_first_in_the_next_answer() -> None:
    venue = make_venue()
    send_bar(venue, 0)
    venue.submit(make_order("in", "BUY", "1"), MINUTE_MS)
    venue.submit(make_order("stop", "SELL", "1", kind="STOP_MARKET", stop_price=95), MINUTE_MS)
    iter(venue.on_market(make_bar(1, (100.0, 101.0, 94.0, 100.0))))
    assert [name for name, _, _ in traded(send_bar(venue, 2))] == ["in", "stop"]


def test_latency_delays_orders_and_cancels_in_exchange_time() -> None:
    venue = make_venue(fill="close", latency=FixedLatency(250))
    bar = make_bar(1, (100.0, 106.0, 99.0, 105.0))
    first, second, third, _ = (
        update(bar, tick) for tick in candle_ticks(bar, CandlePath.OPEN_HIGH_LOW_CLOSE)
    )
    assert list(venue.on_market(first)) == []
    assert list(venue.submit(make_order("a", "BUY", "1"), first.ts_ms)) == []
    events = list(venue.on_market(second))
    assert names(events) == ["OrderAccepted", "OrderFilled"]
    # It arrived 250 ms later, when the first price still stood.
    assert (fills(events)[0].price, fills(events)[0].ts_ms) == (D("100.0"), first.ts_ms + 250)
    resting = make_order("b", "SELL", "1", kind="LIMIT", limit_price=120)
    venue.submit(resting, second.ts_ms)
    venue.cancel(resting, second.ts_ms + 1)
    assert names(venue.on_market(third)) == ["OrderAccepted", "OrderCanceled"]


def test_latency_across_a_close_arrives_inside_the_next_bar() -> None:
    venue = make_venue(fill="close", latency=FixedLatency(20_000))
    send_bar(venue, 0)
    venue.submit(make_order("a", "BUY", "1"), MINUTE_MS)
    (fill,) = fills(send_bar(venue, 1, (100.0, 105.0, 95.0, 100.0)))
    # The low was at 15 s; the order meets it at 20 s.
    assert (fill.price, fill.ts_ms) == (D("95.0"), MINUTE_MS + 20_000)


def test_ticks_of_a_bar_are_not_walked_again_at_its_close() -> None:
    venue = make_venue()
    bar = make_bar(1, (100.0, 106.0, 94.0, 100.0))
    ticks = [update(bar, tick) for tick in candle_ticks(bar, CandlePath.OPEN_LOW_HIGH_CLOSE)]
    for tick in ticks[:3]:
        assert list(venue.on_market(tick)) == []
    # Placed after the low was seen: the closed bar must not fill it at that low.
    venue.submit(make_order("a", "BUY", "1", kind="LIMIT", limit_price=95), ticks[2].ts_ms)
    assert list(venue.on_market(ticks[3])) == []
    assert list(venue.on_market(bar)) == []


def test_where_updates_are_seen_an_order_sent_at_the_close_fills_at_it() -> None:
    venue = make_venue()
    bar = make_bar(1, FLAT)
    for tick in candle_ticks(bar):
        list(venue.on_market(update(bar, tick)))
    assert list(venue.on_market(bar)) == []
    assert traded(venue.submit(make_order("a", "BUY", "1"), bar.ts_ms)) == [("a", D(1), D("100.0"))]
    list(venue.on_market(make_bar(2, FLAT)))
    assert names(venue.submit(make_order("b", "BUY", "1"), bar.ts_ms)) == ["OrderAccepted"]


def test_candle_share_is_the_same_for_bars_and_their_updates() -> None:
    bar = make_bar(1, FLAT)
    ticked, walked = make_venue(liquidity=CandleShare()), make_venue(liquidity=CandleShare())
    for tick in candle_ticks(bar):
        list(ticked.on_market(update(bar, tick)))
    list(ticked.on_market(bar))
    list(walked.on_market(bar))
    assert ticked.core.books["BTCUSDT"].available == walked.core.books["BTCUSDT"].available == D("2.5")


def test_funding_is_paid_at_the_announced_rate_when_its_time_comes() -> None:
    venue = make_venue(fill="close")
    send_bar(venue, 0)
    venue.submit(make_order("a", "BUY", "1"), MINUTE_MS)
    due_ms, next_ms = 28_800_000, 57_600_000
    assert list(venue.on_market(MarkPriceUpdated(due_ms - 1000, "BTCUSDT", 100.0, 0.0002, due_ms))) == []
    paid = list(venue.on_market(MarkPriceUpdated(due_ms, "BTCUSDT", 110.0, 0.0009, next_ms)))
    assert paid == [FundingPaid(due_ms, "BTCUSDT", D("-0.022"), f"BTCUSDT@{due_ms}")]
    assert list(venue.on_market(MarkPriceUpdated(due_ms + 1, "BTCUSDT", 110.0, 0.0009, next_ms))) == []
    # A recording of settlements alone: each event is due at its own time.
    alone = MarkPriceUpdated(next_ms, "BTCUSDT", 100.0, -0.001, next_ms)
    assert [type(event) for event in venue.on_market(alone)] == [FundingPaid]
    assert venue.core.account.funding == D("-0.022") + D("-0.09")


def test_orders_and_account_survive_a_restart() -> None:
    venue = make_venue(fill="close")
    send_bar(venue, 0)
    venue.submit(make_order("in", "BUY", "1"), MINUTE_MS)
    stop = make_order("stop", "SELL", "1", kind="STOP_MARKET", stop_price=95, reduce_only=True)
    venue.submit(stop, MINUTE_MS)
    stop.status, stop.venue_order_id = OrderStatus.ACCEPTED, "2"
    again = SimulatedVenue(MatchingCore({"BTCUSDT": BTC}, account=venue.core.account), fill="close")
    again.restore([stop])
    assert again.account(5) == venue.account(5)
    assert traded(send_bar(again, 1, (100.0, 100.0, 94.0, 94.0))) == [("stop", D(1), D(95))]


class StillClock:
    speed = 60.0

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return 7

    def real_ms(self) -> float:
        return 0.0

    async def sleep(self, real_s: float) -> None:
        self.slept.append(real_s)


async def test_the_async_face_answers_like_the_port_asks() -> None:
    clock = StillClock()
    venue = make_venue(fill="close", latency=FixedLatency(120))
    face = SimulatedAsyncVenue(venue, clock)
    send_bar(venue, 0)
    order = make_order("a", "BUY", "1", kind="LIMIT", limit_price=95)
    (accepted,) = await face.submit(order)
    assert isinstance(accepted, OrderAccepted)
    assert clock.slept == [0.12 / 60]
    assert await face.settle(order) == [OrderAccepted(7, "a", accepted.venue_order_id)]
    (truth,) = await face.reconcile(0, [order])
    assert isinstance(truth, AccountReconciled)
    assert [report.client_order_id for report in truth.orders] == ["a"]
    assert names(await face.cancel(order)) == ["OrderCanceled"]
    assert await face.settle(order) == [OrderRejected(7, "a", "absent")]
    await face.aclose()


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_reports_say_what_is_assumed(fill: FillMode) -> None:
    words = " · ".join(make_venue(fill=fill, fees=MakerTakerFeeModel()).describe())
    for expected in ("fee maker 0.02 %, taker 0.04 %", "no slippage", "no latency", "open-low-high-close"):
        assert expected in words
    assert ("next bar's open" in words) is (fill == "next_open")
