"""The spot venue's routes that act on an account, and everything of the venue as one extension."""

from collections.abc import Callable, Iterable

from aiohttp import web

from qmtl.core.money import ZERO
from qmtl.services.paper_exchange import spot_market_routes
from qmtl.services.paper_exchange.auth import Security
from qmtl.services.paper_exchange.call import Call, Route
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.exchange import Exchange
from qmtl.services.paper_exchange.order_request import parse_client_id
from qmtl.services.paper_exchange.spot_listing import dump_pair
from qmtl.services.paper_exchange.spot_orders import (
    Message,
    ReplaceError,
    SpotOrder,
    dump_order,
    dump_placed,
    dump_trade,
    number,
    parse_intent,
)
from qmtl.services.paper_exchange.spot_venue import REALM, SpotVenue
from qmtl.services.paper_exchange.ws_api import WsApi

SPOT_METHODS: dict[str, str] = {
    "ping": "GET /api/v3/ping",
    "time": "GET /api/v3/time",
    "exchangeInfo": "GET /api/v3/exchangeInfo",
    "depth": "GET /api/v3/depth",
    "klines": "GET /api/v3/klines",
    "avgPrice": "GET /api/v3/avgPrice",
    "trades.recent": "GET /api/v3/trades",
    "trades.historical": "GET /api/v3/historicalTrades",
    "trades.aggregate": "GET /api/v3/aggTrades",
    "ticker.24hr": "GET /api/v3/ticker/24hr",
    "ticker.price": "GET /api/v3/ticker/price",
    "ticker.book": "GET /api/v3/ticker/bookTicker",
    "order.place": "POST /api/v3/order",
    "order.test": "POST /api/v3/order/test",
    "order.status": "GET /api/v3/order",
    "order.cancel": "DELETE /api/v3/order",
    "order.cancelReplace": "POST /api/v3/order/cancelReplace",
    "openOrders.status": "GET /api/v3/openOrders",
    "openOrders.cancelAll": "DELETE /api/v3/openOrders",
    "allOrders": "GET /api/v3/allOrders",
    "myTrades": "GET /api/v3/myTrades",
    "account.status": "GET /api/v3/account",
    "userDataStream.start": "POST /api/v3/userDataStream",
    "userDataStream.ping": "PUT /api/v3/userDataStream",
    "userDataStream.stop": "DELETE /api/v3/userDataStream",
}
"""The spot WebSocket API's methods and the route that answers each."""


_PLACING = frozenset({"/api/v3/order", "/api/v3/order/cancelReplace"})


def extend_spot(exchange: Exchange) -> Iterable[Route | web.RouteDef]:
    """Return the spot venue's routes: REST, streams and WebSocket API."""
    venue = SpotVenue(exchange)
    routes = (*spot_market_routes.ROUTES, *SpotRoutes(venue).routes())
    api = WsApi(exchange, routes, SPOT_METHODS, venue.session_methods)
    # ccxt tells spot by "/stream" in the address, as in wss://stream.binance.com/ws: /stream/ws is /ws.
    paths = ("/ws", "/ws/{names:.*}", "/stream", "/stream/ws", "/stream/ws/{names:.*}", "/stream/{names:.*}")
    return (*routes, *(web.get(path, venue.serve) for path in paths), web.get("/ws-api/v3", api.serve))


