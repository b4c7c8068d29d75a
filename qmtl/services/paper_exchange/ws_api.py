"""The WebSocket order API: requests with an id over one connection, answered by the REST handlers.

Source: developers.binance.com, USDS-M futures, "WebSocket API General Info" (`/ws-fapi/v1`); Spot,
"WebSocket API" (`/ws-api/v3`).
"""

import asyncio
import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import WSMsgType, web

from qmtl.services.paper_exchange import (
    algo_routes,
    futures_account_routes,
    futures_market_routes,
    futures_trade_routes,
)
from qmtl.services.paper_exchange.auth import Security, check_time, sign
from qmtl.services.paper_exchange.call import Call, Route
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.exchange import Exchange
from qmtl.services.paper_exchange.faults import REQUEST_KINDS, FaultKind, FaultRule, dump_failure
from qmtl.services.paper_exchange.stream_hub import Listener

_encode = msgspec.json.encode
_HMAC_SESSION = "-4056 HMAC_SHA256 API key is not supported."
_BAD_JSON = "-1135 Invalid JSON Request"

FUTURES_METHODS: dict[str, str] = {
    "ping": "GET /fapi/v1/ping",
    "time": "GET /fapi/v1/time",
    "depth": "GET /fapi/v1/depth",
    "ticker.price": "GET /fapi/v2/ticker/price",
    "ticker.book": "GET /fapi/v1/ticker/bookTicker",
    "order.place": "POST /fapi/v1/order",
    "order.modify": "PUT /fapi/v1/order",
    "order.cancel": "DELETE /fapi/v1/order",
    "order.status": "GET /fapi/v1/order",
    "algoOrder.place": "POST /fapi/v1/algoOrder",
    "algoOrder.cancel": "DELETE /fapi/v1/algoOrder",
    "account.balance": "GET /fapi/v2/balance",
    "v2/account.balance": "GET /fapi/v3/balance",
    "account.status": "GET /fapi/v2/account",
    "v2/account.status": "GET /fapi/v3/account",
    "account.position": "GET /fapi/v2/positionRisk",
    "v2/account.position": "GET /fapi/v3/positionRisk",
    "userDataStream.start": "POST /fapi/v1/listenKey",
    "userDataStream.ping": "PUT /fapi/v1/listenKey",
    "userDataStream.stop": "DELETE /fapi/v1/listenKey",
}
"""The REST route that answers each method."""


_FUTURES_ROUTES = (
    *futures_market_routes.ROUTES,
    *futures_trade_routes.ROUTES,
    *futures_account_routes.ROUTES,
    *algo_routes.ROUTES,
)


def extend_ws_api(exchange: Exchange) -> tuple[web.RouteDef, ...]:
    """Return the futures WebSocket API's path."""
    return (web.get("/ws-fapi/v1", WsApi(exchange, _FUTURES_ROUTES, FUTURES_METHODS).serve),)


class WsRequest(msgspec.Struct):
    """One request; parameters stay as their JSON text, because the signature covers it."""

    method: str
    id: Any = None
    params: dict[str, msgspec.Raw] = {}


class WsSession:
    """One connection: what it subscribed to, and when it began."""

    def __init__(self, exchange: Exchange, socket: web.WebSocketResponse, *, shows_limits: bool) -> None:
        self.exchange = exchange
        self.socket = socket
        self.shows_limits = shows_limits
        self.since_ms = exchange.now_ms()
        self.events = Listener(socket, "", is_combined=False)
        self.on_close: list[Callable[[], None]] = []

    def status(self) -> dict[str, Any]:
        """Return session.status; with HMAC keys nobody is ever logged on."""
        return {
            "apiKey": None,
            "authorizedSince": None,
            "connectedSince": self.since_ms,
            "returnRateLimits": self.shows_limits,
            "serverTime": self.exchange.now_ms(),
            "userDataStream": bool(self.on_close),
        }


class SessionMethod(msgspec.Struct, frozen=True):
    """A method that concerns the connection itself."""

    handler: Callable[[WsSession, Call], Any]
    security: Security = Security.NONE
    weight: int = 1
    is_order: bool = False


def _refuse_logon(_session: WsSession, _call: Call) -> Any:
    raise VenueError.from_reason(_HMAC_SESSION)


SESSION_METHODS: dict[str, SessionMethod] = {
    "session.logon": SessionMethod(_refuse_logon, Security.SIGNED),
    "session.status": SessionMethod(lambda session, _call: session.status()),
    "session.logout": SessionMethod(lambda session, _call: session.status()),
}


