"""Cost of one kline message from socket bytes to decision, beside the published pandas way."""

import time
from decimal import Decimal
from typing import cast

from bench.measure import machine, write
from bench.pandas_way import PandasTrader
from bench.recorded import BTCUSDT, kline_frames, load_bars
from qmtl.core.event import BarClosed, PriceUpdated, SessionSetup, SessionStarted, Transferred
from qmtl.engine.engine import Engine
from qmtl.engine.journal import MemoryJournal
from qmtl.runtime.io.binance_messages import BinanceMessageMapper
from qmtl.trader.callback import Callback

CANDLES = 5_000
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
    cpu_us_per_message(frames[:2000])
    pairs = [(cpu_us_per_message(frames), pandas_us_per_message(frames)) for _ in range(ROUNDS)]
    ours = sorted(pair[0] for pair in pairs)[ROUNDS // 2]
    theirs = sorted(pair[1] for pair in pairs)[ROUNDS // 2]
    print(machine(), source)
    print(
        f"parse + decide: {ours:.2f} us CPU per kline · pandas way: {theirs:,.0f} us"
        f" · {theirs / ours:,.0f} x less"
    )
    write("parse_decide", [], {"source": source, "ours_us": ours, "pandas_us": theirs, "pairs": pairs})


if __name__ == "__main__":
    main()
