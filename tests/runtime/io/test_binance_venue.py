"""One venue order per intent, whatever happens on the way (connectors.md §2, trader.md §7)."""

import asyncio
from decimal import Decimal

import pytest

from qmtl.core.event import (
    AccountReconciled,
    CancelRejected,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderUnsettled,
    Transferred,
)
from qmtl.core.money import parse_decimal
from qmtl.core.order import Order, OrderStatus, OrderType, Role, Side, TimeInForce, WorkingType
from qmtl.runtime.io.binance_order_socket import BinanceOrderSocket
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.conftest import Room

ORDER = "POST /fapi/v1/order"
LOOKUP = "GET /fapi/v1/order"


def kinds(events: object) -> list[type]:
    assert isinstance(events, tuple | list)
    return [type(event) for event in events]


async def limit(room: Room, key: str, *, away: float = 0.9) -> Order:
    """A buy that rests `away` from the market."""
    price = parse_decimal(round(room.paper.exchange.markets["BTCUSDT"].last_price * away), "price")
    return room.make_order(key, type=OrderType.LIMIT, limit_price=price)


async def test_an_order_is_accepted_and_its_fills_come_by_asking(room: Room) -> None:
    await room.step()
    order = room.make_order("q1")
    (accepted,) = await room.venue.submit(order)
    assert isinstance(accepted, OrderAccepted)
    again, fill, stated = await room.venue.reconcile(0, [order])
    assert isinstance(again, OrderAccepted)
    assert isinstance(fill, OrderFilled)
    assert (fill.client_order_id, fill.quantity) == ("q1", Decimal("0.01"))
    assert isinstance(stated, AccountReconciled)
    assert stated.positions[0].quantity == Decimal("0.01")


async def test_a_refusal_is_a_rejection_with_its_reason(room: Room) -> None:
    await room.step()
    (rejected,) = await room.venue.submit(room.make_order("q1", quantity="0.0000001"))
    assert isinstance(rejected, OrderRejected)
    assert rejected.reason.startswith("-")
    bad = room.make_order("q2", type=OrderType.LIMIT)
    (rejected,) = await room.venue.submit(bad)
    assert isinstance(rejected, OrderRejected)
    assert "limit_price" in rejected.reason
    assert room.at_venue() == []


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.LOST_ANSWER])
async def test_accepted_then_dropped_is_one_order(room: Room, kind: FaultKind) -> None:
    await room.step()
    room.fault(kind, ORDER, times=1)
    news = await room.venue.submit(await limit(room, "q1"))
    assert kinds(news) == [OrderAccepted]
    assert room.at_venue() == ["q1"]


async def test_accepted_filled_and_dropped_tells_the_fill(room: Room) -> None:
    await room.step()
    room.fault(FaultKind.DROP, ORDER, times=1)
    news = await room.venue.submit(room.make_order("q1"))
    assert kinds(news) == [OrderAccepted, OrderFilled]
    assert room.at_venue() == ["q1"]


async def test_a_request_that_never_arrived_is_sent_again(room: Room) -> None:
    await room.step()
    room.fault(FaultKind.REFUSE, ORDER, times=1)
    news = await room.venue.submit(await limit(room, "q1"))
    assert kinds(news) == [OrderAccepted]
    assert room.at_venue() == ["q1"]


async def test_many_orders_under_faults_are_one_each(room: Room) -> None:
    await room.step()
    for kind in (FaultKind.DROP, FaultKind.LOST_ANSWER, FaultKind.REFUSE):
        room.fault(kind, ORDER, chance=0.15)
    room.fault(FaultKind.STATUS, LOOKUP, chance=0.1)
    names = [f"q{number}" for number in range(40)]
    for name in names:
        await room.venue.submit(await limit(room, name))
    assert sorted(room.at_venue()) == sorted(names)


async def test_unanswered_lookups_leave_the_order_unsettled_until_settled(room: Room) -> None:
    await room.step()
    room.fault(FaultKind.DROP, ORDER, times=1)
    room.fault(FaultKind.STATUS, LOOKUP, times=4)
    order = await limit(room, "q1")
    assert kinds(await room.venue.submit(order)) == [OrderUnsettled]
    assert kinds(await room.venue.settle(order)) == [OrderAccepted]
    lost = room.make_order("q-lost")
    (absent,) = await room.venue.settle(lost)
    assert isinstance(absent, OrderRejected)
    assert absent.reason == "absent"


