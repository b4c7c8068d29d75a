"""Margin, funding and liquidation, by hand-computed figures of Binance's published formulas."""

from decimal import Decimal as D

import pytest

from qmtl.core.event import FundingPaid, OrderRejected, Transferred
from qmtl.core.order import PositionSide
from qmtl.engine.margin import maintenance_margin, standard_brackets
from qmtl.engine.order_filter import VenueRefusalError
from qmtl.engine.settlement import LIQUIDATION_PREFIX
from qmtl.engine.venue_models import VenueModels
from tests.engine.market import NO_FEES, fills, make_bar, make_core, make_order, names, traded


def test_the_standard_ladder_has_the_published_deductions() -> None:
    ladder = standard_brackets()
    assert [bracket.deduction for bracket in ladder[:6]] == [0, 50, 950, 11_450, 131_450, 481_450]
    # Continuous at each step: 600,000 x 0.5 % - 50 = 600,000 x 0.65 % - 950
    assert maintenance_margin(ladder, D(600_000)) == D(2_950)
    assert maintenance_margin(ladder, D(50_000)) == D(200)
    assert [b.max_leverage for b in standard_brackets(D("0.01"))][:4] == [50, 50, 50, 50]


@pytest.mark.parametrize(("rate", "side", "paid"), [("0.0001", "BUY", "-0.6"), ("0.0001", "SELL", "0.6")])
def test_longs_pay_a_positive_rate(rate: str, side: str, paid: str) -> None:
    core = make_core(NO_FEES, price=60_000.0)
    core.submit(make_order("in", side, "0.1"), 1)
    (event,) = core.on_funding("BTCUSDT", D(rate), 28_800_000)
    # 0.1 x 60,000 x 0.01 %
    assert isinstance(event, FundingPaid)
    assert event.amount == D(paid)
    assert core.account.wallet == D(10_000) + D(paid)
    assert core.on_funding("BTCUSDT", D(0), 57_600_000, mark=61_000.0)[0].amount == 0  # type: ignore[union-attr]
    assert make_core().on_funding("BTCUSDT", D(rate), 1) == []


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        # isolated 10x, entry 60,000, 0.5 BTC = 30,000: margin 3,000, rate 0.4 %, no deduction
        # long: (3,000 - 30,000) / (0.5 x 0.004 - 0.5); short: (3,000 + 30,000) / (0.5 x 0.004 + 0.5)
        ("BUY", D(27_000) / D("0.498")),
        ("SELL", D(33_000) / D("0.502")),
    ],
)
def test_isolated_liquidation_price(side: str, expected: D) -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=10)
    core.submit(make_order("in", side, "0.5"), 1)
    assert core.liquidation_price("BTCUSDT") == expected


def test_cross_liquidation_price_counts_the_wallet_and_the_deduction() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=20, margin_mode="cross")
    core.submit(make_order("in", "BUY", "2"), 1)
    # wallet 10,000, cost 120,000, second step: 0.5 %, deduction 50
    assert core.liquidation_price("BTCUSDT") == (D(10_000) + 50 - 120_000) / (2 * D("0.005") - 2)


def test_hedged_cross_positions_share_one_liquidation_price() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=20, margin_mode="cross", hedge_mode=True)
    core.submit(make_order("l", "BUY", "0.8", position_side=PositionSide.LONG), 1)
    core.submit(make_order("s", "SELL", "0.3", position_side=PositionSide.SHORT), 1)
    # 0.8 x 60,000 and 0.3 x 60,000 stand on the first step: 0.4 %, no deduction
    expected = (D(10_000) - 48_000 + 18_000) / (D("1.1") * D("0.004") - D("0.8") + D("0.3"))
    assert core.liquidation_price("BTCUSDT", PositionSide.LONG) == expected
    assert core.liquidation_price("BTCUSDT", PositionSide.SHORT) == expected


def test_an_isolated_position_loses_its_margin_and_no_more() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=10)
    core.submit(make_order("in", "BUY", "0.5"), 1)
    core.submit(make_order("add", "BUY", "0.1", kind="LIMIT", limit_price=50_000), 1)
    assert core.on_price("BTCUSDT", 54_300.0, 2) == []
    events = core.on_price("BTCUSDT", 54_200.0, 3)
    assert names(events) == ["OrderCanceled", "OrderFilled"]
    (fill,) = fills(events)
    assert fill.client_order_id.startswith(LIQUIDATION_PREFIX)
    # loss 2,900, the clearance fee of 1.25 % (338.75) is bounded by the 100 left
    assert (fill.price, fill.fee) == (D("54200.0"), D(100))
    assert core.account.wallet == D(7_000)


def test_a_gap_beyond_the_margin_is_covered_by_insurance() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=10)
    core.submit(make_order("in", "BUY", "0.5"), 1)
    events = core.on_price("BTCUSDT", 50_000.0, 2)
    assert names(events) == ["OrderFilled", "Transferred"]
    refund = events[-1]
    assert isinstance(refund, Transferred)
    # loss 5,000 against a margin of 3,000
    assert refund.amount == D(2_000)
    assert core.account.wallet == D(7_000)


