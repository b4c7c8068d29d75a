"""The paper exchange as a server: routes, sockets, and the loop that lets time pass."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from qmtl.engine.ports import Clock
from qmtl.services.paper_exchange import (
    algo_routes,
    futures_account_routes,
    futures_market_routes,
    futures_trade_routes,
    paper_routes,
)
from qmtl.services.paper_exchange.auth import Security, check_signature, check_time, parse_params
from qmtl.services.paper_exchange.call import Call, Route
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.exchange import Exchange
from qmtl.services.paper_exchange.faults import REQUEST_KINDS, FaultKind, FaultRule, dump_failure
from qmtl.services.paper_exchange.market import Update
from qmtl.services.paper_exchange.settings import PaperExchangeConfig
from qmtl.services.paper_exchange.spot_routes import extend_spot
from qmtl.services.paper_exchange.ws_api import extend_ws_api

PAPER_HEADER = "x-qmtl-paper"
_HEADERS = {PAPER_HEADER: "1", "Content-Type": "application/json"}
_TICK_S = 1.0
_BODIES = frozenset({"POST", "PUT", "DELETE"})
_encode = msgspec.json.encode
Extension = Callable[[Exchange], Iterable[Route | web.RouteDef]]


class PaperExchange:
    """A Binance-compatible exchange on loopback.

    `start` opens the socket and returns {"rest": http://host:port, "ws": ws://host:port}; both serve
    until `stop`. In manual mode `step` publishes; otherwise the clock does. `extensions` add routes:
    the WebSocket order API and the spot venue. Raises BarError, FileNotFoundError or OSError when it
    cannot start.
    """

    def __init__(
        self,
        config: PaperExchangeConfig,
        clock: Clock,
        extensions: Iterable[Extension] = (extend_ws_api, extend_spot),
    ) -> None:
        self.config = config
        self.clock = clock
        self.exchange = Exchange(config, clock)
        self._extensions = tuple(extensions)
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._mounted: set[tuple[str, str]] = set()

    async def start(self) -> dict[str, str]:
        """Open the socket, start time, and return the base addresses."""
        app = web.Application()
        tables = (
            futures_market_routes.ROUTES,
            futures_trade_routes.ROUTES,
            futures_account_routes.ROUTES,
            algo_routes.ROUTES,
        )
        # An extension answers in place of the built-in route of the same name.
        for table in (*(extension(self.exchange) for extension in self._extensions), *tables):
            self._mount(app, table)
        app.router.add_routes(paper_routes.build_routes(self.exchange))
        self._mount_streams(app)
        app.router.add_route("*", "/{rest:.*}", _unknown_path)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.config.host, self.config.port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        if not self.config.is_manual:
            self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._tick())]
        return {"rest": f"http://{host}:{port}", "ws": f"ws://{host}:{port}"}

    async def stop(self) -> None:
        """Stop time, close every socket, and free the port."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        self._mounted = set()
        for hub in self.exchange.hubs:
            hub.disconnect()
        for close in self.exchange.closers:
            close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def step(self) -> Update | None:
        """Publish the next update and wait until the sockets have it; None when candles have ended."""
        update = self.exchange.publish_next()
        await self.exchange.drain()
        return update

    async def _pump(self) -> None:
        exchange, clock = self.exchange, self.clock
        while (due_ms := exchange.next_ms) is not None:
            wait_ms = due_ms - clock.now_ms()
            if wait_ms > 0:
                await clock.sleep(wait_ms / clock.speed / 1_000)
                continue
            exchange.publish_next()
            await asyncio.sleep(0)

    async def _tick(self) -> None:
        while True:
            await self.clock.sleep(_TICK_S)
            now_ms = self.clock.now_ms()
            # A publication that is due moves time itself, so that funding and expiry keep their order.
            if self.exchange.next_ms is None or self.exchange.next_ms > now_ms:
                self.exchange.pass_time(now_ms)
            self.exchange.publish_marks(now_ms)

    # --- routes -------------------------------------------------------------------------------

    def _mount(self, app: web.Application, table: Iterable[Route | web.RouteDef]) -> None:
        for row in table:
            if (row.method, row.path) in self._mounted:
                continue
            self._mounted.add((row.method, row.path))
            if isinstance(row, Route):
                app.router.add_route(row.method, row.path, self._answer(row))
            else:
                app.router.add_routes([row])

    def _mount_streams(self, app: web.Application) -> None:
        serve = self.exchange.hub.serve
        paths = ("/ws", "/ws/{names:.*}", "/stream", "/stream/{names:.*}")
        for prefix in ("", "/{category:public|market|private}"):
            self._mount(app, [web.get(prefix + path, serve) for path in paths])

    def _answer(self, route: Route) -> Callable[[web.Request], Any]:
        """Return the aiohttp handler of one table row."""
        exchange, method, path = self.exchange, route.method, route.path
        occasion = f"{method} {path}"
        faults = exchange.faults

        async def handle(request: web.Request) -> web.StreamResponse:
            body = ""
            if method in _BODIES and request.can_read_body:
                body = (await request.read()).decode(errors="replace")
            rule = faults.strike(occasion, REQUEST_KINDS) if faults.rules else None
            if rule is not None:
                return await self._with_fault(request, route, body, rule)
            return self._respond(request, route, body)

        return handle

    def _respond(self, request: web.Request, route: Route, body: str) -> web.Response:
        """Carry out a request and print what came of it."""
        headers = dict(_HEADERS)
        try:
            payload, status = self._carry_out(request, route, body, headers), 200
        except VenueError as error:
            payload, status = error.payload, error.status
            if error.retry_after_s:
                headers["Retry-After"] = str(error.retry_after_s)
        return web.Response(body=_encode(payload), status=status, headers=headers)

    def _carry_out(self, request: web.Request, route: Route, body: str, headers: dict[str, str]) -> Any:
        exchange = self.exchange
        # The path as it came over the wire: the signature covers these very characters.
        query = request.raw_path.partition("?")[2]
        params = parse_params(query, body)
        weight = route.weight if isinstance(route.weight, int) else route.weight(params)
        real_ms = exchange.clock.real_ms()
        client = f"{request.remote} spot" if route.is_spot else str(request.remote)
        used = exchange.weights.charge(client, weight, real_ms)
        headers["X-MBX-USED-WEIGHT-1M"] = str(used)
        now_ms = exchange.now_ms()
        key = request.headers.get("X-MBX-APIKEY")
        account = None
        if route.security is not Security.NONE:
            account = exchange.account(key)
            if route.security is Security.SIGNED:
                if "timestamp" not in params:
                    raise VenueError(-1102, name="timestamp")
                check_signature(account.secret, query, body, params.get("signature"))
                if not exchange.config.is_manual:
                    check_time(params, now_ms, exchange.clock.speed)
        if route.is_order and key:
            short, minute = exchange.weights.count_order(key, real_ms)
            headers["X-MBX-ORDER-COUNT-10S"] = str(short)
            headers["X-MBX-ORDER-COUNT-1M"] = str(minute)
        return route.handler(Call(exchange, params, key=key, account=account, now_ms=exchange.clock.now_ms()))

    async def _with_fault(
        self, request: web.Request, route: Route, body: str, rule: FaultRule
    ) -> web.StreamResponse:
        """Carry out a request the way the fault plan wants it to go wrong."""
        failure = dump_failure(rule)
        headers = dict(_HEADERS)
        if rule.status in {418, 429} and rule.seconds >= 0:
            headers["Retry-After"] = str(max(1, int(rule.seconds)))
        if rule.kind is FaultKind.STATUS:
            return web.Response(body=_encode(failure), status=rule.status, headers=headers)
        if rule.kind is FaultKind.EMPTY:
            return web.Response(body=b"[]", headers=dict(_HEADERS))
        if rule.kind is FaultKind.DELAY:
            answer = self._respond(request, route, body)
            await self.clock.sleep(rule.seconds)
            return answer
        if rule.kind in {FaultKind.DROP, FaultKind.LOST_ANSWER}:
            self._respond(request, route, body)
        if rule.kind is FaultKind.LOST_ANSWER:
            return web.Response(body=_encode(failure), status=rule.status, headers=headers)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(headers=headers)


async def _unknown_path(request: web.Request) -> web.Response:
    body = {"code": -5000, "msg": f"Path {request.path}, Method {request.method} is invalid"}
    return web.Response(body=_encode(body), status=404, headers=_HEADERS)
