"""Cost of one kline message from socket bytes to decision, beside the published pandas way.

At two paces: the venue's, which sends a candle every 250 ms, and the paper exchange's four updates a candle,
where every fourth message closes a bar and so costs bands, volatility and a recorded reason.
"""

import time
from decimal import Decimal
from typing import cast

from bench.measure import machine, write
from bench.pandas_way import PandasTrader
from bench.recorded import BTCUSDT, kline_frames, load_bars
from qmtl.core.event import BarClosed, PriceUpdated, SessionSetup, SessionStarted, Transferred
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.runtime.io.binance_messages import BinanceMessageMapper
from qmtl.trader.callback import Callback

CANDLES = 5_000
VENUE_CANDLES, VENUE_REPEATS = 250, 80
"""A forming candle is three prices, so that 241 messages make a minute."""
PANDAS_MESSAGES = 150
ROUNDS = 5


def make_engine() -> Engine:
    """Return the shipped trader on a memory journal, its session started."""
    engine = Engine(Callback(), MemoryJournal())
    setup = SessionSetup(strategy="qmtl.trader.callback:Callback", instruments=(BTCUSDT,))
    engine.process(SessionStarted(0, "bench", "dryrun", setup))
    engine.process(Transferred(0, "USDT", Decimal(100_000)))
    return engine


def cpu_us_per_message(frames: list[bytes]) -> float:
    """Return process CPU microseconds per message: parse, journal in memory, decide."""
    engine, parse = make_engine(), BinanceMessageMapper().parse
    process = engine.process
    start = time.process_time()
    for frame in frames:
        for event in parse(frame):
            process(cast("BarClosed | PriceUpdated", event))
    return (time.process_time() - start) / len(frames) * 1e6


def pandas_us_per_message(frames: list[bytes]) -> float:
    """Return the same for the pandas way, its frame filled first."""
    trader = PandasTrader()
    for frame in frames[:2000:4]:
        trader.on_message(frame)
    measured = frames[2000 : 2000 + PANDAS_MESSAGES]
    start = time.process_time()
    for frame in measured:
        trader.on_message(frame)
    return (time.process_time() - start) / len(measured) * 1e6


def main() -> None:
    """Measure in turn and print medians."""
    bars, source = load_bars(CANDLES)
    frames = kline_frames(bars)
    venue_frames = kline_frames(bars[:VENUE_CANDLES], repeats=VENUE_REPEATS)
    cpu_us_per_message(frames[:2000])
    rounds = [
        (
            cpu_us_per_message(venue_frames),
            cpu_us_per_message(frames),
            pandas_us_per_message(frames),
        )
        for _ in range(ROUNDS)
    ]
    ours, four, theirs = (sorted(column)[ROUNDS // 2] for column in zip(*rounds, strict=True))
    print(machine(), source)
    print(
        f"parse + decide: {ours:.2f} us CPU per kline at the venue's pace, {four:.2f} us at four a candle"
        f" · pandas way: {theirs:,.0f} us"
    )
    figures = {"ours_us": ours, "ours_four_a_candle_us": four, "pandas_us": theirs}
    write("parse_decide", [], {"source": source, **figures, "rounds": rounds, "wanted_us": 3.0})


if __name__ == "__main__":
    main()
