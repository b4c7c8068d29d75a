"""Spot orders against a price: nothing is sold that is not owned, and nothing is lost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument, list_instrument
from qmtl.core.order import OrderIntent, OrderType, Side, TimeInForce
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.spot_desk import SpotDesk
from qmtl.services.paper_exchange.spot_listing import list_spot
from qmtl.services.paper_exchange.spot_orders import Message, SpotOrder, parse_intent

PAIR: Instrument = list_spot(list_instrument("BTCUSDT", 1, 3))
START = {"BTC": Decimal(1), "USDT": Decimal(100_000)}


class Market:
    def __init__(self) -> None:
        self.price = 50_000.0
        self.desk = SpotDesk({"BTCUSDT": PAIR}, MakerTakerFeeModel(), START, lambda _: self.price)
        self.told: list[Message] = []
        self.move(self.price)

    def move(self, price: float, available: str | None = None) -> None:
        self.price = price
        bound = None if available is None else Decimal(available)
        self.told += self.desk.on_price("BTCUSDT", price, 1_000, bound)

    def place(self, **params: str) -> SpotOrder:
        intent = parse_intent(params, PAIR, self.price)
        order, told = self.desk.submit(intent, params["type"], f"c{len(self.told)}", Decimal(0), 1_000)
        self.told += told
        return order

    def reports(self) -> list[tuple[str, str]]:
        return [(row["x"], row["X"]) for row in self.told if row["e"] == "executionReport"]


def test_a_market_buy_pays_quote_and_its_fee_in_base() -> None:
    market = Market()
    order = market.place(side="BUY", type="MARKET", quantity="0.1")
    assert order.status == "FILLED"
    assert market.desk.account.total("USDT") == Decimal(95_000)
    assert market.desk.account.total("BTC") == Decimal("1.09996")
    assert [trade.fee_asset for trade in market.desk.trades] == ["BTC"]
    assert market.reports() == [("NEW", "NEW"), ("TRADE", "FILLED")]


def test_a_resting_order_locks_what_it_needs_until_it_is_cancelled() -> None:
    market = Market()
    order = market.place(side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.5", price="40000")
    assert market.desk.locked("USDT") == Decimal(20_000)
    market.told += market.desk.cancel(order, 1_000)
    assert (market.desk.locked("USDT"), order.status) == (Decimal(0), "CANCELED")
    with pytest.raises(VenueError, match="-2011"):
        market.desk.cancel(order, 1_000)


def test_a_large_order_fills_in_parts() -> None:
    market = Market()
    market.move(50_000.0, "0.2")
    order = market.place(side="SELL", type="LIMIT", timeInForce="GTC", quantity="0.5", price="49000")
    assert (order.status, order.executed) == ("PARTIALLY_FILLED", Decimal("0.2"))
    market.move(50_100.0, "0.2")
    market.move(50_200.0, "0.2")
    assert (order.status, order.executed) == ("FILLED", Decimal("0.5"))
    fills = [row for row in market.told if row["e"] == "executionReport" and row["x"] == "TRADE"]
    assert [row["l"] for row in fills] == ["0.20000000", "0.20000000", "0.10000000"]


def test_a_stop_loss_sells_when_the_price_falls() -> None:
    market = Market()
    order = market.place(side="SELL", type="STOP_LOSS", quantity="0.5", stopPrice="48000")
    market.move(49_000.0)
    assert order.status == "NEW"
    market.move(47_900.0)
    assert order.status == "FILLED"


@pytest.mark.parametrize(
    ("params", "refusal"),
    [
        ({"side": "SELL", "type": "MARKET", "quantity": "2"}, "-2010 Account has insufficient balance"),
        ({"side": "BUY", "type": "MARKET", "quantity": "3"}, "-2010 Account has insufficient balance"),
        ({"side": "BUY", "type": "MARKET", "quantity": "0.000001"}, "-1013 Filter failure: LOT_SIZE"),
        ({"side": "BUY", "type": "MARKET", "quantity": "0.00001"}, "-1013 Filter failure: NOTIONAL"),
        ({"side": "UP", "type": "MARKET", "quantity": "1"}, "-1117"),
        ({"side": "BUY", "type": "GUESS", "quantity": "1"}, "-1116"),
        ({"side": "BUY", "type": "LIMIT", "quantity": "1", "price": "1"}, "-1102 .*timeInForce"),
        ({"side": "BUY", "type": "MARKET"}, "-1102 .*quantity"),
        ({"side": "BUY", "type": "MARKET", "quantity": "many"}, "-1100 .*quantity"),
        (
            {"side": "BUY", "type": "LIMIT_MAKER", "quantity": "0.1", "price": "50001.123"},
            "-1013 Filter failure: PRICE_FILTER",
        ),
        (
            {"side": "BUY", "type": "LIMIT_MAKER", "quantity": "0.1", "price": "51000"},
            "-2010 .*match and take",
        ),
    ],
)
def test_a_refusal_names_its_reason_and_changes_nothing(params: dict[str, str], refusal: str) -> None:
    market = Market()
    with pytest.raises(VenueError, match=refusal):
        market.place(**params)
    assert market.desk.account.assets == START
    assert market.desk.orders == []


@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(["BUY", "SELL"]),
            st.integers(1, 40_000),
            st.integers(45_000, 55_000),
            st.integers(45_000, 55_000),
            st.sampled_from([None, "0", "0.03", "1"]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_every_trade_moves_both_assets_and_nothing_else_does(
    moves: list[tuple[str, int, int, int, str | None, bool]],
) -> None:
    market = Market()
    desk = market.desk
    refused = set()
    for number, (side, lots, limit, price, available, is_cancelled) in enumerate(moves):
        intent = OrderIntent(
            symbol="BTCUSDT",
            side=Side(side),
            quantity=PAIR.lot_size * lots,
            type=OrderType.LIMIT,
            limit_price=Decimal(limit),
            time_in_force=TimeInForce.GTC,
        )
        try:
            order, _ = desk.submit(intent, "LIMIT", f"c{number}", Decimal(0), number)
        except VenueError as error:
            refused.add(error.code)
        else:
            if is_cancelled and order.is_open:
                desk.cancel(order, number)
        market.move(float(price), available)
        for asset in ("BTC", "USDT"):
            assert desk.free(asset) >= 0
    assert refused <= {-2010}
    base = START["BTC"] + sum(t.quantity if t.side is Side.BUY else -t.quantity for t in desk.trades)
    quote = START["USDT"] - sum(
        t.price * t.quantity if t.side is Side.BUY else -t.price * t.quantity for t in desk.trades
    )
    fees = {asset: sum(t.fee for t in desk.trades if t.fee_asset == asset) for asset in ("BTC", "USDT")}
    assert desk.account.total("BTC") == base - fees["BTC"]
    assert desk.account.total("USDT") == quote - fees["USDT"]
    assert sum(t.quantity for t in desk.trades) == sum(o.executed for o in desk.orders)
