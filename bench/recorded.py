"""Candles for the measurements: recorded ones where they are, else a seeded walk that says so."""

import os
import random
from decimal import Decimal
from pathlib import Path

from qmtl.core.bar import Bar
from qmtl.core.event import BarClosed
from qmtl.core.instrument import Instrument
from qmtl.engine.candle_path import candle_ticks

MINUTE_MS = 60_000
FILE = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"
BTCUSDT = Instrument(
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=Decimal("0.1"),
    lot_size=Decimal("0.001"),
    min_quantity=Decimal("0.001"),
    max_quantity=Decimal(1000),
    market_max_quantity=Decimal(120),
    min_notional=Decimal(100),
)


def load_bars(count: int) -> tuple[list[Bar], str]:
    """Return `count` one-minute candles and where they come from."""
    import polars as pl

    path = Path(os.environ.get("QMTL_TEST_DATA", "../shared/data")) / FILE
    if not path.is_file():
        return _walk(count), "SYNTHETIC (recorded candles not found)"
    frame = pl.read_ipc(path).head(count)
    times = frame["date"].dt.epoch("ms").to_list()
    columns = [frame[name].to_list() for name in ("open", "high", "low", "close", "volume")]
    return [Bar(*row) for row in zip(times, *columns, strict=True)], f"recorded {path.name}"


def _walk(count: int) -> list[Bar]:
    source, price, bars = random.Random(1), 60_000.0, []
    for number in range(count):
        close = round(price * (1 + source.gauss(0, 0.0005)), 1)
        high, low = round(max(price, close) + 5, 1), round(min(price, close) - 5, 1)
        bars.append(Bar(1_700_000_040_000 + number * MINUTE_MS, price, high, low, close, 10.0))
        price = close
    return bars


def closed_events(bars: list[Bar], symbol: str = "BTCUSDT") -> list[BarClosed]:
    """Return the candles as the engine takes them."""
    return [
        BarClosed(b.open_ms + MINUTE_MS - 1, symbol, b.open_ms, b.open, b.high, b.low, b.close, b.volume)
        for b in bars
    ]


def kline_frames(bars: list[Bar], symbol: str = "BTCUSDT", repeats: int = 1) -> list[bytes]:
    """Return raw kline messages as the venue's combined stream sends them.

    Each candle is four updates, the three of the forming one `repeats` times: the venue sends one every
    250 ms.
    """
    frames = []
    for bar in bars:
        *forming, closing = candle_ticks(bar)
        for tick in (*(one for one in forming for _ in range(repeats)), closing):
            closed = "true" if tick.is_closed else "false"
            head = f'"e":"kline","E":{bar.open_ms + tick.offset_ms},"s":"{symbol}"'
            times = f'"t":{bar.open_ms},"T":{bar.open_ms + MINUTE_MS - 1},"s":"{symbol}","i":"1m","f":1,"L":2'
            prices = f'"o":"{bar.open}","c":"{tick.price}","h":"{tick.high}","l":"{tick.low}"'
            rest = f'"v":"{tick.volume:.3f}","n":100,"x":{closed},"q":"0","V":"0","Q":"0","B":"0"'
            name = f"{symbol.lower()}@kline_1m"
            text = f'{{"stream":"{name}","data":{{{head},"k":{{{times},{prices},{rest}}}}}}}'
            frames.append(text.encode())
    return frames
