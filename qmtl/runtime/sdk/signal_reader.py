"""What `signals` says at each bar: read from a table of a whole history, or computed on the last bars."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any, Protocol

import msgspec
import numpy as np

from qmtl.engine.candle_path import BarLike
from qmtl.runtime.sdk.bar_ring import BarRing
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.signals import Signals, check_signals
from qmtl.runtime.sdk.strategy import Strategy

LONG, SHORT, EXIT_LONG, EXIT_SHORT = 1, 2, 4, 8

Lines = Mapping[str, float]


class SignalReader(Protocol):
    """The signals of one symbol, bar by bar."""

    @property
    def missing(self) -> int:
        """How many bars are wanted still before one can be decided; 0 or less once the newest can be."""

    def push(self, bar: BarLike) -> None:
        """Take the next closed bar."""

    def read(self) -> tuple[int, dict[str, float]]:
        """Return the newest bar's signals as a mask, and its numbers: close, plotted lines, distance."""

    def closes(self, count: int) -> Any:
        """Return the last `count` closes, or as many as there are."""


def check(strategy: Strategy, bars: Bars) -> Signals:
    """Return the strategy's signals of `bars`, checked; whatever its code raises goes through."""
    return check_signals(strategy.signals(bars), len(bars), type(strategy).__name__)


def masks(signals: Signals) -> Any:
    """Return the signals as one mask a bar (uint8)."""
    return (
        signals.long * np.uint8(LONG)
        + signals.short * np.uint8(SHORT)
        + signals.exit_long * np.uint8(EXIT_LONG)
        + signals.exit_short * np.uint8(EXIT_SHORT)
    )


class TableReader:
    """Signals computed once over a history; the bars pushed must be its rows, in order."""

    def __init__(self, signals: Signals, bars: Bars, warmup: int) -> None:
        self._warmup = warmup
        self._row = -1
        found = masks(signals)
        self._masks: list[int] = found.tolist()
        self._close: list[float] = bars.close.tolist()
        self._lines = {name: line.tolist() for name, line in signals.plot.items()}
        self._times: list[int] = bars.open_ms.tolist()
        is_both = (found & (LONG | SHORT)) == LONG | SHORT
        self._asking: dict[int, list[int]] = {
            0: np.flatnonzero(found & (LONG | SHORT)).tolist(),
            1: np.flatnonzero((found & EXIT_LONG).astype(bool) | is_both).tolist(),
            -1: np.flatnonzero((found & EXIT_SHORT).astype(bool) | is_both).tolist(),
        }

    @property
    def missing(self) -> int:
        """See SignalReader."""
        return self._warmup - self._row - 1

    def push(self, bar: BarLike) -> None:
        """See SignalReader."""
        self._row = row = self._row + 1
        if self._times[row] != bar.open_ms:
            raise ValueError(f"bar {bar.open_ms} is not row {row} of the history ({self._times[row]})")

    def read(self) -> tuple[int, dict[str, float]]:
        """See SignalReader."""
        row = self._row
        numbers = {"close": self._close[row]}
        for name, line in self._lines.items():
            numbers[name] = line[row]
        return self._masks[row], numbers

    def quiet_times(self, side: int) -> list[int]:
        """Return opening times of the rows before the next that asks the flat (0), long or short for more."""
        row = self._row + 1
        asking = self._asking[side]
        found = bisect_left(asking, row)
        return self._times[row : asking[found] if found < len(asking) else len(self._times)]

    def skip(self, count: int) -> "TableRows":
        """Step over `count` rows; return them, to be asked for their numbers with `distance`."""
        row = self._row + 1
        self._row = row + count - 1
        return TableRows(self, row, row + count)

    def numbers(self, begin: int, end: int) -> list[dict[str, float]]:
        """Return the numbers of rows from `begin` up to `end`."""
        names = ("close", *self._lines)
        columns = (self._close, *self._lines.values())
        rows = zip(*(column[begin:end] for column in columns), strict=True)
        return [dict(zip(names, values, strict=True)) for values in rows]

    def closes(self, count: int) -> Any:
        """See SignalReader."""
        end = self._row + 1
        return self._close[max(0, end - count) : end]


class TableRows(msgspec.Struct, frozen=True):
    """Rows of a table from `begin` up to `end`, whose numbers are measured when somebody reads them."""

    table: TableReader
    begin: int
    end: int

    def __iter__(self) -> Iterator[dict[str, float]]:
        return map(measure_distance, self.table.numbers(self.begin, self.end))


class WindowReader:
    """Signals computed at each bar on the last `warmup` bars."""

    def __init__(self, strategy: Strategy, warmup: int, keep: int, *, symbol: str, interval: str) -> None:
        self._strategy = strategy
        self.warmup = warmup
        self.ring = BarRing(max(warmup, keep), symbol=symbol, interval=interval)
        self.others: Mapping[str, BarRing] = {}

    @property
    def missing(self) -> int:
        """See SignalReader."""
        return self.warmup - len(self.ring)

    def push(self, bar: BarLike) -> None:
        """See SignalReader."""
        self.ring.push(bar)

    def read(self) -> tuple[int, dict[str, float]]:
        """See SignalReader."""
        return self._newest(self._with_others(self.ring.last(self.warmup)))

    def read_forming(self, forming: BarLike) -> tuple[int, dict[str, float]]:
        """Return signals and numbers as if the forming bar had closed at its present price."""
        return self._newest(self._with_others(self.ring.last_with(self.warmup, forming)))

    def _with_others(self, bars: Bars) -> Bars:
        if not self.others:
            return bars
        return bars.with_others({name: ring.last(ring.keep) for name, ring in self.others.items()})

    def _newest(self, bars: Bars) -> tuple[int, dict[str, float]]:
        found = check(self._strategy, bars)
        mask = (
            LONG * bool(found.long[-1])
            + SHORT * bool(found.short[-1])
            + EXIT_LONG * bool(found.exit_long[-1])
            + EXIT_SHORT * bool(found.exit_short[-1])
        )
        numbers = {"close": float(bars.close[-1])}
        for name, line in found.plot.items():
            numbers[name] = float(line[-1])
        return mask, numbers

    def closes(self, count: int) -> Any:
        """See SignalReader."""
        return self.ring.last(count).close.tolist()


def measure_distance(numbers: dict[str, float]) -> dict[str, float]:
    """Add `distance`: how far (share of the close) the nearest plotted line is; lines without value go.

    Lines that are no prices (less than half or more than twice the close) are not near.
    """
    close = numbers["close"]
    nearest = limit = close / 2
    gone = []
    for name, value in numbers.items():
        distance = value - close if value > close else close - value
        if distance < nearest:
            if name != "close":
                nearest = distance
        elif isnan(distance):
            gone.append(name)
    for name in gone:
        del numbers[name]
    if nearest < limit:
        numbers["distance"] = nearest / close
    return numbers
