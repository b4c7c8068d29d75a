"""Orders, fills and count-downs: the signed routes that trade."""

from itertools import islice
from typing import Any

import msgspec

from qmtl.core.order import OrderType
from qmtl.engine.settlement import LIQUIDATION_PREFIX
from qmtl.services.paper_exchange.auth import Security
from qmtl.services.paper_exchange.call import Call, Route, per_symbol
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.order_request import check_band, parse_order
from qmtl.services.paper_exchange.records import OrderRecord, dump_fill, dump_order

_WEEK_MS = 7 * 86_400_000
_BATCH = 5
_CANCEL_BATCH = 10


def post_order(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/order."""
    intent, client_id = parse_order(call)
    record = call.account.place(intent, client_id or _invent(call), call.now_ms)
    answer = dump_order(record)
    if call.params.get("newOrderRespType") != "RESULT":
        # ACK, the default, is sent before the order meets the book; fills come by the user stream.
        answer |= {"status": "NEW", "avgPrice": "0.00", "executedQty": "0", "cumQty": "0", "cumQuote": "0"}
    return answer


def _invent(call: Call) -> str:
    return f"web_{call.exchange.random.randbytes(10).hex()}"


def post_test(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/order/test: parse and refuse, place nothing."""
    parse_order(call)
    return {}


def get_order(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/order."""
    return dump_order(_find(call, -2013))


def get_open_order(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/openOrder."""
    record = _find(call, -2013)
    if not record.is_open:
        raise VenueError(-2013)
    return dump_order(record)


def delete_order(call: Call) -> dict[str, Any]:
    """DELETE /fapi/v1/order."""
    return dump_order(call.account.cancel(_find(call, -2011), call.now_ms))


def _find(call: Call, code: int) -> OrderRecord:
    market = call.market()
    order_id = call.integer("orderId")
    client_id = call.params.get("origClientOrderId")
    if order_id is None and not client_id:
        raise missing("orderId")
    record = call.account.find(market.symbol, order_id, client_id)
    if record is None:
        raise VenueError(code)
    return record


def put_order(call: Call) -> dict[str, Any]:
    """PUT /fapi/v1/order: another price or quantity for an open limit order."""
    record = _find(call, -2013)
    price, quantity = call.decimal("price"), call.decimal("quantity")
    if price is None:
        raise missing("price")
    if quantity is None:
        raise missing("quantity")
    if record.type is not OrderType.LIMIT:
        raise VenueError(-2013)
    if quantity <= record.executed:
        return dump_order(call.account.cancel(record, call.now_ms))
    check_band(record.intent.side, price, call.market())
    intent = msgspec.structs.replace(record.intent, limit_price=price, quantity=quantity)
    return dump_order(call.account.amend(record, intent, call.now_ms)) | {"modifyId": record.amendments}


def delete_all(call: Call) -> dict[str, Any]:
    """DELETE /fapi/v1/allOpenOrders."""
    market = call.market()
    for record in call.account.open_orders(market.symbol):
        call.account.cancel(record, call.now_ms)
    return {"code": 200, "msg": "The operation of cancel all open order is done."}


def _parse_list(call: Call, name: str) -> list[Any]:
    raw = call.params.get(name)
    if not raw:
        return []
    try:
        return msgspec.json.decode(raw, type=list[Any])
    except msgspec.DecodeError:
        raise missing(name) from None


def _each(call: Call, items: list[Any], handle: Any) -> list[dict[str, Any]]:
    """Carry out one member after the other; a refused one answers its error in its place."""
    answers = []
    for item in items:
        params = {name: _plain(value) for name, value in item.items()}
        one = Call(call.exchange, params, key=call.key, account=call.account, now_ms=call.now_ms)
        try:
            answers.append(handle(one))
        except VenueError as error:
            answers.append(error.payload)
    return answers


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def post_batch(call: Call) -> list[dict[str, Any]]:
    """POST /fapi/v1/batchOrders: up to five orders."""
    items = _parse_list(call, "batchOrders")
    if not items or not all(isinstance(item, dict) for item in items):
        raise missing("batchOrders")
    if len(items) > _BATCH:
        raise VenueError(-1130, name="batchOrders")
    return _each(call, items, post_order)


def put_batch(call: Call) -> list[dict[str, Any]]:
    """PUT /fapi/v1/batchOrders: up to five amendments."""
    items = _parse_list(call, "batchOrders")
    if not items or len(items) > _BATCH or not all(isinstance(item, dict) for item in items):
        raise missing("batchOrders")
    return _each(call, items, put_order)


def delete_batch(call: Call) -> list[dict[str, Any]]:
    """DELETE /fapi/v1/batchOrders: up to ten cancels by id or client id."""
    symbol = call.market().symbol
    ids = _parse_list(call, "orderIdList") or _parse_list(call, "orderidlist")
    clients = _parse_list(call, "origClientOrderIdList") or _parse_list(call, "origclientorderidlist")
    items = [{"symbol": symbol, "orderId": one} for one in ids]
    items += [{"symbol": symbol, "origClientOrderId": one} for one in clients]
    if not items:
        raise missing("orderIdList")
    if len(items) > _CANCEL_BATCH:
        raise VenueError(-1130, name="orderIdList")
    return _each(call, items, delete_order)


def get_open_orders(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/openOrders, of one symbol or all."""
    symbol = call.market().symbol if call.params.get("symbol") else None
    return [dump_order(record) for record in call.account.open_orders(symbol)]


def _window(call: Call) -> tuple[int, int]:
    """Return [start, end] of a history request: seven days at most, the last ones by default."""
    start, end = call.integer("startTime"), call.integer("endTime")
    if end is None:
        end = start + _WEEK_MS if start is not None else call.now_ms
    if start is None:
        start = end - _WEEK_MS
    if end - start > _WEEK_MS:
        raise VenueError(-4166)
    if end < start:
        raise VenueError(-1023)
    return start, end


def get_all_orders(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/allOrders: from an id, or by time, oldest first."""
    market, limit = call.market(), call.limit(500, 1_000)
    from_id = call.integer("orderId")
    records = [r for r in call.account.orders.values() if r.intent.symbol == market.symbol]
    if from_id is not None:
        return [dump_order(r) for r in islice((r for r in records if r.order_id >= from_id), limit)]
    start, end = _window(call)
    found = [r for r in records if start <= r.time_ms <= end]
    chosen = found[:limit] if call.params.get("startTime") else found[-limit:]
    return [dump_order(record) for record in chosen]


def get_user_trades(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/userTrades: from an id, of an order, or by time, oldest first."""
    market, limit = call.market(), call.limit(500, 1_000)
    from_id, order_id = call.integer("fromId"), call.integer("orderId")
    fills = [f for f in call.account.fills if f.symbol == market.symbol]
    if order_id is not None:
        fills = [f for f in fills if f.order_id == order_id]
    if from_id is not None:
        return [dump_fill(f) for f in fills if f.trade_id >= from_id][:limit]
    start, end = _window(call)
    found = [f for f in fills if start <= f.time_ms <= end]
    chosen = found[:limit] if call.params.get("startTime") else found[-limit:]
    return [dump_fill(fill) for fill in chosen]


def get_force_orders(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/forceOrders: the venue's own orders that closed this account's positions."""
    symbol = call.market().symbol if call.params.get("symbol") else None
    found = [
        record
        for record in call.account.orders.values()
        if record.client_id.startswith(LIQUIDATION_PREFIX) and symbol in {None, record.intent.symbol}
    ]
    return [dump_order(record) for record in found[-call.limit(50, 100) :]]


def post_countdown(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/countdownCancelAll: cancel the symbol's orders unless called again in time."""
    market, countdown = call.market(), call.integer("countdownTime")
    if countdown is None or countdown < 0:
        raise missing("countdownTime")
    if countdown:
        call.account.countdowns[market.symbol] = call.now_ms + countdown
    else:
        call.account.countdowns.pop(market.symbol, None)
    return {"symbol": market.symbol, "countdownTime": str(countdown)}


_SIGNED = Security.SIGNED
ROUTES = (
    Route("POST", "/fapi/v1/order", post_order, _SIGNED, 0, is_order=True),
    Route("POST", "/fapi/v1/order/test", post_test, _SIGNED, 1),
    Route("GET", "/fapi/v1/order", get_order, _SIGNED, 1),
    Route("PUT", "/fapi/v1/order", put_order, _SIGNED, 1, is_order=True),
    Route("DELETE", "/fapi/v1/order", delete_order, _SIGNED, 1),
    Route("GET", "/fapi/v1/openOrder", get_open_order, _SIGNED, 1),
    Route("GET", "/fapi/v1/openOrders", get_open_orders, _SIGNED, per_symbol(1, 40)),
    Route("DELETE", "/fapi/v1/allOpenOrders", delete_all, _SIGNED, 1),
    Route("POST", "/fapi/v1/batchOrders", post_batch, _SIGNED, 5, is_order=True),
    Route("PUT", "/fapi/v1/batchOrders", put_batch, _SIGNED, 5, is_order=True),
    Route("DELETE", "/fapi/v1/batchOrders", delete_batch, _SIGNED, 1),
    Route("GET", "/fapi/v1/allOrders", get_all_orders, _SIGNED, 5),
    Route("GET", "/fapi/v1/userTrades", get_user_trades, _SIGNED, 5),
    Route("GET", "/fapi/v1/forceOrders", get_force_orders, _SIGNED, per_symbol(20, 50)),
    Route("POST", "/fapi/v1/countdownCancelAll", post_countdown, _SIGNED, 10),
)
