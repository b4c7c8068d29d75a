"""Who listens to which stream, and how messages reach them."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from qmtl.services.paper_exchange.faults import STREAM_KINDS, FaultKind, FaultPlan

_BACKLOG = 20_000
"""A listener this many messages behind is disconnected, as the venue does with slow ones."""
_PUBLIC = frozenset({"depth", "rpiDepth", "bookTicker", "trade"})
USER_ROUTE = "ws user"
_encode = msgspec.json.encode


def category_of(name: str) -> str:
    """Return which of /public and /market carries stream `name` (since 2026-04-23)."""
    if name.startswith("!"):
        return "public" if name == "!bookTicker" else "market"
    channel = name.partition("@")[2].partition("@")[0]
    return "public" if channel.rstrip("0123456789") in _PUBLIC else "market"


class Listener:
    """One WebSocket connection, its subscriptions, and the messages waiting for it."""

    def __init__(self, socket: web.WebSocketResponse, category: str, *, is_combined: bool) -> None:
        self.socket = socket
        self.category = category
        self.is_combined = is_combined
        self.names: dict[str, None] = {}
        self.keys: dict[str, frozenset[str]] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        self.sent = asyncio.Event()
        self.sent.set()
        self._done = asyncio.Event()

    def push(self, name: str, payload: bytes) -> None:
        """Queue a message of stream `name`."""
        if self._done.is_set():
            return
        self._waiting.append((name, payload))
        self.sent.clear()
        if len(self._waiting) > _BACKLOG:
            self.finish()
        self._wake.set()

    def reply(self, body: dict[str, Any]) -> None:
        """Queue an answer to the listener's own request; faults leave it alone."""
        self._waiting.append(("", _encode(body)))
        self.sent.clear()
        self._wake.set()

    def finish(self) -> None:
        """Stop sending and close the socket."""
        self._done.set()
        self._wake.set()
        self.sent.set()

    async def run(self, faults: FaultPlan, hub: "StreamHub") -> None:
        """Send what is queued until the connection ends."""
        held: tuple[str, bytes] | None = None
        while not self._done.is_set():
            if not self._waiting:
                self.sent.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            name, payload = self._waiting[0]
            rule = None
            if faults.rules and name:
                route = USER_ROUTE if name in self.keys else f"ws {name}"
                rule = faults.strike(route, STREAM_KINDS)
            if rule is not None and rule.kind is FaultKind.REORDER and held is None:
                held = self._waiting.popleft()
                continue
            if rule is None or await self._survives(rule.kind, rule.seconds, hub, name):
                await self._send(name, payload)
                if rule is not None and rule.kind is FaultKind.DUPLICATE:
                    await self._send(name, payload)
            if self._waiting:
                self._waiting.popleft()
            if held is not None:
                await self._send(*held)
                held = None
        await self.socket.close(code=WSCloseCode.GOING_AWAY)

    async def _survives(self, kind: FaultKind, seconds: float, hub: "StreamHub", name: str) -> bool:
        """Carry out a fault; tell whether the message is still sent."""
        if kind is FaultKind.DELAY:
            await self._pause(hub, seconds)
        elif kind is FaultKind.CLOSE:
            self.finish()
            return False
        elif kind is FaultKind.STALL:
            await self._pause(hub, seconds)
            self._waiting.clear()
            return False
        elif kind is FaultKind.EXPIRE:
            hub.expire(name)
            return False
        return kind is not FaultKind.OMIT

    async def _pause(self, hub: "StreamHub", seconds: float) -> None:
        """Wait real seconds, or until the connection ends."""
        waits = {asyncio.ensure_future(hub.sleep(seconds)), asyncio.ensure_future(self._done.wait())}
        _, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()

    async def _send(self, name: str, payload: bytes) -> None:
        if self.is_combined and name:
            payload = b'{"stream":"%s","data":%s}' % (name.encode(), payload)
        try:
            await self.socket.send_frame(payload, WSMsgType.TEXT)
        except ConnectionError:
            self.finish()


