"""Spot orders and trades: how a request is checked, and how the venue prints them.

Source: developers.binance.com, Spot, "Trading endpoints" and "Filters".
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO, floor_to_step, is_on_step, parse_decimal
from qmtl.core.order import OrderIntent, OrderType, Side, TimeInForce
from qmtl.services.paper_exchange.errors import VenueError, missing

Message = dict[str, Any]

_TYPES: dict[str, OrderType] = {
    "LIMIT": OrderType.LIMIT,
    "LIMIT_MAKER": OrderType.LIMIT,
    "MARKET": OrderType.MARKET,
    "STOP_LOSS": OrderType.STOP_MARKET,
    "STOP_LOSS_LIMIT": OrderType.STOP,
    "TAKE_PROFIT": OrderType.TAKE_PROFIT_MARKET,
    "TAKE_PROFIT_LIMIT": OrderType.TAKE_PROFIT,
}
ORDER_TYPES = list(_TYPES)
_LIMITED = frozenset({"LIMIT", "LIMIT_MAKER", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"})
_TRIGGERED = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
_TIMES = {"GTC": TimeInForce.GTC, "IOC": TimeInForce.IOC, "FOK": TimeInForce.FOK}


def failed_filter(name: str) -> VenueError:
    """Return the refusal of an order that breaks filter `name`."""
    return VenueError.from_reason(f"-1013 Filter failure: {name}")


class ReplaceError(VenueError):
    """A cancel-replace of which at least one half failed; `data` tells what each half came to."""

    def __init__(self, data: Message) -> None:
        """Refuse with 409 when the other half was done (-2021), else with 400 (-2022)."""
        is_half = "SUCCESS" in {data["cancelResult"], data["newOrderResult"]}
        self.code, self.status = (-2021, 409) if is_half else (-2022, 400)
        self.message = f"Order cancel-replace {'partially ' if is_half else ''}failed."
        self.retry_after_s = 0
        self.data = data
        Exception.__init__(self, f"{self.code} {self.message}")

    @property
    def payload(self) -> dict[str, object]:
        """The body the venue sends."""
        return super().payload | {"data": self.data}


class SpotOrder(msgspec.Struct, kw_only=True):
    """One spot order; `quote_quantity` when a market order named what to spend instead of a size."""

    order_id: int
    client_id: str
    intent: OrderIntent
    type: str
    time_ms: int
    update_ms: int
    quote_quantity: Decimal = ZERO
    status: str = "NEW"
    executed: Decimal = ZERO
    value: Decimal = ZERO

    @property
    def is_open(self) -> bool:
        """Tell whether it still works."""
        return self.status in {"NEW", "PARTIALLY_FILLED"}

    @property
    def remaining(self) -> Decimal:
        """Base units still to trade."""
        return self.intent.quantity - self.executed

    @property
    def time_in_force(self) -> str:
        """The time in force as printed."""
        tif = self.intent.time_in_force
        return "GTC" if tif is None or tif is TimeInForce.GTX else tif.value


class SpotTrade(msgspec.Struct, kw_only=True, frozen=True):
    """One trade of the account; the fee is in the asset received."""

    trade_id: int
    order_id: int
    symbol: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_asset: str
    time_ms: int
    is_maker: bool


def text(value: Decimal | float | None) -> str:
    """Print with eight decimals, as the spot venue prints every number."""
    return f"{value or ZERO:.8f}"


def number(params: Mapping[str, str], name: str) -> Decimal | None:
    """Return a positive parameter, None when it was not sent."""
    raw = params.get(name)
    if raw is None or raw == "":
        return None
    try:
        value = parse_decimal(raw, name)
    except ValueError:
        raise VenueError(-1100, name=name, legal="^([0-9]{1,20})(\\.[0-9]{1,20})?$") from None
    if value < 0:
        raise VenueError(-1100, name=name, legal="^([0-9]{1,20})(\\.[0-9]{1,20})?$")
    return value


def _required(params: Mapping[str, str], name: str) -> Decimal:
    value = number(params, name)
    if value is None:
        raise missing(name)
    return value


def parse_intent(params: Mapping[str, str], instrument: Instrument, last_price: float) -> OrderIntent:
    """Return what a new order request asks for; VenueError names the parameter or filter."""
    side, kind = params.get("side", ""), params.get("type", "")
    if not side or not kind:
        raise missing("side" if not side else "type")
    if side not in Side.__members__:
        raise VenueError(-1117)
    if kind not in _TYPES:
        raise VenueError(-1116)
    limit = _required(params, "price") if kind in _LIMITED else None
    stop = _required(params, "stopPrice") if kind in _TRIGGERED else None
    if limit is None and params.get("price"):
        raise VenueError(-1106, name="price")
    tif: TimeInForce | None = TimeInForce.GTX if kind == "LIMIT_MAKER" else None
    if kind in _LIMITED and tif is None:
        if "timeInForce" not in params:
            raise missing("timeInForce")
        tif = _TIMES.get(params["timeInForce"])
        if tif is None:
            raise VenueError(-1115)
    quote = number(params, "quoteOrderQty") if kind == "MARKET" else None
    if quote is not None:
        quantity = floor_to_step(quote / Decimal(str(last_price)), instrument.lot_size)
    else:
        quantity = _required(params, "quantity")
    intent = OrderIntent(
        symbol=instrument.symbol,
        side=Side(side),
        quantity=quantity,
        type=_TYPES[kind],
        limit_price=limit,
        stop_price=stop,
        time_in_force=tif,
    )
    _check_filters(intent, instrument, last_price)
    return intent


def _check_filters(intent: OrderIntent, instrument: Instrument, last_price: float) -> None:
    for price in (intent.limit_price, intent.stop_price):
        if price is not None and (price <= 0 or not is_on_step(price, instrument.tick_size)):
            raise failed_filter("PRICE_FILTER")
    quantity = intent.quantity
    if not instrument.min_quantity <= quantity <= instrument.max_quantity:
        raise failed_filter("LOT_SIZE")
    if not is_on_step(quantity, instrument.lot_size):
        raise failed_filter("LOT_SIZE")
    price = intent.limit_price or intent.stop_price or Decimal(str(last_price))
    if quantity * price < instrument.min_notional:
        raise failed_filter("NOTIONAL")


def dump_order(order: SpotOrder) -> Message:
    """Return an order as GET answers it."""
    intent = order.intent
    return {
        "symbol": intent.symbol,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_id,
        "price": text(intent.limit_price),
        "origQty": text(intent.quantity),
        "executedQty": text(order.executed),
        "cummulativeQuoteQty": text(order.value),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": intent.side.value,
        "stopPrice": text(intent.stop_price),
        "icebergQty": text(None),
        "time": order.time_ms,
        "updateTime": order.update_ms,
        "isWorking": True,
        "workingTime": order.time_ms,
        "origQuoteOrderQty": text(order.quote_quantity),
        "selfTradePreventionMode": "NONE",
    }


def dump_placed(order: SpotOrder, trades: list[SpotTrade], answer: str) -> Message:
    """Return what POST answers: ACK, RESULT, or FULL with the fills."""
    body = dump_order(order)
    body["transactTime"] = order.update_ms
    for name in ("time", "updateTime", "isWorking", "icebergQty"):
        del body[name]
    if answer == "ACK":
        return {
            name: body[name] for name in ("symbol", "orderId", "orderListId", "clientOrderId", "transactTime")
        }
    if answer == "FULL":
        body["fills"] = [
            {
                "price": text(trade.price),
                "qty": text(trade.quantity),
                "commission": text(trade.fee),
                "commissionAsset": trade.fee_asset,
                "tradeId": trade.trade_id,
            }
            for trade in trades
        ]
    return body


def dump_trade(trade: SpotTrade) -> Message:
    """Return a trade as myTrades answers it."""
    return {
        "symbol": trade.symbol,
        "id": trade.trade_id,
        "orderId": trade.order_id,
        "orderListId": -1,
        "price": text(trade.price),
        "qty": text(trade.quantity),
        "quoteQty": text(trade.price * trade.quantity),
        "commission": text(trade.fee),
        "commissionAsset": trade.fee_asset,
        "time": trade.time_ms,
        "isBuyer": trade.side is Side.BUY,
        "isMaker": trade.is_maker,
        "isBestMatch": True,
    }


def execution_report(
    order: SpotOrder, execution: str, ts_ms: int, trade: SpotTrade | None = None, reason: str = "NONE"
) -> Message:
    """Return executionReport: what happened to an order (`execution`: NEW, TRADE, CANCELED, ...)."""
    intent = order.intent
    last = trade.quantity if trade else None
    return {
        "e": "executionReport",
        "E": ts_ms,
        "s": intent.symbol,
        "c": order.client_id,
        "S": intent.side.value,
        "o": order.type,
        "f": order.time_in_force,
        "q": text(intent.quantity),
        "p": text(intent.limit_price),
        "P": text(intent.stop_price),
        "F": text(None),
        "g": -1,
        "C": order.client_id if execution == "CANCELED" else "",
        "x": execution,
        "X": order.status,
        "r": reason,
        "i": order.order_id,
        "l": text(last),
        "z": text(order.executed),
        "L": text(trade.price if trade else None),
        "n": text(trade.fee) if trade else "0",
        "N": trade.fee_asset if trade else None,
        "T": ts_ms,
        "t": trade.trade_id if trade else -1,
        "I": order.order_id,
        "w": order.is_open,
        "m": bool(trade and trade.is_maker),
        "M": trade is not None,
        "O": order.time_ms,
        "Z": text(order.value),
        "Y": text(trade.price * trade.quantity if trade else None),
        "Q": text(order.quote_quantity),
        "W": order.time_ms,
        "V": "NONE",
    }