class SpotRoutes:
    """Handlers that act on one spot venue."""

    def __init__(self, venue: SpotVenue) -> None:
        self._venue = venue

    def exchange_info(self, call: Call) -> Message:
        """GET /api/v3/exchangeInfo."""
        symbol = call.params.get("symbol")
        if symbol is not None and symbol not in self._venue.pairs:
            raise VenueError(-1121)
        pairs = [pair for name, pair in self._venue.pairs.items() if symbol in {None, name}]
        return {
            "timezone": "UTC",
            "serverTime": call.now_ms,
            "rateLimits": call.exchange.weights.dump_limits(),
            "exchangeFilters": [],
            "symbols": [dump_pair(pair) for pair in pairs],
        }

    # --- orders -------------------------------------------------------------------------------

    def post_order(self, call: Call) -> Message:
        """POST /api/v3/order."""
        market = call.market()
        intent = parse_intent(call.params, self._venue.pairs[market.symbol], market.last_price)
        desk = self._venue.desk(call)
        kind = call.params["type"]
        client_id = parse_client_id(call.params, "newClientOrderId")
        client_id = client_id or f"web_{call.exchange.random.randbytes(10).hex()}"
        quote = number(call.params, "quoteOrderQty") or ZERO
        before = len(desk.trades)
        order, told = desk.submit(intent, kind, client_id, quote, call.now_ms)
        self._venue.tell(call.account.key, told)
        answer = call.params.get("newOrderRespType") or ("FULL" if kind in {"LIMIT", "MARKET"} else "ACK")
        return dump_placed(order, desk.trades[before:], answer)

    def post_test(self, call: Call) -> Message:
        """POST /api/v3/order/test: parse and refuse, place nothing."""
        market = call.market()
        parse_intent(call.params, self._venue.pairs[market.symbol], market.last_price)
        return {}

    def _find(self, call: Call, code: int) -> SpotOrder:
        symbol = call.market().symbol
        order_id, client_id = call.integer("orderId"), call.params.get("origClientOrderId")
        if order_id is None and not client_id:
            raise missing("orderId")
        found = self._venue.desk(call).find(symbol, order_id, client_id)
        if found is None:
            raise VenueError(code)
        return found

    def get_order(self, call: Call) -> Message:
        """GET /api/v3/order."""
        return dump_order(self._find(call, -2013))

    def delete_order(self, call: Call) -> Message:
        """DELETE /api/v3/order."""
        return self._cancel(call, self._find(call, -2011))

    def _cancel(self, call: Call, order: SpotOrder) -> Message:
        self._venue.tell(call.account.key, self._venue.desk(call).cancel(order, call.now_ms))
        return dump_placed(order, [], "RESULT") | {"origClientOrderId": order.client_id}

    def cancel_replace(self, call: Call) -> Message:
        """POST /api/v3/order/cancelReplace: one order out, another in, as ccxt edits spot orders.

        ReplaceError unless both were done.
        """
        mode = call.text("cancelReplaceMode")
        if mode not in {"STOP_ON_FAILURE", "ALLOW_FAILURE"}:
            raise VenueError(-1130, name="cancelReplaceMode")
        renamed = {"orderId": "cancelOrderId", "origClientOrderId": "cancelOrigClientOrderId"}
        old = {name: call.params[sent] for name, sent in renamed.items() if sent in call.params}
        target = Call(
            call.exchange,
            {**call.params, **old},
            key=call.key,
            account=call.account,
            now_ms=call.now_ms,
        )
        cancel = _attempt(self.delete_order, target)
        place: tuple[str, Message | None] = ("NOT_ATTEMPTED", None)
        if cancel[0] == "SUCCESS" or mode == "ALLOW_FAILURE":
            place = _attempt(self.post_order, call)
        body: Message = {
            "cancelResult": cancel[0],
            "newOrderResult": place[0],
            "cancelResponse": cancel[1],
            "newOrderResponse": place[1],
        }
        if (cancel[0], place[0]) == ("SUCCESS", "SUCCESS"):
            return body
        raise ReplaceError(body)

    def open_orders(self, call: Call) -> list[Message]:
        """GET /api/v3/openOrders, of one symbol or all."""
        symbol = call.market().symbol if call.params.get("symbol") else None
        return [dump_order(order) for order in self._venue.desk(call).open_orders(symbol)]

    def delete_open_orders(self, call: Call) -> list[Message]:
        """DELETE /api/v3/openOrders of a symbol; -2011 when there are none."""
        found = self._venue.desk(call).open_orders(call.market().symbol)
        if not found:
            raise VenueError(-2011)
        return [self._cancel(call, order) for order in found]

    def all_orders(self, call: Call) -> list[Message]:
        """GET /api/v3/allOrders: from an id or by time, oldest first."""
        symbol, limit = call.market().symbol, call.limit(500, 1_000)
        from_id, start, end = call.integer("orderId"), call.integer("startTime"), call.integer("endTime")
        found = [
            order
            for order in self._venue.desk(call).orders
            if order.intent.symbol == symbol
            and (from_id is None or order.order_id >= from_id)
            and (start is None or order.time_ms >= start)
            and (end is None or order.time_ms <= end)
        ]
        chosen = found[:limit] if from_id is not None or start is not None else found[-limit:]
        return [dump_order(order) for order in chosen]

    def my_trades(self, call: Call) -> list[Message]:
        """GET /api/v3/myTrades: from an id, of an order or by time, oldest first."""
        symbol, limit = call.market().symbol, call.limit(500, 1_000)
        from_id, order_id = call.integer("fromId"), call.integer("orderId")
        start, end = call.integer("startTime"), call.integer("endTime")
        found = [
            trade
            for trade in self._venue.desk(call).trades
            if trade.symbol == symbol
            and order_id in {None, trade.order_id}
            and (from_id is None or trade.trade_id >= from_id)
            and (start is None or trade.time_ms >= start)
            and (end is None or trade.time_ms <= end)
        ]
        chosen = found[:limit] if from_id is not None or start is not None else found[-limit:]
        return [dump_trade(trade) for trade in chosen]

    def account(self, call: Call) -> Message:
        """GET /api/v3/account."""
        desk = self._venue.desk(call)
        maker, taker = desk.fees.maker, desk.fees.taker
        rates = {
            "maker": f"{maker:.8f}",
            "taker": f"{taker:.8f}",
            "buyer": "0.00000000",
            "seller": "0.00000000",
        }
        return {
            "makerCommission": int(maker * 10_000),
            "takerCommission": int(taker * 10_000),
            "buyerCommission": 0,
            "sellerCommission": 0,
            "commissionRates": rates,
            "canTrade": True,
            "canWithdraw": call.exchange.config.can_withdraw,
            "canDeposit": False,
            "brokered": False,
            "requireSelfTradePrevention": False,
            "preventSor": False,
            "updateTime": desk.updated_ms,
            "accountType": "SPOT",
            "balances": desk.balances(),
            "permissions": ["SPOT"],
            "uid": 1,
        }

    def commissions(self, call: Call) -> list[Message]:
        """GET /sapi/v1/asset/tradeFee, of one symbol or all."""
        fees = call.exchange.config.fees
        symbol = call.market().symbol if call.params.get("symbol") else None
        return [
            {"symbol": name, "makerCommission": str(fees.maker), "takerCommission": str(fees.taker)}
            for name in self._venue.pairs
            if symbol in {None, name}
        ]

    # --- user stream --------------------------------------------------------------------------

    def post_listen_key(self, call: Call) -> Message:
        """POST /api/v3/userDataStream."""
        self._venue.desk(call)
        return {"listenKey": call.exchange.listen_keys.open(call.account.key, call.now_ms, REALM)}

    def put_listen_key(self, call: Call) -> Message:
        """PUT /api/v3/userDataStream."""
        name = call.text("listenKey")
        if call.exchange.listen_keys.renew(call.account.key, call.now_ms, REALM, name) is None:
            raise VenueError(-1125)
        return {}

    def delete_listen_key(self, call: Call) -> Message:
        """DELETE /api/v3/userDataStream."""
        name = call.text("listenKey")
        held = call.exchange.listen_keys.find(call.account.key, REALM)
        if held is None or held.name != name:
            raise VenueError(-1125)
        call.exchange.listen_keys.close(call.account.key, REALM)
        self._venue.hub.forget_key(name)
        return {}

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        info = Route("GET", "/api/v3/exchangeInfo", self.exchange_info, weight=20, is_spot=True)
        signed = (
            ("POST", "/api/v3/order", self.post_order, 1),
            ("POST", "/api/v3/order/test", self.post_test, 1),
            ("POST", "/api/v3/order/cancelReplace", self.cancel_replace, 1),
            ("GET", "/api/v3/order", self.get_order, 4),
            ("DELETE", "/api/v3/order", self.delete_order, 1),
            ("GET", "/api/v3/openOrders", self.open_orders, 6),
            ("DELETE", "/api/v3/openOrders", self.delete_open_orders, 1),
            ("GET", "/api/v3/allOrders", self.all_orders, 20),
            ("GET", "/api/v3/myTrades", self.my_trades, 20),
            ("GET", "/api/v3/account", self.account, 20),
            ("GET", "/sapi/v1/asset/tradeFee", self.commissions, 1),
        )
        keyed = (
            ("POST", self.post_listen_key),
            ("PUT", self.put_listen_key),
            ("DELETE", self.delete_listen_key),
        )
        return (
            info,
            *(
                Route(
                    method,
                    path,
                    handler,
                    Security.SIGNED,
                    weight,
                    is_order=path in _PLACING and method == "POST",
                    is_spot=True,
                )
                for method, path, handler, weight in signed
            ),
            *(
                Route(method, "/api/v3/userDataStream", handler, Security.KEY, 2, is_spot=True)
                for method, handler in keyed
            ),
        )


def _attempt(handler: Callable[[Call], Message], call: Call) -> tuple[str, Message]:
    """Return what one half of a cancel-replace came to."""
    try:
        return "SUCCESS", handler(call)
    except VenueError as error:
        return "FAILURE", error.payload