@pytest.mark.parametrize("status", [429, 418])
async def test_the_venue_is_given_the_pause_it_asks_for(room: Room, status: int) -> None:
    await room.step()
    room.fault(FaultKind.STATUS, ORDER, status=status, seconds=2.0, times=1)
    before = room.clock.real_ms()
    assert kinds(await room.venue.submit(await limit(room, "q1"))) == [OrderAccepted]
    assert room.clock.real_ms() - before >= 2000
    room.fault(FaultKind.STATUS, ORDER, status=status, seconds=90.0, times=1)
    (refused,) = await room.venue.submit(await limit(room, "q2"))
    assert isinstance(refused, OrderRejected)
    assert refused.reason == "not_sent"
    assert room.at_venue() == ["q1"]


async def test_cancels_end_orders_and_tell_the_truth_about_ended_ones(room: Room) -> None:
    await room.step()
    order = await limit(room, "q1")
    await room.venue.submit(order)
    room.fault(FaultKind.STATUS, "DELETE /fapi/v1/order", times=2)
    assert kinds(await room.venue.cancel(order)) == [OrderCanceled]
    assert kinds(await room.venue.cancel(order)) == [OrderAccepted, OrderCanceled]
    filled = room.make_order("q2")
    await room.venue.submit(filled)
    assert kinds(await room.venue.cancel(filled)) == [OrderAccepted, OrderFilled]
    (rejected,) = await room.venue.cancel(room.make_order("q-never"))
    assert isinstance(rejected, CancelRejected)
    room.paper.exchange.faults.clear()
    room.fault(FaultKind.STATUS, "DELETE /fapi/v1/order")
    third = await limit(room, "q3")
    await room.venue.submit(third)
    assert kinds(await room.venue.cancel(third)) == [CancelRejected]


async def test_a_stop_rests_with_the_algo_service_and_its_fill_answers_to_our_id(room: Room) -> None:
    await room.step()
    await room.venue.submit(room.make_order("q-entry"))
    stop = parse_decimal(round(room.paper.exchange.markets["BTCUSDT"].last_price * 0.999), "stop")
    order = room.make_order(
        "q-stop",
        Side.SELL,
        type=OrderType.STOP_MARKET,
        stop_price=stop,
        close_position=True,
        working_type=WorkingType.MARK_PRICE,
        role=Role.PROTECTION,
    )
    assert kinds(await room.venue.submit(order)) == [OrderAccepted]
    (report,) = (await room.venue.account()).orders
    assert (report.client_order_id, report.status, report.close_position) == (
        "q-stop",
        OrderStatus.ACCEPTED,
        True,
    )
    account = room.paper.exchange.accounts["paper"]
    while account.open_algos("BTCUSDT"):
        await room.step(20)
    *events, stated = await room.venue.reconcile(0, room.orders)
    fills = {e.client_order_id: e for e in events if isinstance(e, OrderFilled)}
    assert set(fills) == {"q-entry", "q-stop"}
    assert isinstance(stated, AccountReconciled)
    assert stated.positions == ()
    # A cancel that comes too late says what the order became.
    assert kinds(await room.venue.cancel(order))[-1] is OrderFilled


async def test_reconcile_tells_the_end_of_orders_that_are_gone(room: Room) -> None:
    await room.step()
    order, other = await limit(room, "q1"), await limit(room, "q2")
    for one in (order, other):
        await room.venue.submit(one)
        one.status = OrderStatus.ACCEPTED
    await room.client.cancel_all("BTCUSDT")
    ghost = room.make_order("q-ghost")
    ghost.status = OrderStatus.ACCEPTED
    *events, stated = await room.venue.reconcile(0, [order, other, ghost])
    ends = {e.client_order_id: e.reason for e in events if isinstance(e, OrderCanceled)}
    assert ends == {"q1": "", "q2": "", "q-ghost": "absent"}
    assert isinstance(stated, AccountReconciled)
    assert stated.orders == ()