class WsApi:
    """The methods of one product on one path."""

    def __init__(
        self,
        exchange: Exchange,
        routes: Iterable[Route],
        methods: Mapping[str, str],
        session_methods: Mapping[str, SessionMethod] = SESSION_METHODS,
    ) -> None:
        by_route = {f"{route.method} {route.path}": route for route in routes}
        self._exchange = exchange
        self._sessions: dict[WsSession, None] = {}
        exchange.closers.append(self._disconnect)
        self._methods: dict[str, Route | SessionMethod] = {
            **{method: by_route[route] for method, route in methods.items() if route in by_route},
            **session_methods,
        }

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer the requests of one connection until it ends."""
        exchange = self._exchange
        socket = web.WebSocketResponse(heartbeat=exchange.config.ping_s, compress=False)
        await socket.prepare(request)
        shows_limits = request.query.get("returnRateLimits", "true").lower() != "false"
        session = WsSession(exchange, socket, shows_limits=shows_limits)
        self._sessions[session] = None
        sender = asyncio.create_task(session.events.run(exchange.faults, exchange.hub))
        try:
            async for message in socket:
                if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    continue
                answer = await self._answer(session, message.data, request.remote or "")
                if answer is None:
                    await socket.close()
                    break
                await socket.send_frame(_encode(answer), WSMsgType.TEXT)
        except ConnectionError:
            # The client left while its answer was on the way; what it asked for is done.
            pass
        finally:
            del self._sessions[session]
            for leave in session.on_close:
                leave()
            session.events.finish()
            await sender
        return socket

    def _disconnect(self) -> None:
        for session in self._sessions:
            session.events.finish()

    async def _answer(self, session: WsSession, raw: str | bytes, address: str) -> dict[str, Any] | None:
        """Return the answer to one request, None to close the connection instead."""
        try:
            request = msgspec.json.decode(raw, type=WsRequest)
        except msgspec.DecodeError:
            return {"id": None, "status": 400, "error": VenueError.from_reason(_BAD_JSON).payload}
        exchange = self._exchange
        rule = (
            exchange.faults.strike(f"WS {request.method}", REQUEST_KINDS) if exchange.faults.rules else None
        )
        if rule is not None:
            if rule.kind is FaultKind.REFUSE:
                return None
            if rule.kind is FaultKind.STATUS:
                return _failed(request, rule)
        answer = self._carry_out(session, request, address)
        if rule is not None and rule.kind is FaultKind.DELAY:
            await exchange.clock.sleep(rule.seconds)
        if rule is not None and rule.kind is FaultKind.DROP:
            return None
        if rule is not None and rule.kind is FaultKind.LOST_ANSWER:
            return _failed(request, rule)
        return answer

    def _carry_out(self, session: WsSession, request: WsRequest, address: str) -> dict[str, Any]:
        params = {name: text for name, raw in request.params.items() if (text := _plain(raw)) is not None}
        shows_limits = session.shows_limits
        if "returnRateLimits" in params:
            shows_limits = params["returnRateLimits"].lower() != "false"
        answer: dict[str, Any] = {"id": request.id}
        limits: list[dict[str, object]] = []
        try:
            answer |= {
                "status": 200,
                "result": self._result(session, request.method, params, address, limits),
            }
        except VenueError as error:
            answer |= {"status": error.status, "error": error.payload}
            if error.retry_after_s:
                until_ms = self._exchange.now_ms() + error.retry_after_s * 1000
                answer["error"]["data"] = {"serverTime": self._exchange.now_ms(), "retryAfter": until_ms}
        if shows_limits:
            answer["rateLimits"] = limits
        return answer

    def _result(
        self,
        session: WsSession,
        method: str,
        params: dict[str, str],
        address: str,
        limits: list[dict[str, object]],
    ) -> Any:
        exchange = self._exchange
        row = self._methods.get(method)
        if row is None:
            raise VenueError.from_reason(f"-5000 Method {method} is invalid")
        real_ms = exchange.clock.real_ms()
        weight = row.weight if isinstance(row.weight, int) else row.weight(params)
        used = exchange.weights.charge(address, weight, real_ms)
        known = exchange.weights.dump_limits()
        limits.append(known[0] | {"count": used})
        now_ms = exchange.now_ms()
        key = params.get("apiKey")
        account = None
        if row.security is not Security.NONE:
            account = exchange.account(key)
        if account is not None and row.security is Security.SIGNED:
            check_ws_signature(account.secret, params)
            if not exchange.config.is_manual:
                check_time(params, now_ms, exchange.clock.speed)
        if row.is_order and key:
            short, minute = exchange.weights.count_order(key, real_ms)
            limits.extend((known[2] | {"count": short}, known[1] | {"count": minute}))
        call = Call(exchange, params, key=key, account=account, now_ms=exchange.clock.now_ms())
        if isinstance(row, SessionMethod):
            return row.handler(session, call)
        return row.handler(call)


def check_ws_signature(secret: str, params: Mapping[str, str]) -> None:
    """Raise VenueError -1022 unless `signature` fits the other parameters, sorted by name.

    Clients disagree on percent-encoding the values before they sign; the venue takes both.
    """
    signature = params.get("signature")
    if not signature:
        raise missing("signature")
    signed = sorted((name, value) for name, value in params.items() if name != "signature")
    plain = "&".join(f"{name}={value}" for name, value in signed)
    if hmac.compare_digest(sign(secret, plain).encode(), signature.encode()):
        return
    if not hmac.compare_digest(sign(secret, urlencode(signed)).encode(), signature.encode()):
        raise VenueError(-1022)


def _plain(raw: msgspec.Raw) -> str | None:
    """Return a parameter as text: strings unquoted, numbers and flags as the client wrote them."""
    text = bytes(raw)
    if text == b"null":
        return None
    if text.startswith(b'"'):
        return msgspec.json.decode(text, type=str)
    return text.decode()


def _failed(request: WsRequest, rule: FaultRule) -> dict[str, Any]:
    """Return an answer that a fault put in the place of the engine's."""
    return {"id": request.id, "status": rule.status, "error": dump_failure(rule)}
