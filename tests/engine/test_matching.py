"""Orders against single prices: each type, each time in force, each refusal."""

from collections.abc import Sequence
from decimal import Decimal as D

import pytest

from qmtl.core.event import AnyEvent, OrderRejected
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.interval import DAY_MS
from qmtl.core.order import Order, PositionSide, TimeInForce, WorkingType
from qmtl.engine.order_filter import VenueRefusalError
from qmtl.engine.venue_models import TickSlippage, VenueModels
from tests.engine.market import NO_FEES, fills, make_core, make_order, names, traded

GTC, IOC, FOK, GTX = TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTX


def reason(events: Sequence[AnyEvent]) -> str:
    (event,) = events
    assert type(event) is OrderRejected
    return event.reason


def test_a_market_order_takes_the_last_price_and_pays_the_taker_fee() -> None:
    core = make_core(VenueModels(), price=60_000.0)
    events = core.submit(make_order("a", "BUY", "0.010"), 5)
    assert names(events) == ["OrderAccepted", "OrderFilled"]
    (fill,) = fills(events)
    # 0.010 x 60,000 x 0.04 %
    assert (fill.price, fill.fee, fill.fee_asset, fill.is_maker) == (D(60_000), D("0.24"), "USDT", False)
    assert core.account.wallet == D("9999.76")


def test_a_resting_limit_is_a_maker_at_its_price_whatever_the_tick() -> None:
    core = make_core(VenueModels(fees=MakerTakerFeeModel(D("0.0002"), D("0.0004"))))
    assert names(core.submit(make_order("a", "BUY", "1", kind="LIMIT", limit_price=99), 1)) == [
        "OrderAccepted"
    ]
    assert core.on_price("BTCUSDT", 99.1, 2) == []
    (fill,) = fills(core.on_price("BTCUSDT", 98.0, 3))
    assert (fill.price, fill.fee, fill.is_maker) == (D(99), D("0.0198"), True)
    assert core.open_orders() == []


def test_through_fills_only_beyond_the_limit() -> None:
    core = make_core(VenueModels(fees=MakerTakerFeeModel(D(0), D(0)), limit_fill="through"))
    core.submit(make_order("a", "BUY", "1", kind="LIMIT", limit_price=99), 1)
    assert core.on_price("BTCUSDT", 99.0, 2) == []
    assert traded(core.on_price("BTCUSDT", 98.9, 3)) == [("a", D(1), D(99))]


def test_a_marketable_limit_takes_at_the_market_and_slips_no_further_than_its_limit() -> None:
    core = make_core(VenueModels(slippage=TickSlippage(10)))
    wide = core.submit(make_order("a", "BUY", "1", kind="LIMIT", limit_price=105), 1)
    tight = core.submit(make_order("b", "BUY", "1", kind="LIMIT", limit_price="100.3"), 1)
    assert [fill.price for fill in fills(wide + tight)] == [D("101.0"), D("100.3")]
    assert not any(fill.is_maker for fill in fills(wide + tight))


def test_partial_fills_follow_what_is_available() -> None:
    core = make_core()
    core.submit(make_order("a", "SELL", "3", kind="LIMIT", limit_price=101), 1)
    assert traded(core.on_price("BTCUSDT", 101.0, 2, available=D(1))) == [("a", D(1), D(101))]
    order = core.find_order("a")
    assert order is not None
    assert (order.filled, order.remaining) == (D(1), D(2))
    assert names(core.cancel("a", 3)) == ["OrderCanceled"]
    # A partial fill then cancel leaves the filled quantity.
    assert core.account.net_quantity("BTCUSDT") == D(-1)
    assert core.on_price("BTCUSDT", 105.0, 4) == []


def test_orders_share_what_is_available() -> None:
    core = make_core()
    for cid in ("a", "b"):
        core.submit(make_order(cid, "SELL", "2", kind="LIMIT", limit_price=101), 1)
    assert traded(core.on_price("BTCUSDT", 101.0, 2, available=D(3))) == [
        ("a", D(2), D(101)),
        ("b", D(1), D(101)),
    ]


def test_a_large_market_order_goes_on_at_the_next_prices() -> None:
    core = make_core()
    core.on_price("BTCUSDT", 100.0, 1, available=D(2))
    assert traded(core.submit(make_order("a", "BUY", "3"), 1)) == [("a", D(2), D(100))]
    assert traded(core.on_price("BTCUSDT", 101.0, 2, available=D(2))) == [("a", D(1), D(101))]