async def test_funding_is_told_once_by_stream_and_by_history(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = room.paper.exchange.markets["BTCUSDT"]
    monkeypatch.setattr(market, "funding_rate", lambda _time_ms: Decimal("0.0001"))
    await room.listen()
    await room.step()
    await room.venue.submit(room.make_order("q1"))
    since_ms = room.clock.now_ms()
    await room.step(425)
    await room.until(lambda: room.of(FundingPaid))
    events = await room.venue.reconcile(since_ms, room.orders)
    assert [e for e in events if isinstance(e, FundingPaid | Transferred)] == []
    # A process that was away learns it from the history, under the same id.
    fresh = BinanceFuturesVenue(room.client, ["BTCUSDT"])
    (told,) = [e for e in await fresh.reconcile(since_ms, room.orders) if isinstance(e, FundingPaid)]
    (streamed,) = room.of(FundingPaid)
    assert (told.funding_id, told.amount) == (streamed.funding_id, streamed.amount)


async def test_the_socket_places_orders_and_survives_its_loss(room: Room) -> None:
    await room.step()
    socket = BinanceOrderSocket(room.client, f"{room.urls['ws']}/ws-fapi/v1")
    venue = BinanceFuturesVenue(room.client, ["BTCUSDT"], road=socket)
    try:
        assert kinds(await venue.submit(await limit(room, "q1"))) == [OrderAccepted]
        order = await limit(room, "q2")
        bad = room.make_order("q3", quantity="0.0000001")
        assert kinds(await venue.submit(bad)) == [OrderRejected]
        assert socket._socket is not None
        await socket._socket.close()
        assert kinds(await venue.submit(order)) == [OrderAccepted]
        assert room.at_venue() == ["q1", "q2"]
        assert kinds(await venue.cancel(order)) == [OrderCanceled]
        assert kinds(await venue.cancel(order)) == [OrderAccepted, OrderCanceled]
        stop = room.make_order(
            "q4", Side.SELL, type=OrderType.STOP_MARKET, stop_price=Decimal(1000), close_position=True
        )
        assert kinds(await venue.submit(stop)) == [OrderAccepted]
        assert kinds(await venue.cancel(stop)) == [OrderCanceled]
        lost = room.fault(FaultKind.DROP, "WS order.place", times=1)
        assert kinds(await venue.submit(await limit(room, "q5"))) == [OrderAccepted]
        assert room.at_venue() == ["q1", "q2", "q5", "q4"]
        assert lost.hits == 1
    finally:
        await socket.aclose()


async def test_post_only_orders_that_would_take_end_by_the_stream(room: Room) -> None:
    await room.listen()
    await room.step()
    order = await limit(room, "q1", away=1.05)
    order.intent = type(order.intent)(
        symbol="BTCUSDT",
        side=Side.BUY,
        quantity=Decimal("0.01"),
        type=OrderType.LIMIT,
        limit_price=order.intent.limit_price,
        time_in_force=TimeInForce.GTX,
    )
    news = await room.venue.submit(order)
    assert kinds(news)[0] in {OrderAccepted, OrderRejected}
    assert (await room.venue.account()).positions == ()


async def test_no_order_is_signed_beyond_the_domain(room: Room) -> None:
    await room.step()
    venue = BinanceFuturesVenue(room.client, ["BTCUSDT"], domain="dryrun")
    (refused,) = await venue.submit(await limit(room, "q1"))
    assert isinstance(refused, OrderRejected)
    assert refused.reason == "domain_violation"
    assert await room.client.verify_reach() == "sandbox"
    assert kinds(await venue.submit(await limit(room, "q2"))) == [OrderAccepted]
    assert room.at_venue() == ["q2"]


@pytest.mark.parametrize("fault", [FaultKind.STATUS, FaultKind.REFUSE])
async def test_an_order_that_waits_for_its_turn_is_not_sent_once_it_is_banned(
    room: Room, fault: FaultKind
) -> None:
    """A halt must hold for orders that the venue itself keeps waiting (operations.md §4)."""
    await room.step()
    bans: list[str] = []
    venue = BinanceFuturesVenue(room.client, ["BTCUSDT"], find_ban=lambda _: bans[0] if bans else "")
    rule = room.fault(fault, ORDER, status=429, seconds=20.0, times=1)
    sending = asyncio.create_task(venue.submit(await limit(room, "q1")))
    await room.until(lambda: rule.hits)
    bans.append("halted before it was sent")
    (refused,) = await sending
    assert isinstance(refused, OrderRejected)
    assert refused.reason == "halted before it was sent"
    bans.clear()
    assert kinds(await venue.submit(await limit(room, "q2"))) == [OrderAccepted]
    assert room.at_venue() == ["q2"]
