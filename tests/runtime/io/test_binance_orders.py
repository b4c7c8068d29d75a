"""Engine orders as the parameters Binance documents; the names are those of ccxt and of the official SDK."""

import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import ccxt
import pytest
from binance_sdk_derivatives_trading_usds_futures.rest_api.api import TradeApi

from qmtl.core.order import (
    Order,
    OrderIntent,
    OrderType,
    OrderValidationError,
    PositionSide,
    Side,
    TimeInForce,
    WorkingType,
)
from qmtl.runtime.io.binance_orders import OrderRequest, dump_order, dump_order_key, is_conditional

CREATED_MS = 1_700_000_000_000


def make(**fields: Any) -> Order:
    intent = OrderIntent(**{"symbol": "BTCUSDT", "side": Side.BUY, "quantity": Decimal("0.010"), **fields})
    return Order(client_order_id="q1", intent=intent, ordinal=1, created_ms=CREATED_MS, updated_ms=CREATED_MS)


def test_market_and_limit() -> None:
    assert dump_order(make()) == OrderRequest(
        "/fapi/v1/order",
        "order.place",
        {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01", "newClientOrderId": "q1"},
    )
    limit = dump_order(make(type=OrderType.LIMIT, limit_price=Decimal("60000.10"), reduce_only=True)).params
    assert limit == {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "quantity": "0.01",
        "price": "60000.1",
        "timeInForce": "GTC",
        "reduceOnly": "true",
        "newClientOrderId": "q1",
    }


def test_a_protective_stop() -> None:
    stop = make(
        side=Side.SELL,
        type=OrderType.STOP_MARKET,
        stop_price=Decimal("58000.0"),
        close_position=True,
        reduce_only=True,
        working_type=WorkingType.MARK_PRICE,
    )
    request = dump_order(stop)
    assert is_conditional(stop)
    assert (request.path, request.method, request.is_algo) == ("/fapi/v1/algoOrder", "algoOrder.place", True)
    # The venue refuses quantity and reduceOnly beside closePosition (-4137, -1106).
    assert request.params == {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "type": "STOP_MARKET",
        "algoType": "CONDITIONAL",
        "clientAlgoId": "q1",
        "workingType": "MARK_PRICE",
        "closePosition": "true",
        "triggerPrice": "58000",
    }
    assert dump_order_key(stop).params == {"clientAlgoId": "q1"}


def test_times_in_force() -> None:
    def tif(**fields: Any) -> dict[str, str]:
        params = dump_order(make(type=OrderType.LIMIT, limit_price=Decimal(1), **fields)).params
        return {name: params[name] for name in ("timeInForce", "goodTillDate") if name in params}

    assert tif(time_in_force=TimeInForce.GTX) == {"timeInForce": "GTX"}
    until = tif(time_in_force=TimeInForce.GTD, expire_ms=1_700_003_600_999)
    assert until == {"timeInForce": "GTD", "goodTillDate": "1700003600000"}
    assert tif(time_in_force=TimeInForce.DAY) == {"timeInForce": "GTD", "goodTillDate": "1700006400000"}


def test_hedge_mode_says_by_its_side_that_it_closes() -> None:
    closing = make(side=Side.SELL, position_side=PositionSide.LONG, reduce_only=True)
    params = dump_order(closing).params
    assert params["positionSide"] == "LONG"
    assert "reduceOnly" not in params


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"type": OrderType.LIMIT}, "limit_price"),
        ({"type": OrderType.STOP, "limit_price": Decimal(1)}, "stop_price"),
        ({"type": OrderType.TRAILING_STOP_MARKET}, "callback_rate"),
        (
            {"type": OrderType.LIMIT, "limit_price": Decimal(1), "time_in_force": TimeInForce.GTD},
            "expire_ms",
        ),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(OrderValidationError, match=name):
        dump_order(make(**fields))


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


EVERY_TYPE = [
    {"type": OrderType.STOP, "limit_price": Decimal(1), "stop_price": Decimal(2)},
    {"type": OrderType.TAKE_PROFIT, "limit_price": Decimal(1), "stop_price": Decimal(2), "reduce_only": True},
    {"type": OrderType.TAKE_PROFIT_MARKET, "stop_price": Decimal(2), "close_position": True},
    {
        "type": OrderType.TRAILING_STOP_MARKET,
        "callback_rate": Decimal("0.5"),
        "activation_price": Decimal(2),
        "position_side": PositionSide.SHORT,
    },
    {
        "type": OrderType.STOP,
        "limit_price": Decimal(1),
        "stop_price": Decimal(2),
        "time_in_force": TimeInForce.GTD,
        "expire_ms": CREATED_MS,
    },
]


@pytest.mark.parametrize("fields", EVERY_TYPE)
def test_the_official_sdk_knows_every_name(fields: dict[str, Any]) -> None:
    known = {camel(name) for name in inspect.signature(TradeApi.new_algo_order).parameters}
    assert set(dump_order(make(**fields)).params) <= known
    plain = {camel(name) for name in inspect.signature(TradeApi.new_order).parameters}
    assert set(dump_order(make(type=OrderType.LIMIT, limit_price=Decimal(1))).params) <= plain


@pytest.mark.recorded
def test_ccxt_sends_the_same_fields(recorded_file: Callable[[str], Any]) -> None:
    import json

    body = json.loads(recorded_file("recordings/binance_rest/binance_http.json").read_bytes())
    info = body["routes"]["/fapi/v1/exchangeInfo"]["GET"][0]["data"]
    exchange = ccxt.binanceusdm({"apiKey": "k", "secret": "s"})
    wanted = [row for row in info["symbols"] if row["symbol"] == "BTCUSDT"]
    exchange.set_markets([exchange.parse_market(row) for row in wanted])
    theirs = exchange.create_order_request(
        "BTC/USDT:USDT",
        "STOP_MARKET",
        "sell",
        0.01,
        None,
        {"stopPrice": 58000, "isAlgoOrder": True, "clientOrderId": "q1", "reduceOnly": True},
    )
    ours = dump_order(
        make(side=Side.SELL, type=OrderType.STOP_MARKET, stop_price=Decimal(58000), reduce_only=True)
    ).params
    # What ccxt's createOrder adds and what is our choice aside.
    extra = {"algoType", "workingType"}
    assert set(ours) - extra == set(theirs) - {"newOrderRespType"}
    assert {name: float(ours[name]) for name in ("quantity", "triggerPrice")} == {
        name: float(theirs[name]) for name in ("quantity", "triggerPrice")
    }
