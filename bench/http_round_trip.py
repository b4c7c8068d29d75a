"""Round trip of one order over HTTP on loopback: HttpBrokerageClient beside httpx and requests.

The peers do the same POST with the same body on a kept connection and read the JSON answer: no id, no
journal, no risk, no policy. Ours does all of it, on a memory journal, synchronous and asynchronous.
"""

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import httpx
import requests
import uvloop
from aiohttp import web

from bench.measure import machine, write
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.runtime.sdk.brokerage.http_client import HttpBrokerageClient

ORDERS = 400
ROUNDS = 5
ORDER = {"symbol": "BTC/USDT", "side": "BUY", "type": "limit", "quantity": 0.01, "limit_price": 50_000.0}


def _serve(pipe: Connection) -> None:
    async def take(request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response(
            {"id": "1", "status": "accepted", "client_order_id": body.get("client_order_id")}
        )

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/orders", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    uvloop.run(start())


@contextmanager
def serve() -> Iterator[str]:
    """Run a broker that takes every order in a process of its own; yields its URL."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/orders"
    finally:
        process.terminate()
        process.join(5)


def timed(post: Callable[[], object]) -> list[float]:
    """Return microseconds of each of ORDERS calls after ten that are not counted."""
    for _ in range(10):
        post()
    times = []
    for _ in range(ORDERS):
        start = time.perf_counter()
        post()
        times.append((time.perf_counter() - start) * 1e6)
    return times


def ours_sync(url: str) -> list[float]:
    """Return the round trips of `post_order`."""
    client = HttpBrokerageClient(url, journal=MemoryJournal())
    return timed(lambda: client.post_order(ORDER))


async def ours_async(url: str) -> list[float]:
    """Return the round trips of `post_order_async`."""
    client = HttpBrokerageClient(url, journal=MemoryJournal())
    for _ in range(10):
        await client.post_order_async(ORDER)
    times = []
    for _ in range(ORDERS):
        start = time.perf_counter()
        await client.post_order_async(ORDER)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def theirs_requests(url: str) -> list[float]:
    """Return the round trips of a requests session."""
    with requests.Session() as session:
        return timed(lambda: session.post(url, json=ORDER, timeout=2.0).json())


def theirs_httpx(url: str) -> list[float]:
    """Return the round trips of an httpx client."""
    with httpx.Client(timeout=2.0) as client:
        return timed(lambda: client.post(url, json=ORDER).json())


async def theirs_httpx_async(url: str) -> list[float]:
    """Return the round trips of an asynchronous httpx client."""
    async with httpx.AsyncClient(timeout=2.0) as client:
        for _ in range(10):
            await client.post(url, json=ORDER)
        times = []
        for _ in range(ORDERS):
            start = time.perf_counter()
            (await client.post(url, json=ORDER)).json()
            times.append((time.perf_counter() - start) * 1e6)
        return times


def main() -> None:
    """Measure in turn, print medians of p50 and p99."""
    sides: dict[str, Callable[[str], list[float]]] = {
        "HttpBrokerageClient": ours_sync,
        "requests": theirs_requests,
        "httpx": theirs_httpx,
        "HttpBrokerageClient async": lambda url: uvloop.run(ours_async(url)),
        "httpx async": lambda url: uvloop.run(theirs_httpx_async(url)),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    with serve() as url:
        for _ in range(ROUNDS):
            for name, side in sides.items():
                times = sorted(side(url))
                found[name].append((times[len(times) // 2], times[int(len(times) * 0.99)]))
    print(machine(), f"requests {requests.__version__}, httpx {httpx.__version__}")
    rows = {}
    for name, pairs in found.items():
        p50, p99 = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        rows[name] = {"p50_us": p50, "p99_us": p99}
        print(f"{name}: p50 {p50:.0f} us, p99 {p99:.0f} us")
    write("http_round_trip", [], {"rows": rows})


if __name__ == "__main__":
    main()
