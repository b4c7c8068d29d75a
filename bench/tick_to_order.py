"""Microseconds from a price leaving the venue to the signed order arriving there, on loopback.

Beside it a raw hand-written loop: one TCP socket read for WebSocket frames by hand, one written with
HTTP/1.1 text by hand, HMAC over the body. Then the same with the durable journal, beside bare FULL commits.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import sqlite3
import statistics
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import aiohttp
import uvloop

from bench.measure import machine, write
from bench.order_server import PAUSE_S, SECRET, serve
from bench.recorded import BTCUSDT
from qmtl.core.event import PriceUpdated, SessionSetup, SessionStarted, Transferred
from qmtl.core.order import OrderIntent, OrderType, Side, TimeInForce
from qmtl.engine.clock import SeededRandom, SystemClock
from qmtl.engine.engine import Engine
from qmtl.engine.journal import SqliteJournal
from qmtl.engine.live import LiveEngine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.strategy import Context, SilentStrategy
from qmtl.runtime.io.binance_feed import BinanceFuturesFeed, FeedSettings
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue

TICKS = 400
ROUNDS = 5


class Prober(SilentStrategy):
    """Sends one order at every price."""

    name = "prober"

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """Answer the price with an order."""
        ctx.submit(
            OrderIntent(
                symbol="BTCUSDT",
                side=Side.BUY,
                quantity=Decimal("0.01"),
                type=OrderType.LIMIT,
                limit_price=Decimal("60000.0"),
                time_in_force=TimeInForce.GTC,
            )
        )


async def _results(host: str) -> list[float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}/results") as answer:
        return [float(value) for value in await answer.json()]


async def ours(host: str, journal: MemoryJournal | SqliteJournal) -> list[float]:
    """Return the latency of every tick through feed, engine, journal, venue."""
    clock = SystemClock()
    engine = Engine(Prober(), journal)
    engine.process(
        SessionStarted(
            0, journal.epoch, "live", SessionSetup(strategy="bench:Prober", instruments=(BTCUSDT,))
        )
    )
    engine.process(Transferred(0, "USDT", Decimal(1_000_000)))
    client = BinanceFuturesClient(
        "key", SECRET, base_url=f"http://{host}", clock=clock, random=SeededRandom(1)
    )
    venue = BinanceFuturesVenue(client, ("BTCUSDT",))
    settings = FeedSettings(symbols=("BTCUSDT",), has_marks=False, clock_every_s=3600.0, kline_every_s=3600.0)
    feed = BinanceFuturesFeed(client, settings, ws_url=f"ws://{host}")
    live = LiveEngine(engine, journal, clock, [feed], venue=venue)
    task = asyncio.create_task(live.run())
    found: list[float] = []
    while not found:
        await asyncio.sleep(0.5)
        found = await _results(host)
    await live.stop("measured", wait_s=0.0)
    await task
    await client.aclose()
    return found


async def raw(host: str) -> list[float]:
    """Return the latency of every tick through the hand-written loop."""
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /market/stream HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    back, out = await asyncio.open_connection(name, int(port))
    for number in range(TICKS):
        head = await reader.readexactly(2)
        length = head[1] & 127
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2))
        await reader.readexactly(length)
        body = (
            "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=0.01&price=60000.0&timeInForce=GTC"
            f"&newClientOrderId=raw{number}&recvWindow=5000&timestamp={time.time_ns() // 1_000_000}"
        )
        signature = hmac.new(SECRET.encode(), body.encode(), hashlib.sha256).hexdigest()
        text = f"{body}&signature={signature}"
        out.write(
            f"POST /fapi/v1/order HTTP/1.1\r\nHost: {host}\r\nX-MBX-APIKEY: key\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        answer = await back.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await back.readexactly(size)
    found = await _results(host)
    writer.close()
    out.close()
    return found


def full_commit_us(folder: Path, count: int = 200) -> list[float]:
    """Return the time of bare SQLite commits with synchronous=FULL, one row each, at the pace of the ticks.

    A disk that was idle for some milliseconds answers later than one kept busy.
    """
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE IF NOT EXISTS rows(seq INTEGER PRIMARY KEY, body BLOB)")
    times = []
    for _ in range(count):
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO rows(body) VALUES (?)", (b"x" * 200,))
        db.execute("COMMIT")
        times.append((time.perf_counter() - start) * 1e6)
    db.close()
    return times


def _at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure in turn, print medians of p50 and p99."""
    rows = []
    with tempfile.TemporaryDirectory() as name, serve(TICKS) as host:
        folder = Path(name)
        for turn in range(ROUNDS + 1):
            theirs = uvloop.run(raw(host))
            mine = uvloop.run(ours(host, MemoryJournal()))
            durable = uvloop.run(ours(host, SqliteJournal(folder / f"{turn}.db", f"epoch{turn}")))
            commits = full_commit_us(folder)
            if turn:
                rows.append(
                    [_at(v, share) for v in (theirs, mine, durable, commits) for share in (0.5, 0.99)]
                )
    raw50, raw99, our50, our99, dur50, dur99, com50, com99 = (
        statistics.median(c) for c in zip(*rows, strict=True)
    )
    ratio50 = statistics.median(row[2] / row[0] for row in rows)
    ratio99 = statistics.median(row[3] / row[1] for row in rows)
    extra = statistics.median((row[4] - row[2]) / row[6] for row in rows)
    print(machine())
    print(f"raw loop p50 {raw50:.0f} us, p99 {raw99:.0f} us")
    print(f"memory journal p50 {our50:.0f} us ({ratio50:.2f} x), p99 {our99:.0f} us ({ratio99:.2f} x)")
    print(f"durable journal p50 {dur50:.0f} us, p99 {dur99:.0f} us: {extra:.2f} bare FULL commits more")
    print(f"bare FULL commit p50 {com50:.0f} us, p99 {com99:.0f} us")
    extras = {"rows": rows, "ratio_p50": ratio50, "ratio_p99": ratio99, "durable_in_commits": extra}
    write("tick_to_order", [], extras)


if __name__ == "__main__":
    main()
