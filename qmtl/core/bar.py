"""Closed and forming candles."""

import msgspec


class Bar(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One closed candle: [open_ms, open_ms + interval) in UTC milliseconds, prices in quote units."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class BarError(ValueError):
    """A candle series breaks a rule; the message names the row and the rule."""


def find_fault(bars: list[Bar], interval_ms: int) -> str | None:
    """Return what is wrong with the first faulty row ("row 17: ..."), or None.

    Rows must ascend strictly on the interval's grid, be finite and positive, and hold
    low <= open, close <= high. Gaps are allowed.
    """
    previous = None
    for row, bar in enumerate(bars):
        prices = (bar.open, bar.high, bar.low, bar.close)
        if not all(0 < price < float("inf") for price in prices) or not 0 <= bar.volume < float("inf"):
            return f"row {row}: price or volume is not a positive finite number"
        if not bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high:
            return f"row {row}: low <= open, close <= high does not hold"
        if bar.open_ms % interval_ms:
            return f"row {row}: time {bar.open_ms} is not on the {interval_ms} ms grid"
        if previous is not None and bar.open_ms <= previous:
            return f"row {row}: time {bar.open_ms} is not after the row before it ({previous})"
        previous = bar.open_ms
    return None
