"""Messages per second from a flooding socket to decisions, beside bare aiohttp + msgspec.

The anchor reads the same frames and decodes each into a typed kline, nothing else. Ours maps, tracks bars,
conflates what is backlogged, journals in memory and decides.
"""

import statistics
import time

import aiohttp
import msgspec
import uvloop

from bench.kline_server import serve
from bench.measure import machine, write
from bench.parse_decide import make_engine
from bench.recorded import kline_frames, load_bars
from qmtl.core.event import BarClosed
from qmtl.engine.clock import SeededRandom, SystemClock
from qmtl.runtime.io.binance_feed import BinanceFuturesFeed, FeedSettings
from qmtl.runtime.io.binance_futures import BinanceFuturesClient

CANDLES = 1_000
REPEATS = 20
"""61 updates a candle; the venue sends 240."""
ROUNDS = 5


class _Candle(msgspec.Struct):
    t: int
    o: str
    h: str
    l: str  # noqa: E741 - the venue's letter
    c: str
    v: str
    x: bool


class _Kline(msgspec.Struct):
    E: int
    k: _Candle


class _Frame(msgspec.Struct):
    data: _Kline


async def bare(host: str, count: int) -> float:
    """Return seconds a bare aiohttp + msgspec client needs from the first frame to the last."""
    decode = msgspec.json.Decoder(_Frame).decode
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"ws://{host}/market/stream", compress=0, max_msg_size=0, decode_text=False
        ) as socket,
    ):
        seen, start = 0, time.perf_counter()
        async for message in socket:
            decode(message.data)
            seen += 1
            if seen == count:
                break
        return time.perf_counter() - start


async def ours(host: str, last_open_ms: int) -> tuple[float, int]:
    """Return seconds until the last bar was decided on, and how many prices were conflated."""
    engine = make_engine()
    client = BinanceFuturesClient(
        "key", "secret", base_url=f"http://{host}", clock=SystemClock(), random=SeededRandom(1)
    )
    settings = FeedSettings(symbols=("BTCUSDT",), has_marks=False, clock_every_s=3600.0, kline_every_s=3600.0)
    feed = BinanceFuturesFeed(client, settings, ws_url=f"ws://{host}")
    start = time.perf_counter()
    async for event in feed.events():
        engine.process(event)
        if isinstance(event, BarClosed) and event.open_ms == last_open_ms:
            break
    elapsed = time.perf_counter() - start
    conflated = feed.conflated
    await feed.aclose()
    await client.aclose()
    return elapsed, conflated


def main() -> None:
    """Measure in turn, print medians."""
    bars, source = load_bars(CANDLES)
    frames = kline_frames(bars, repeats=REPEATS)
    count, last = len(frames), bars[-1].open_ms
    pairs, conflated = [], 0
    with serve(frames) as host:
        for turn in range(ROUNDS + 1):
            theirs = uvloop.run(bare(host, count))
            mine, conflated = uvloop.run(ours(host, last))
            if turn:
                pairs.append((count / mine, count / theirs))
    ratio = statistics.median(a / b for a, b in pairs)
    mine, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(machine(), source)
    print(
        f"flood: {mine:,.0f} messages/s decided ({conflated} of {count} conflated) · "
        f"bare aiohttp + msgspec {theirs:,.0f}/s · ratio {ratio:.2f} (wanted 0.70)"
    )
    write(
        "flood",
        [],
        {"source": source, "ours_per_s": mine, "bare_per_s": theirs, "ratio": ratio, "pairs": pairs},
    )


if __name__ == "__main__":
    main()
