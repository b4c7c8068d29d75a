"""A server that floods one socket with kline frames: the other end of the live-path measurements."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from aiohttp import web


def _serve(pipe: Connection, frames: list[bytes]) -> None:
    texts = [frame.decode() for frame in frames]

    async def flood(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        for text in texts:
            await socket.send_str(text)
        await socket.receive()
        return socket

    async def now(_: web.Request) -> web.Response:
        return web.json_response({"serverTime": 0})

    async def nothing(_: web.Request) -> web.Response:
        return web.json_response([])

    async def listing(_: web.Request) -> web.Response:
        return web.json_response({"rateLimits": [], "symbols": []})

    async def start() -> None:
        app = web.Application()
        app.router.add_get("/market/stream", flood)
        app.router.add_get("/fapi/v1/time", now)
        app.router.add_get("/fapi/v1/exchangeInfo", listing)
        app.router.add_get("/fapi/v1/klines", nothing)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    import asyncio

    import uvloop

    uvloop.run(start())


@contextmanager
def serve(frames: list[bytes]) -> Iterator[str]:
    """Run the server in a process of its own; yields `127.0.0.1:port`."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, frames), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join(5)