def test_time_in_force() -> None:
    core = make_core()
    core.on_price("BTCUSDT", 100.0, 1, available=D(1))
    ioc = core.submit(make_order("ioc", "BUY", "3", kind="LIMIT", limit_price=101, time_in_force=IOC), 1)
    assert names(ioc) == ["OrderAccepted", "OrderFilled", "OrderExpired"]
    core.on_price("BTCUSDT", 100.0, 1, available=D(1))
    fok = core.submit(make_order("fok", "BUY", "2", kind="LIMIT", limit_price=101, time_in_force=FOK), 1)
    assert reason(fok).startswith("-5021 ")
    gtx = core.submit(make_order("gtx", "BUY", "1", kind="LIMIT", limit_price=100, time_in_force=GTX), 1)
    assert reason(gtx).startswith("-5022 Due to the order could not be executed as maker")
    rests = core.submit(make_order("gtx2", "BUY", "1", kind="LIMIT", limit_price=99, time_in_force=GTX), 1)
    assert names(rests) == ["OrderAccepted"]
    far = core.submit(make_order("ioc2", "BUY", "1", kind="LIMIT", limit_price=90, time_in_force=IOC), 1)
    assert names(far) == ["OrderAccepted", "OrderExpired"]


def test_day_and_good_till_date_end_before_they_trade() -> None:
    core = make_core()
    day = make_order("day", "BUY", "1", kind="LIMIT", limit_price=99, time_in_force=TimeInForce.DAY)
    core.submit(day, 5)
    till = make_order(
        "gtd", "BUY", "1", kind="LIMIT", limit_price=99, time_in_force=TimeInForce.GTD, expire_ms=700_000
    )
    core.submit(till, 5)
    assert core.on_price("BTCUSDT", 99.5, 699_999) == []
    expired = core.on_price("BTCUSDT", 98.0, 700_000)
    assert names(expired) == ["OrderExpired", "OrderFilled"]
    assert expired[0].client_order_id == "gtd"  # type: ignore[union-attr]
    again = make_order("day2", "BUY", "1", kind="LIMIT", limit_price=90, time_in_force=TimeInForce.DAY)
    core.submit(again, 5)
    assert core.on_time(DAY_MS - 1) == []
    assert names(core.on_time(DAY_MS)) == ["OrderExpired"]


@pytest.mark.parametrize(
    ("kind", "side", "stop", "quiet", "hit"),
    [
        ("STOP_MARKET", "SELL", 95, 95.1, 94.0),
        ("STOP_MARKET", "BUY", 105, 104.9, 106.0),
        ("TAKE_PROFIT_MARKET", "SELL", 105, 104.9, 106.0),
        ("TAKE_PROFIT_MARKET", "BUY", 95, 95.1, 94.0),
    ],
)
def test_conditional_orders_trigger_once_and_trade_at_the_tick(
    kind: str, side: str, stop: int, quiet: float, hit: float
) -> None:
    core = make_core()
    assert names(core.submit(make_order("a", side, "1", kind=kind, stop_price=stop), 1)) == ["OrderAccepted"]
    assert core.on_price("BTCUSDT", quiet, 2) == []
    assert traded(core.on_price("BTCUSDT", hit, 3)) == [("a", D(1), D(str(hit)))]
    assert core.on_price("BTCUSDT", hit, 4) == []
    late = make_order("b", side, "1", kind=kind, stop_price=stop)
    assert reason(core.submit(late, 5)) == "-2021 Order would immediately trigger."


def test_a_triggered_stop_limit_rests_at_its_limit() -> None:
    core = make_core()
    core.submit(make_order("a", "SELL", "1", kind="STOP", stop_price=95, limit_price=94), 1)
    assert core.on_price("BTCUSDT", 93.0, 2) == []
    order = core.find_order("a")
    assert order is not None
    assert order.is_triggered
    assert traded(core.on_price("BTCUSDT", 94.0, 3)) == [("a", D(1), D(94))]


def test_a_mark_price_stop_ignores_the_last_price() -> None:
    core = make_core()
    core.on_mark("BTCUSDT", 100.0, 1)
    stop = make_order(
        "a", "SELL", "1", kind="STOP_MARKET", stop_price=95, working_type=WorkingType.MARK_PRICE
    )
    core.submit(stop, 1)
    assert core.on_price("BTCUSDT", 94.0, 2) == []
    assert traded(core.on_mark("BTCUSDT", 95.0, 3)) == [("a", D(1), D("94.0"))]


def test_a_trailing_stop_follows_the_best_price_once_active() -> None:
    core = make_core()
    core.submit(make_order("in", "BUY", "1"), 1)
    trail = make_order(
        "t", "SELL", "1", kind="TRAILING_STOP_MARKET", callback_rate=1, activation_price=105, reduce_only=True
    )
    core.submit(trail, 1)
    for price in (103.0, 101.0, 105.0, 110.0, 109.0):
        assert core.on_price("BTCUSDT", price, 2) == []
    order = core.find_order("t")
    assert order is not None
    assert order.stop_price == D("108.90")
    assert traded(core.on_price("BTCUSDT", 108.8, 3)) == [("t", D(1), D("108.8"))]


