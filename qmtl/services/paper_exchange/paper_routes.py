"""What no real venue has: its faults to set and its books to read, for tests and judges on loopback."""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import msgspec
from aiohttp import web

from qmtl.services.paper_exchange.accounts import PaperAccount
from qmtl.services.paper_exchange.exchange import Exchange
from qmtl.services.paper_exchange.faults import parse_rules
from qmtl.services.paper_exchange.records import dump_algo, dump_fill, dump_order, text

_encode = msgspec.json.encode
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS = {"x-qmtl-paper": "1", "Content-Type": "application/json"}


def build_routes(exchange: Exchange) -> list[web.RouteDef]:
    """Return GET /paper/state and /paper/faults, POST and DELETE /paper/faults, POST /paper/step."""

    async def state(request: web.Request) -> web.Response:
        return _answer(dump_state(exchange, request.query.get("key")))

    async def read_faults(_request: web.Request) -> web.Response:
        return _answer({"rules": exchange.faults.rules, "counts": dict(exchange.faults.counts)})

    async def add_faults(request: web.Request) -> web.Response:
        try:
            rules = parse_rules(await request.read())
        except msgspec.DecodeError as error:
            return _answer({"code": -1100, "msg": str(error)}, 400)
        for rule in rules:
            exchange.faults.add(rule)
        return _answer({"rules": exchange.faults.rules})

    async def clear_faults(_request: web.Request) -> web.Response:
        exchange.faults.clear()
        return _answer({"rules": []})

    async def step(request: web.Request) -> web.Response:
        if not exchange.config.is_manual:
            return _answer({"code": -1100, "msg": "step needs manual mode"}, 400)
        count = request.query.get("count", "1")
        if not count.isdigit():
            return _answer({"code": -1100, "msg": f"count: expected a whole number, got {count!r}"}, 400)
        done = 0
        for _ in range(int(count)):
            if exchange.publish_next() is None:
                break
            done += 1
        await exchange.drain()
        return _answer({"published": done, "serverTime": exchange.clock.now_ms()})

    return [
        web.get("/paper/state", _from_loopback(state)),
        web.get("/paper/faults", _from_loopback(read_faults)),
        web.post("/paper/faults", _from_loopback(add_faults)),
        web.delete("/paper/faults", _from_loopback(clear_faults)),
        web.post("/paper/step", _from_loopback(step)),
    ]


def _from_loopback(handler: Handler) -> Handler:
    """Refuse callers from elsewhere: nothing here asks for a key."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.remote is None or not ip_address(request.remote).is_loopback:
            return _answer({"code": -2015, "msg": "only from loopback"}, 403)
        return await handler(request)

    return guarded


def dump_state(exchange: Exchange, key: str | None = None) -> dict[str, Any]:
    """Return every account's orders, conditional orders, fills and positions (of one API key: `key`).

    `venue_orders` counts the orders taken under each client id: more than one is a duplicate.
    """
    accounts = exchange.accounts
    chosen = accounts if key is None else {key: accounts[key]} if key in accounts else {}
    return {
        "serverTime": exchange.clock.now_ms(),
        "speed": exchange.clock.speed,
        "published": exchange.published,
        "isSynthetic": exchange.is_synthetic,
        "accounts": {name: _dump_account(account) for name, account in chosen.items()},
    }


def _dump_account(account: PaperAccount) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for order in account.orders.values():
        if not order.algo_id:
            counts[order.client_id] = counts.get(order.client_id, 0) + 1
    for algo in account.algos.values():
        counts[algo.client_id] = counts.get(algo.client_id, 0) + 1
    fills: dict[str, list[dict[str, Any]]] = {}
    for fill in account.fills:
        fills.setdefault(fill.client_id, []).append(dump_fill(fill))
    held = account.core.account
    return {
        "wallet": text(held.wallet),
        "orders": [dump_order(order) for order in account.orders.values()],
        "algos": [dump_algo(algo, account.order_of(algo)) for algo in account.algos.values()],
        "fills": fills,
        "venue_orders": counts,
        "positions": {
            name: {"quantity": text(position.quantity), "entry": text(position.entry_price)}
            for name, position in held.positions.items()
        },
    }


def _answer(body: object, status: int = 200) -> web.Response:
    return web.Response(body=_encode(body), status=status, headers=_HEADERS)
