"""A gateway on loopback: activation over HTTP, subscriptions, and one event stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.runtime.sdk.socket_server import make_jwt


class GatewayServer:
    """Answers as its attributes say; `calls` holds what was asked, `statuses` what to refuse with."""

    def __init__(self) -> None:
        self.url = ""
        self.activation: dict[str, dict[str, Any]] = {
            side: {"world_id": "w", "side": side, "active": side == "long", "weight": 0.5, "sequence": 1}
            for side in ("long", "short")
        }
        self.statuses: dict[str, int] = {}
        self.has_token = True
        self.token_life_s = 3_600.0
        self.now_s = 1_700_000_000.0
        self.calls: list[str] = []
        self.tokens: list[str | None] = []
        self.stream_tokens: list[str | None] = []
        self.refreshed: list[Any] = []
        self.sockets: list[web.WebSocketResponse] = []

    async def read(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(request.path_qs)
        self.tokens.append(request.headers.get("Authorization"))
        status = self.statuses.get("activation", 200)
        return web.json_response(self.activation[request.query["side"]], status=status)

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(f"subscribe {await request.text()}")
        status = self.statuses.get("subscribe", 200)
        number = sum(call.startswith("subscribe") for call in self.calls)
        token = make_jwt(self.now_s + self.token_life_s, jti=number) if self.has_token else None
        answer = {"stream_url": f"{self.url}/ws", "token": token, "topics": ["activation"]}
        return web.json_response(answer, status=status)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.stream_tokens.append(request.headers.get("Authorization"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is web.WSMsgType.TEXT:
                self.refreshed.append(message.json())
        return socket

    async def tell(self, **payload: Any) -> None:
        message = {"event": "activation_updated", "data": {"version": 1, "world_id": "w", **payload}}
        for socket in self.sockets:
            if not socket.closed:
                await socket.send_json(message)

    def subscriptions(self) -> int:
        return sum(call.startswith("subscribe") for call in self.calls)


@asynccontextmanager
async def gateway() -> AsyncIterator[GatewayServer]:
    server = GatewayServer()
    app = web.Application()
    app.router.add_get("/worlds/w/activation", server.read)
    app.router.add_post("/events/subscribe", server.subscribe)
    app.router.add_get("/ws", server.stream)
    runner = TestServer(app)
    await runner.start_server(shutdown_timeout=0.1)
    server.url = f"http://127.0.0.1:{runner.port}"
    try:
        yield server
    finally:
        await asyncio.gather(*(socket.close() for socket in server.sockets))
        await runner.close()
