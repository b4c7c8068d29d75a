"""A real WebSocket server on loopback whose every connection goes as its script says."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Scene = Callable[[web.WebSocketResponse], Awaitable[None]]


RAW: set[Scene] = set()


def raw(scene: Scene) -> Scene:
    """Let a scene see and answer pings and pongs itself."""
    RAW.add(scene)
    return scene


class SocketServer:
    """Plays one scene per connection, the last one again and again; an int refuses with that status."""

    def __init__(self, scenes: Sequence[Scene | int]) -> None:
        self.scenes = list(scenes)
        self.tokens: list[str | None] = []
        self.paths: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        scene = self.scenes[min(len(self.tokens), len(self.scenes) - 1)]
        self.tokens.append(request.headers.get("Authorization"))
        self.paths.append(request.path_qs)
        if isinstance(scene, int):
            return web.Response(status=scene)
        socket = web.WebSocketResponse(autoping=scene not in RAW)
        await socket.prepare(request)
        await scene(socket)
        return socket

    @property
    def connects(self) -> int:
        return len(self.tokens)


@asynccontextmanager
async def serving(*scenes: Scene | int) -> AsyncIterator[SocketServer]:
    server = SocketServer(scenes)
    app = web.Application()
    app.router.add_get("/{rest:.*}", server.handle)
    runner = TestServer(app)
    await runner.start_server(shutdown_timeout=0.1)
    server.url = f"ws://127.0.0.1:{runner.port}"
    try:
        yield server
    finally:
        await runner.close()


async def listen(socket: web.WebSocketResponse) -> None:
    """Answer pings, say nothing."""
    async for _ in socket:
        pass


@raw
async def deaf(socket: web.WebSocketResponse) -> None:
    """Keep the connection and never read from it: half-open."""
    await asyncio.sleep(30)


async def hang_up(socket: web.WebSocketResponse) -> None:
    """Accept, then close."""
    await socket.close()


async def expel(socket: web.WebSocketResponse) -> None:
    """Accept, then close with 1008."""
    await socket.close(code=1008)


def say(*messages: Any, then: Scene = listen) -> Scene:
    """Send messages (text as it is, all else as JSON), then go on with another scene."""

    async def scene(socket: web.WebSocketResponse) -> None:
        for message in messages:
            await socket.send_str(message if isinstance(message, str) else json.dumps(message))
        await then(socket)

    return scene


def make_jwt(exp_s: float, **claims: Any) -> str:
    """An unsigned JSON web token that expires."""
    parts = [{"alg": "none"}, {"exp": exp_s, **claims}]
    body = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*body, "x"])


async def until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until something holds; AssertionError when it does not in time."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.002)