def test_inside_a_bar_liquidation_comes_at_its_price_and_a_nearer_stop_first() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=10)
    core.submit(make_order("in", "BUY", "0.5"), 1)
    (fill,) = fills(core.on_bar("BTCUSDT", make_bar(1, (60_000, 60_100, 50_000, 59_000)), 120_000))
    assert fill.price == D("54216.8")  # 27,000 / 0.498 = 54,216.867, down to the tick
    assert core.account.wallet == D(7_000)
    saved = make_core(NO_FEES, price=60_000.0, leverage=10)
    saved.submit(make_order("in", "BUY", "0.5"), 1)
    stop = make_order("s", "SELL", "0.5", kind="STOP_MARKET", stop_price=55_000, reduce_only=True)
    saved.submit(stop, 1)
    events = saved.on_bar("BTCUSDT", make_bar(1, (60_000, 60_100, 50_000, 59_000)), 120_000)
    assert traded(events) == [("s", D("0.5"), D(55_000))]


def test_cross_liquidation_leaves_no_debt() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=20, margin_mode="cross")
    core.submit(make_order("in", "SELL", "2"), 1)
    assert core.on_price("BTCUSDT", 64_000.0, 2) == []
    events = core.on_price("BTCUSDT", 70_000.0, 3)
    assert names(events) == ["OrderFilled", "Transferred"]
    assert core.account.wallet == 0


def test_liquidation_watches_the_published_mark() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=10)
    core.on_mark("BTCUSDT", 60_000.0, 1)
    core.submit(make_order("in", "BUY", "0.5"), 1)
    assert core.on_price("BTCUSDT", 50_000.0, 2) == []
    assert names(core.on_mark("BTCUSDT", 54_000.0, 3)) == ["OrderFilled"]
    assert core.account.net_quantity("BTCUSDT") == 0


def test_margin_is_asked_of_what_opens() -> None:
    core = make_core(NO_FEES)
    core.submit(make_order("a", "BUY", "60"), 1)
    assert core.available() == D(4_000)
    core.submit(make_order("rest", "BUY", "30", kind="LIMIT", limit_price=90), 1)
    assert core.available() == D(1_300)
    (refused,) = core.submit(make_order("b", "BUY", "20"), 1)
    assert isinstance(refused, OrderRejected)
    assert refused.reason == "-2019 Margin is insufficient."
    core.cancel("rest", 2)
    # Turning round frees the margin of the 60 it closes: 41 at 100 need more than the 4,000 free.
    assert names(core.submit(make_order("c", "SELL", "101"), 3)) == ["OrderAccepted", "OrderFilled"]
    assert core.account.net_quantity("BTCUSDT") == D(-41)


def test_leverage_bounds_the_position() -> None:
    core = make_core(NO_FEES, price=60_000.0, first_wallet=D(1_000_000))
    core.set_leverage("BTCUSDT", 125)
    (refused,) = core.submit(make_order("a", "BUY", "1"), 1)
    assert getattr(refused, "reason", "").startswith("-2027 ")
    with pytest.raises(VenueRefusalError, match="-4028 Leverage 126 is not valid"):
        core.set_leverage("BTCUSDT", 126)
    core.submit(make_order("b", "BUY", "0.5"), 2)
    with pytest.raises(VenueRefusalError, match="-4161"):
        core.set_leverage("BTCUSDT", 2)
    with pytest.raises(VenueRefusalError, match="-4048"):
        core.set_margin_mode("BTCUSDT", "cross")
    with pytest.raises(VenueRefusalError, match="-4046"):
        core.set_margin_mode("BTCUSDT", "isolated")


def test_added_margin_moves_the_liquidation_price() -> None:
    core = make_core(NO_FEES, price=60_000.0, leverage=10)
    core.submit(make_order("in", "BUY", "0.5"), 1)
    core.add_margin("BTCUSDT", PositionSide.BOTH, D(1_000))
    assert core.liquidation_price("BTCUSDT") == D(26_000) / D("0.498")
    assert core.available() == D(6_000)
    with pytest.raises(VenueRefusalError, match="-4050"):
        core.add_margin("BTCUSDT", PositionSide.BOTH, D(7_000))


def test_cash_mode_sells_what_is_held_and_buys_what_is_paid() -> None:
    core = make_core(VenueModels(), margin_mode="cash")
    short = core.submit(make_order("a", "SELL", "1"), 1)
    assert getattr(short[0], "reason", "").startswith("-2010 ")
    # 100 x 100 is the whole wallet, the fee is not covered
    assert getattr(core.submit(make_order("b", "BUY", "100"), 1)[0], "reason", "").startswith("-2010 ")
    core.submit(make_order("c", "BUY", "50"), 1)
    core.submit(make_order("d", "SELL", "30", kind="LIMIT", limit_price=110), 1)
    assert getattr(core.submit(make_order("e", "SELL", "21"), 1)[0], "reason", "").startswith("-2010 ")
    assert names(core.submit(make_order("f", "SELL", "20"), 1)) == ["OrderAccepted", "OrderFilled"]
    assert core.on_price("BTCUSDT", 1.0, 2) == []