class StreamHub:
    """All listeners of an exchange. `sleep` waits real seconds; `expire` ends a listenKey."""

    def __init__(
        self,
        faults: FaultPlan,
        heartbeat_s: float,
        sleep: Callable[[float], Awaitable[None]],
        listen_keys: Container[str],
        expire: Callable[[str], None],
    ) -> None:
        self._faults = faults
        self._heartbeat_s = heartbeat_s
        self._by_name: defaultdict[str, dict[Listener, None]] = defaultdict(dict)
        self._by_key: defaultdict[str, dict[Listener, None]] = defaultdict(dict)
        self._symbols: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._all: dict[Listener, None] = {}
        self._listen_keys = listen_keys
        self.sleep = sleep
        self.expire = expire

    # --- publishing ---------------------------------------------------------------------------

    def names_of(self, symbol: str) -> Iterable[str]:
        """Return the streams of `symbol` (lower case; "!" for all-market ones) somebody listens to."""
        return tuple(self._symbols.get(symbol, ()))

    def publish(self, name: str, payload: bytes) -> None:
        """Queue a market message for the listeners of stream `name`."""
        for listener in tuple(self._by_name.get(name, ())):
            if listener.category in {"", category_of(name)}:
                listener.push(name, payload)

    def publish_user(self, listen_key: str, event: str, payload: bytes) -> None:
        """Queue a user event for the listeners of a listenKey."""
        for listener in tuple(self._by_key.get(listen_key, ())):
            wanted = listener.keys.get(listen_key, frozenset())
            if not wanted or event in wanted:
                listener.push(listen_key, payload)

    def has_user(self, listen_key: str) -> bool:
        """Tell whether somebody listens to a listenKey."""
        return bool(self._by_key.get(listen_key))

    def forget_key(self, listen_key: str) -> None:
        """Send nothing more under a listenKey; what is queued still leaves."""
        self._by_key.pop(listen_key, None)

    async def drain(self) -> None:
        """Wait until everything published was handed to the sockets."""
        for listener in tuple(self._all):
            await listener.sent.wait()

    def disconnect(self) -> int:
        """Close every socket and return how many there were."""
        for listener in tuple(self._all):
            listener.finish()
        return len(self._all)

    # --- serving ------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a WebSocket request on any of the stream paths."""
        socket = web.WebSocketResponse(heartbeat=self._heartbeat_s, compress=False)
        socket.headers["x-qmtl-paper"] = "1"
        await socket.prepare(request)
        category = request.match_info.get("category", "")
        listener = Listener(socket, category, is_combined="/ws" not in request.path)
        self._all[listener] = None
        query = request.query
        wanted = frozenset(part for part in query.get("events", "").split("/") if part)
        names = [*request.match_info.get("names", "").split("/"), *query.get("streams", "").split("/")]
        self._subscribe(listener, [name for name in (*names, query.get("listenKey", "")) if name], wanted)
        sender = asyncio.create_task(listener.run(self._faults, self))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._answer(listener, message.data)
        finally:
            listener.finish()
            self._forget(listener)
            await sender
        return socket

    def _answer(self, listener: Listener, raw: str) -> None:
        try:
            body = msgspec.json.decode(raw)
            method, params, number = body["method"], body.get("params", []), body.get("id")
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            listener.reply({"error": {"code": 2, "msg": f"Invalid request: {error}"}, "id": None})
            return
        if method == "SUBSCRIBE":
            self._subscribe(listener, [str(name) for name in params], frozenset())
        elif method == "UNSUBSCRIBE":
            for name in params:
                self._unsubscribe(listener, str(name))
        elif method == "LIST_SUBSCRIPTIONS":
            listener.reply({"result": [*listener.names, *listener.keys], "id": number})
            return
        elif method in {"SET_PROPERTY", "GET_PROPERTY"}:
            if method == "SET_PROPERTY" and params and params[0] == "combined":
                listener.is_combined = bool(params[1])
            result = listener.is_combined if method == "GET_PROPERTY" else None
            listener.reply({"result": result, "id": number})
            return
        else:
            text = f"Invalid request: unknown variant {method}"
            listener.reply({"error": {"code": 2, "msg": text}, "id": number})
            return
        listener.reply({"result": None, "id": number})

    def _subscribe(self, listener: Listener, names: list[str], wanted: frozenset[str]) -> None:
        for name in names:
            key, _, event = name.partition("@")
            if key in self._listen_keys:
                events = frozenset({event}) | listener.keys.get(key, frozenset()) if event else wanted
                listener.keys[key] = events
                self._by_key[key][listener] = None
                continue
            listener.names[name] = None
            self._by_name[name][listener] = None
            self._symbols[_symbol_of(name)][name] = None

    def _unsubscribe(self, listener: Listener, name: str) -> None:
        key = name.partition("@")[0]
        if key in listener.keys:
            del listener.keys[key]
            self._by_key[key].pop(listener, None)
        listener.names.pop(name, None)
        self._leave(listener, name)

    def _leave(self, listener: Listener, name: str) -> None:
        group = self._by_name.get(name)
        if group is None:
            return
        group.pop(listener, None)
        if not group:
            del self._by_name[name]
            self._symbols[_symbol_of(name)].pop(name, None)

    def _forget(self, listener: Listener) -> None:
        self._all.pop(listener, None)
        for name in listener.names:
            self._leave(listener, name)
        for key in listener.keys:
            self._by_key[key].pop(listener, None)


def _symbol_of(name: str) -> str:
    """Return the symbol a stream belongs to: `btcusdt@kline_1m`, `btcusdt_perpetual@continuousKline_1m`."""
    return "!" if name.startswith("!") else name.partition("@")[0].partition("_")[0]