def test_one_closing_sale_never_books_a_short() -> None:
    core = make_core()
    core.submit(make_order("in", "BUY", "1"), 1)
    events = core.submit(make_order("out", "SELL", "5", reduce_only=True), 2)
    assert names(events) == ["OrderAccepted", "OrderFilled", "OrderExpired"]
    assert core.account.net_quantity("BTCUSDT") == 0
    assert reason(core.submit(make_order("again", "SELL", "1", reduce_only=True), 3)) == (
        "-2022 ReduceOnly Order is rejected."
    )


def test_resting_reduce_only_orders_end_with_the_position() -> None:
    core = make_core()
    core.submit(make_order("in", "BUY", "1"), 1)
    core.submit(make_order("target", "SELL", "1", kind="LIMIT", limit_price=110, reduce_only=True), 2)
    out = core.submit(make_order("out", "SELL", "1", reduce_only=True), 3)
    assert names(out) == ["OrderAccepted", "OrderFilled", "OrderExpired"]
    assert core.open_orders() == []


def test_close_position_closes_what_is_open_when_it_triggers() -> None:
    core = make_core()
    core.submit(make_order("in", "BUY", "1"), 1)
    core.submit(make_order("stop", "SELL", "0", kind="STOP_MARKET", stop_price=95, close_position=True), 2)
    core.submit(make_order("more", "BUY", "2"), 3)
    assert traded(core.on_price("BTCUSDT", 94.0, 4)) == [("stop", D(3), D("94.0"))]
    core.submit(make_order("stop2", "SELL", "0", kind="STOP_MARKET", stop_price=90, close_position=True), 5)
    assert names(core.on_price("BTCUSDT", 89.0, 6)) == ["OrderExpired"]


def test_hedge_mode_keeps_two_positions() -> None:
    core = make_core(hedge_mode=True)
    long, short = PositionSide.LONG, PositionSide.SHORT
    core.submit(make_order("l", "BUY", "2", position_side=long), 1)
    core.submit(make_order("s", "SELL", "1", position_side=short), 1)
    assert core.account.position("BTCUSDT", long).quantity == 2
    assert core.account.position("BTCUSDT", short).quantity == -1
    assert reason(core.submit(make_order("x", "SELL", "3", position_side=long), 2)).startswith("-2022")
    assert reason(core.submit(make_order("y", "BUY", "1"), 2)).startswith("-4061")
    core.submit(make_order("c", "SELL", "2", position_side=long), 3)
    assert core.account.position("BTCUSDT", long).is_flat
    with pytest.raises(VenueRefusalError, match="-4068"):
        core.set_hedge_mode(is_hedged=False)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (make_order("a", "BUY", "0"), "-4003"),
        (make_order("a", "BUY", "0.0005"), "-1111"),
        (make_order("a", "BUY", "121"), "-4005"),
        (make_order("a", "BUY", "0.001", kind="LIMIT", limit_price=99), "-4164"),
        (make_order("a", "BUY", "1", kind="LIMIT", limit_price="99.05"), "-1111"),
        (make_order("a", "BUY", "1", kind="LIMIT"), "-1102"),
        (make_order("a", "BUY", "1", kind="STOP_MARKET"), "-1102"),
        (make_order("a", "BUY", "1", kind="LIMIT", limit_price=-1), "-4001"),
        (make_order("a", "SELL", "1", kind="TRAILING_STOP_MARKET", callback_rate=11), "-2007"),
        (make_order("a", "BUY", "1", kind="LIMIT", limit_price=99, close_position=True), "-4136"),
        (make_order("a", "BUY", "1", position_side=PositionSide.LONG), "-4061"),
        (make_order("a", "BUY", "101"), "-2019"),
        (make_order("a", "SELL", "1", reduce_only=True), "-2022"),
    ],
)
def test_refusals_name_binance_codes_and_change_nothing(order: Order, code: str) -> None:
    core = make_core(NO_FEES)
    assert reason(core.submit(order, 1)).split(" ")[0] == code
    assert core.open_orders() == []
    assert core.account.wallet == D(10_000)


def test_ids_and_symbols() -> None:
    core = make_core()
    order = make_order("a", "BUY", "1", kind="LIMIT", limit_price=99)
    core.submit(order, 1)
    assert reason(core.submit(order, 2)) == "-4116 ClientOrderId is duplicated."
    (unknown,) = core.cancel("nobody", 3)
    assert getattr(unknown, "reason", "") == "-2011 Unknown order sent."
    with pytest.raises(VenueRefusalError, match="-1121 Invalid symbol"):
        core.on_price("DOGEUSDT", 1.0, 4)
    assert reason(make_core(price=None).submit(make_order("b", "BUY", "1"), 1)) == "-2020 Unable to fill."
