"""How price moved inside a candle: the assumption a simulation declares."""

from enum import StrEnum
from typing import NamedTuple, Protocol


class CandlePath(StrEnum):
    """The declared way through a candle; its value is printed in reports."""

    CLOSE_ONLY = "close only"
    OPEN_LOW_HIGH_CLOSE = "open-low-high-close"
    OPEN_HIGH_LOW_CLOSE = "open-high-low-close"

    def describe(self) -> str:
        """Say it in words for reports."""
        return f"candle path {self.value}"


class BarLike(Protocol):
    """A closed candle (`core.bar.Bar`, `core.event.BarClosed`), or a forming one (`PriceUpdated`)."""

    @property
    def open_ms(self) -> int:
        """Start in UTC milliseconds."""

    @property
    def open(self) -> float:
        """First price."""

    @property
    def high(self) -> float:
        """Highest price."""

    @property
    def low(self) -> float:
        """Lowest price."""

    @property
    def close(self) -> float:
        """Last price."""

    @property
    def volume(self) -> float:
        """Base units traded."""


class CandleTick(NamedTuple):
    """One update of a forming candle, `offset_ms` after its start."""

    offset_ms: int
    price: float
    high: float
    low: float
    volume: float
    is_closed: bool


def candle_ticks(
    bar: BarLike, path: CandlePath = CandlePath.OPEN_LOW_HIGH_CLOSE, interval_ms: int = 60_000
) -> tuple[CandleTick, ...]:
    """Return the updates a candle is published as, the last one closed.

    Four along `path`, at 0, 1/4, 1/2 and the last millisecond of its interval, a quarter of the volume
    each; CLOSE_ONLY is the closing update alone. High, low and volume are those so far.
    """
    o, h, lo, c, volume = bar.open, bar.high, bar.low, bar.close, bar.volume
    last = CandleTick(interval_ms - 1, c, h, lo, volume, True)
    if path is CandlePath.CLOSE_ONLY:
        return (last,)
    quarter, half = volume * 0.25, volume * 0.5
    first = CandleTick(0, o, o, o, quarter, False)
    if path is CandlePath.OPEN_LOW_HIGH_CLOSE:
        return (
            first,
            CandleTick(interval_ms // 4, lo, o, lo, half, False),
            CandleTick(interval_ms // 2, h, h, lo, volume * 0.75, False),
            last,
        )
    return (
        first,
        CandleTick(interval_ms // 4, h, h, o, half, False),
        CandleTick(interval_ms // 2, lo, h, lo, volume * 0.75, False),
        last,
    )
