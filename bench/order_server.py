"""A venue that sends a price and times the signed order it provokes: the other end of tick_to_order."""

import asyncio
import hashlib
import hmac
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from urllib.parse import parse_qs

import uvloop
from aiohttp import web

SECRET = "secret"
PAUSE_S = 0.004
OPEN_MS = 1_700_000_040_000


def frame(number: int) -> str:
    """Return the forming kline number `number` as the venue's combined stream sends it."""
    return (
        f'{{"stream":"btcusdt@kline_1m","data":{{"e":"kline","E":{OPEN_MS + number},"s":"BTCUSDT",'
        f'"k":{{"t":{OPEN_MS},"T":{OPEN_MS + 59_999},"s":"BTCUSDT","i":"1m","f":1,"L":2,'
        f'"o":"60000.0","c":"60000.{number % 10}",'
        f'"h":"60001.0","l":"59999.0","v":"1.000","n":1,"x":false,"q":"0","V":"0","Q":"0","B":"0"}}}}}}'
    )


class _Venue:
    """One socket out, one order endpoint in; latencies in microseconds."""

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.sent = 0.0
        self.arrived = asyncio.Event()
        self.latencies: list[float] = []
        self.numbers = 0

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await asyncio.sleep(0.2)
        self.latencies.clear()
        for _ in range(self.ticks):
            self.arrived.clear()
            while not self.arrived.is_set():
                # The first price only shows a trader that the stream is alive: it is sent again.
                self.numbers += 1
                self.sent = time.perf_counter()
                await socket.send_str(frame(self.numbers))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.arrived.wait(), 1)
            await asyncio.sleep(PAUSE_S)
        await socket.receive()
        return socket

    async def order(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        text = request.query_string + body
        payload, _, signature = text.rpartition("&signature=")
        wanted = hmac.new(SECRET.encode(), payload.encode(), hashlib.sha256).hexdigest()
        if signature != wanted:
            return web.json_response(
                {"code": -1022, "msg": "Signature for this request is not valid."}, status=400
            )
        self.latencies.append((time.perf_counter() - self.sent) * 1e6)
        self.arrived.set()
        order = parse_qs(payload)
        return web.json_response(
            {
                "orderId": len(self.latencies),
                "symbol": "BTCUSDT",
                "status": "NEW",
                "clientOrderId": order["newClientOrderId"][0],
                "price": "60000.0",
                "avgPrice": "0",
                "origQty": "0.01",
                "executedQty": "0",
                "cumQuote": "0",
                "timeInForce": "GTC",
                "type": "LIMIT",
                "reduceOnly": False,
                "closePosition": False,
                "side": "BUY",
                "positionSide": "BOTH",
                "stopPrice": "0",
                "workingType": "CONTRACT_PRICE",
                "origType": "LIMIT",
                "updateTime": OPEN_MS,
            }
        )

    async def results(self, _: web.Request) -> web.Response:
        if len(self.latencies) < self.ticks:
            return web.json_response([])
        found, self.latencies = self.latencies, []
        return web.json_response(found)


async def _now(_: web.Request) -> web.Response:
    return web.json_response({"serverTime": int(time.time() * 1000)})


async def _nothing(_: web.Request) -> web.Response:
    return web.json_response([])


def _serve(pipe: Connection, ticks: int) -> None:
    async def start() -> None:
        venue = _Venue(ticks)
        app = web.Application()
        app.router.add_get("/market/stream", venue.stream)
        app.router.add_post("/fapi/v1/order", venue.order)
        app.router.add_get("/results", venue.results)
        app.router.add_get("/fapi/v1/time", _now)
        app.router.add_get("/fapi/v1/klines", _nothing)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    uvloop.run(start())


@contextmanager
def serve(ticks: int) -> Iterator[str]:
    """Run the venue in a process of its own; yields `127.0.0.1:port`."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, ticks), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join(5)
