"""The one normal form of orders, and the ids they leave under."""

import math
import re
from decimal import Decimal
from typing import Any

import pytest

from qmtl.core.order import OrderIntent, OrderValidationError, Side
from qmtl.core.order_payload import mint_client_order_id, to_broker_order

BASE = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"type": "market", "side": "BUY", "quantity": 1}),
        ({"price": 5}, {"type": "limit", "limit_price": 5}),
        ({"limit_price": 5, "type": "LIMIT"}, {"type": "limit", "limit_price": 5}),
        ({"type": "market", "limit_price": 5}, {"type": "market", "limit_price": None}),
        ({"type": "stop", "stop_price": "5"}, {"type": "stop", "stop_price": "5"}),
        ({"type": "stop_limit", "stop_price": 5, "price": 4}, {"limit_price": 4, "stop_price": 5}),
        ({"quantity": None, "amount": 2}, {"quantity": 2, "amount": None}),
        ({"amount": 1}, {"quantity": 1, "amount": None}),
        ({"side": "SELL", "quantity": -1}, {"quantity": 1, "side": "SELL"}),
        ({"side": "sell", "quantity": "-1.50"}, {"quantity": "1.5"}),
        ({"tif": "gtx", "price": 5}, {"time_in_force": "GTX"}),
        ({"tif": "GTD", "price": 5, "expire_at": 9}, {"time_in_force": "GTD", "expire_at": 9}),
        ({"reduceOnly": True}, {"reduce_only": True}),
        ({"reduce_only": False}, {"reduce_only": None}),
        ({"positionSide": "long"}, {"position_side": "LONG"}),
        ({"leverage": 3}, {"leverage": 3}),
        ({"leverage": 3.0}, {"leverage": 3}),
        ({"newClientOrderId": "a-B_9"}, {"client_order_id": "a-B_9"}),
        ({"clientOrderId": "x" * 36}, {"client_order_id": "x" * 36}),
        ({"timestamp": 17, "custom": "kept"}, {"timestamp": 17, "custom": "kept"}),
        ({"world_id": "w", "strategy_id": "s", "leg": 1}, {"world_id": None, "strategy_id": None}),
    ],
)
def test_mapping(given: dict[str, Any], expected: dict[str, Any]) -> None:
    order = {**BASE, **given}
    before = dict(order)
    result = to_broker_order(order)
    assert {name: result.get(name) for name in expected} == expected
    assert to_broker_order(result) == result
    assert order == before


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"symbol": " "}, "symbol"),
        ({"symbol": None}, "symbol"),
        ({"side": None}, "side"),
        ({"side": "hold"}, "side"),
        ({"side": 1}, "side"),
        ({"quantity": None}, "quantity"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": math.nan}, "quantity"),
        ({"quantity": math.inf}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"quantity": "one"}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"amount": 2}, "quantity"),
        ({"type": "iceberg"}, "type"),
        ({"type": 3}, "type"),
        ({"type": "limit"}, "limit_price"),
        ({"type": "stop"}, "stop_price"),
        ({"type": "stop_limit", "stop_price": 5}, "limit_price"),
        ({"price": 0}, "limit_price"),
        ({"price": -1}, "limit_price"),
        ({"price": math.nan}, "limit_price"),
        ({"type": "stop", "stop_price": True}, "stop_price"),
        ({"tif": "FOREVER"}, "time_in_force"),
        ({"tif": "GTD", "price": 5}, "expire_at"),
        ({"reduce_only": "true"}, "reduce_only"),
        ({"reduce_only": 1}, "reduce_only"),
        ({"position_side": "UP"}, "position_side"),
        ({"leverage": 2.9}, "leverage"),
        ({"leverage": 0}, "leverage"),
        ({"leverage": True}, "leverage"),
        ({"client_order_id": "a" * 37}, "client_order_id"),
        ({"client_order_id": ""}, "client_order_id"),
        ({"client_order_id": "ä"}, "client_order_id"),
        ({"client_order_id": "a\n"}, "client_order_id"),
        ({"client_order_id": 7}, "client_order_id"),
        ({"price": 5, "limit_price": 6}, "limit_price"),
        ({"venue": "kraken"}, "venue"),
        ({"hedge_mode": True}, "hedge_mode"),
    ],
)
def test_bad_orders_name_the_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(OrderValidationError, match=f"^{field}: "):
        to_broker_order({**BASE, **given}, venue="binance", hedge_mode=False)


def intent(bar: int = 1, quantity: str = "1") -> OrderIntent:
    return OrderIntent(symbol="BTCUSDT", side=Side.BUY, quantity=Decimal(quantity), bar_ms=bar)


def test_minted_ids_look_alike_and_fit_every_venue() -> None:
    minted = mint_client_order_id("e", "w", "s", 1, intent())
    assert re.fullmatch(r"q[a-z2-7]{26}", minted)
    assert minted == mint_client_order_id("e", "w", "s", 1, intent())


def test_equal_intents_differ_by_ordinal_and_every_field_counts() -> None:
    ids = {
        mint_client_order_id(*where, ordinal, what)
        for where in (("e", "w", "s"), ("e", "w", "t"), ("e", "v", "s"), ("f", "w", "s"), ("ew", "", "s"))
        for ordinal in (1, 2, 11)
        for what in (intent(), intent(bar=2), intent(quantity="1.0"), intent(quantity="11"))
    }
    assert len(ids) == 5 * 3 * 4


def test_another_epoch_never_mints_an_old_id() -> None:
    old = {mint_client_order_id("first", "w", "s", n, intent(n // 3)) for n in range(10_000)}
    new = {mint_client_order_id("second", "w", "s", n, intent(n // 3)) for n in range(10_000)}
    assert len(old) == len(new) == 10_000
    assert not old & new
