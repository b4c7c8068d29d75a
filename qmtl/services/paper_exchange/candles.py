"""Where a paper market's candles come from: a recorded file, or a seeded market without end."""

import itertools
from collections.abc import Iterator
from decimal import Decimal
from math import cos, exp, log, pi, sqrt
from pathlib import Path

import msgspec

from qmtl.core.bar import Bar, BarError, find_fault
from qmtl.core.interval import FUNDING_MS
from qmtl.engine.clock import SeededRandom
from qmtl.runtime.io.history_file import read_candles, read_rates
from qmtl.services.paper_exchange.settings import MarketSettings

MINUTE_MS = 60_000
_SIGMA = 0.0005
"""Standard deviation of one synthetic minute: 0.05 %, about what BTC/USDT does in a quiet year."""
_MAX_DECIMALS = 8


class CandleSeries(msgspec.Struct):
    """Candles closed before the start, and those to come.

    `shift_ms` was added to recorded times; the decimals are those the numbers need to print exactly.
    """

    history: list[Bar]
    future: Iterator[Bar]
    price_decimals: int
    volume_decimals: int
    shift_ms: int = 0
    is_synthetic: bool = False


def open_candles(settings: MarketSettings, now_ms: int) -> CandleSeries:
    """Return the candles of a market around `now_ms`; BarError names file, row or columns of a bad file."""
    if settings.candles is None:
        return _synthetic(settings, now_ms)
    bars = load_candles(settings.candles)
    shift_ms = 0
    if settings.is_shifted:
        if not 0 < settings.ahead < len(bars):
            raise BarError(f"{settings.candles}: {len(bars)} candles; ahead must be 1 to {len(bars) - 1}")
        shift_ms = now_ms - now_ms % MINUTE_MS - bars[-settings.ahead].open_ms
        bars = [_moved(bar, shift_ms) for bar in bars]
    first = next((i for i, bar in enumerate(bars) if bar.open_ms + MINUTE_MS > now_ms), len(bars))
    prices = _decimals(value for bar in bars for value in (bar.open, bar.high, bar.low, bar.close))
    volumes = _decimals(bar.volume for bar in bars)
    return CandleSeries(bars[:first], iter(bars[first:]), prices, volumes, shift_ms)


def load_candles(path: Path) -> list[Bar]:
    """Read 1m candles from any file `history_file` reads, sorted, closed, in UTC milliseconds.

    Whole numbers that do not tell their unit count milliseconds, as the venue's do. BarError names the
    file and the row or the columns; FileNotFoundError stays one.
    """
    bars = [Bar(*row) for row in read_candles(path, unit="ms").iter_rows()]
    if not bars:
        raise BarError(f"{path}: no candles")
    fault = find_fault(bars, MINUTE_MS)
    if fault is not None:
        raise BarError(f"{path}: {fault}")
    return bars


def load_funding(path: Path | None) -> dict[int, float]:
    """Read recorded funding rates (in column `open`) by the 8h slot they belong to; empty without a file."""
    if path is None:
        return {}
    return {time // FUNDING_MS: rate for time, rate in read_rates(path, unit="ms").iter_rows()}


def _moved(bar: Bar, shift_ms: int) -> Bar:
    return Bar(bar.open_ms + shift_ms, bar.open, bar.high, bar.low, bar.close, bar.volume)


def _decimals(values: Iterator[float]) -> int:
    most = 0
    for value in values:
        text = repr(value)
        if "e" in text:
            text = format(Decimal(text), "f")
        digits = len(text.partition(".")[2].rstrip("0"))
        most = max(most, digits)
    return min(most, _MAX_DECIMALS)


def _synthetic(settings: MarketSettings, now_ms: int) -> CandleSeries:
    start_ms = now_ms - now_ms % MINUTE_MS - settings.history * MINUTE_MS
    decimals = 1 if settings.price >= 1_000 else 4
    bars = _walk(SeededRandom(settings.seed), start_ms, settings.price, decimals)
    history = list(itertools.islice(bars, settings.history))
    return CandleSeries(history, bars, decimals, 3, is_synthetic=True)


def _walk(random: SeededRandom, start_ms: int, price: float, decimals: int) -> Iterator[Bar]:
    """Yield a log-normal walk that is pulled back gently, so that it never drifts out of sight."""
    anchor = log(price)
    level = anchor
    for open_ms in itertools.count(start_ms, MINUTE_MS):
        opened = level
        level += _SIGMA * _normal(random) + 0.0005 * (anchor - level)
        top = max(opened, level) + _SIGMA * 0.5 * abs(_normal(random))
        bottom = min(opened, level) - _SIGMA * 0.5 * abs(_normal(random))
        volume = round(exp(4.0 + 0.7 * _normal(random)), 3)
        first, high, low, last = (round(exp(value), decimals) for value in (opened, top, bottom, level))
        yield Bar(open_ms, first, high, low, last, volume)


def _normal(random: SeededRandom) -> float:
    """Box-Muller: the port knows uniform numbers only."""
    radius = sqrt(-2 * log(random.uniform(1e-12, 1.0)))
    return radius * cos(2 * pi * random.uniform(0.0, 1.0))
