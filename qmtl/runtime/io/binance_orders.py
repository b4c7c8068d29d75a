"""An engine order as the parameters of Binance USDT-M's order endpoints.

LIMIT and MARKET go to `POST /fapi/v1/order`; every order with a trigger goes to `POST /fapi/v1/algoOrder`
since 2025-12-09. The same parameters serve the WebSocket order API. Source:
https://developers.binance.com/docs/derivatives/usds-margined-futures/trade/rest-api.
"""

from decimal import Decimal

import msgspec

from qmtl.core.interval import DAY_MS
from qmtl.core.money import dump_decimal
from qmtl.core.order import (
    Order,
    OrderIntent,
    OrderType,
    OrderValidationError,
    PositionSide,
    Side,
    TimeInForce,
)

CONDITIONAL_TYPES = frozenset(OrderType) - {OrderType.LIMIT, OrderType.MARKET}
_WITH_LIMIT = frozenset({OrderType.LIMIT, OrderType.STOP, OrderType.TAKE_PROFIT})
Params = dict[str, str]


class OrderRequest(msgspec.Struct, frozen=True):
    """One order as the venue wants it: REST path, WebSocket method, parameters before signing."""

    path: str
    method: str
    params: Params

    @property
    def is_algo(self) -> bool:
        """Tell whether the Algo service owns the order."""
        return self.path.endswith("algoOrder")


def is_conditional(order: Order) -> bool:
    """Tell whether the order waits for a trigger, so that the Algo endpoints own it."""
    return order.intent.type in CONDITIONAL_TYPES


def dump_order(order: Order) -> OrderRequest:
    """Return the request that places `order`; OrderValidationError names the field that is missing."""
    intent = order.intent
    params: Params = {"symbol": intent.symbol, "side": intent.side.value, "type": intent.type.value}
    if intent.position_side is not PositionSide.BOTH:
        params["positionSide"] = intent.position_side.value
    if not intent.close_position:
        params["quantity"] = dump_decimal(intent.quantity)
    if intent.type in _WITH_LIMIT:
        params["price"] = _price(intent.limit_price, "limit_price", intent.type)
        _add_time_in_force(params, order)
    if intent.reduce_only and not intent.close_position and not _is_hedge_close(intent):
        params["reduceOnly"] = "true"
    if intent.type not in CONDITIONAL_TYPES:
        params["newClientOrderId"] = order.client_order_id
        return OrderRequest("/fapi/v1/order", "order.place", params)
    params["algoType"] = "CONDITIONAL"
    params["clientAlgoId"] = order.client_order_id
    params["workingType"] = intent.working_type.value
    if intent.close_position:
        params["closePosition"] = "true"
    if intent.type is OrderType.TRAILING_STOP_MARKET:
        params["callbackRate"] = _price(intent.callback_rate, "callback_rate", intent.type)
        if intent.activation_price is not None:
            params["activatePrice"] = dump_decimal(intent.activation_price)
    else:
        params["triggerPrice"] = _price(intent.stop_price, "stop_price", intent.type)
    return OrderRequest("/fapi/v1/algoOrder", "algoOrder.place", params)


def dump_order_key(order: Order) -> OrderRequest:
    """Return the request that asks for `order` by our id; the Algo service answers it by REST alone."""
    if is_conditional(order):
        return OrderRequest("/fapi/v1/algoOrder", "algoOrder.status", {"clientAlgoId": order.client_order_id})
    params = {"symbol": order.intent.symbol, "origClientOrderId": order.client_order_id}
    return OrderRequest("/fapi/v1/order", "order.status", params)


def dump_cancel(order: Order) -> OrderRequest:
    """Return the request that cancels `order` by our id."""
    key = dump_order_key(order)
    return OrderRequest(key.path, key.method.replace("status", "cancel"), key.params)


def _is_hedge_close(intent: OrderIntent) -> bool:
    # In hedge mode the position side says that it closes, and the venue refuses reduceOnly (-1106).
    closing = {(Side.SELL, PositionSide.LONG), (Side.BUY, PositionSide.SHORT)}
    return (intent.side, intent.position_side) in closing


def _price(value: Decimal | None, name: str, kind: OrderType) -> str:
    if value is None:
        raise OrderValidationError(f"{name}: is required by type {kind}")
    return dump_decimal(value)


def _add_time_in_force(params: Params, order: Order) -> None:
    intent = order.intent
    tif = intent.time_in_force or TimeInForce.GTC
    if tif in {TimeInForce.GTD, TimeInForce.DAY}:
        # The venue has no DAY: it is good till the end of the UTC day it was made on.
        until = (order.created_ms // DAY_MS + 1) * DAY_MS if tif is TimeInForce.DAY else intent.expire_ms
        if until is None:
            raise OrderValidationError("expire_ms: is required by time_in_force GTD")
        params["goodTillDate"] = str(until // 1000 * 1000)
        tif = TimeInForce.GTD
    params["timeInForce"] = tif.value
