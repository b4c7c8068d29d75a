"""Orders, conditional orders, fills and income as the venue remembers and prints them."""

from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from qmtl.core.money import ZERO, dump_decimal
from qmtl.core.order import OrderIntent, OrderType, Side, TimeInForce

OPEN_STATUSES = frozenset({"NEW", "PARTIALLY_FILLED"})


@lru_cache(maxsize=8_192)
def text(value: Decimal | None, default: str = "0") -> str:
    """Print a number the way the venue does, `default` when there is none."""
    # An order's answer and messages print the same few numbers some forty times.
    return default if value is None else dump_decimal(value)


class OrderRecord(msgspec.Struct, kw_only=True):
    """One order in the book of its account; `original_type` differs when a conditional order caused it."""

    order_id: int
    client_id: str
    intent: OrderIntent
    time_ms: int
    update_ms: int
    status: str = "NEW"
    type: OrderType = OrderType.LIMIT
    original_type: OrderType = OrderType.LIMIT
    executed: Decimal = ZERO
    value: Decimal = ZERO
    algo_id: int = 0
    expiry: str = "0"
    amendments: int = 0

    @property
    def is_open(self) -> bool:
        """Tell whether it still works."""
        return self.status in OPEN_STATUSES

    @property
    def average(self) -> Decimal:
        """Mean fill price, 0 before the first fill."""
        return self.value / self.executed if self.executed else ZERO

    @property
    def time_in_force(self) -> str:
        """The time in force as printed: GTC where the order names none."""
        return self.intent.time_in_force or TimeInForce.GTC


class AlgoRecord(msgspec.Struct, kw_only=True):
    """One conditional order of the Algo service, and the order it became when triggered."""

    algo_id: int
    client_id: str
    intent: OrderIntent
    create_ms: int
    update_ms: int
    order_id: int
    status: str = "NEW"
    trigger_ms: int = 0
    is_price_protected: bool = False

    @property
    def is_open(self) -> bool:
        """Tell whether it still waits for its trigger."""
        return self.status == "NEW"


class FillRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One trade of the account."""

    trade_id: int
    order_id: int
    client_id: str
    symbol: str
    side: Side
    position_side: str
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_asset: str
    realized: Decimal
    time_ms: int
    is_maker: bool


class IncomeRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One movement of the wallet."""

    income_id: int
    symbol: str
    kind: str
    amount: Decimal
    asset: str
    info: str
    time_ms: int
    trade_id: str = ""


def dump_order(record: OrderRecord) -> dict[str, Any]:
    """Return an order as GET, POST and DELETE answer it."""
    intent = record.intent
    average = record.average
    return {
        "orderId": record.order_id,
        "symbol": intent.symbol,
        "status": record.status,
        "clientOrderId": record.client_id,
        "price": text(intent.limit_price),
        "avgPrice": text(average.quantize(Decimal("1E-8")) if average else None, "0.00"),
        "origQty": text(intent.quantity),
        "executedQty": text(record.executed),
        "cumQty": text(record.executed),
        "cumQuote": text(record.value),
        "timeInForce": record.time_in_force,
        "type": record.type.value,
        "reduceOnly": intent.reduce_only,
        "closePosition": intent.close_position,
        "side": intent.side.value,
        "positionSide": intent.position_side.value,
        "stopPrice": text(intent.stop_price),
        "workingType": intent.working_type.value,
        "priceProtect": False,
        "origType": record.original_type.value,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "NONE",
        "goodTillDate": intent.expire_ms or 0,
        "time": record.time_ms,
        "updateTime": record.update_ms,
    }


def dump_algo(record: AlgoRecord, order: OrderRecord | None) -> dict[str, Any]:
    """Return a conditional order as the Algo endpoints answer it; `order` is what it became."""
    intent = record.intent
    body = {
        "algoId": record.algo_id,
        "clientAlgoId": record.client_id,
        "algoType": "CONDITIONAL",
        "orderType": intent.type.value,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "positionSide": intent.position_side.value,
        "timeInForce": intent.time_in_force or TimeInForce.GTC,
        "quantity": text(intent.quantity),
        "algoStatus": record.status,
        "actualOrderId": str(order.order_id) if order else "",
        "actualPrice": text(order.average if order else None, "0.00000"),
        "actualType": order.type.value if order else "",
        "actualQty": text(order.executed if order else None),
        "triggerPrice": text(intent.stop_price),
        "price": text(intent.limit_price),
        "icebergQuantity": None,
        "tpTriggerPrice": "0.000",
        "tpPrice": "0.000",
        "slTriggerPrice": "0.000",
        "slPrice": "0.000",
        "tpOrderType": "",
        "selfTradePreventionMode": "NONE",
        "workingType": intent.working_type.value,
        "priceMatch": "NONE",
        "closePosition": intent.close_position,
        "priceProtect": record.is_price_protected,
        "reduceOnly": intent.reduce_only or intent.close_position,
        "createTime": record.create_ms,
        "updateTime": record.update_ms,
        "triggerTime": record.trigger_ms,
        "goodTillDate": intent.expire_ms or 0,
    }
    if intent.type is OrderType.TRAILING_STOP_MARKET:
        body |= {"activatePrice": text(intent.activation_price), "callbackRate": text(intent.callback_rate)}
    return body


def dump_fill(fill: FillRecord) -> dict[str, Any]:
    """Return a trade as userTrades answers it."""
    return {
        "symbol": fill.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "side": fill.side.value,
        "price": text(fill.price),
        "qty": text(fill.quantity),
        "realizedPnl": text(fill.realized),
        "quoteQty": text(fill.price * fill.quantity),
        "commission": text(fill.fee),
        "commissionAsset": fill.fee_asset,
        "marginAsset": fill.fee_asset,
        "time": fill.time_ms,
        "positionSide": fill.position_side,
        "buyer": fill.side is Side.BUY,
        "maker": fill.is_maker,
    }


def dump_income(income: IncomeRecord) -> dict[str, Any]:
    """Return a wallet movement as /income answers it."""
    return {
        "symbol": income.symbol,
        "incomeType": income.kind,
        "income": text(income.amount),
        "asset": income.asset,
        "info": income.info,
        "time": income.time_ms,
        "tranId": income.income_id,
        "tradeId": income.trade_id,
    }


def became(intent: OrderIntent) -> OrderType:
    """Return the type a triggered conditional order works as."""
    is_limit = intent.type in {OrderType.STOP, OrderType.TAKE_PROFIT}
    return OrderType.LIMIT if is_limit else OrderType.MARKET
