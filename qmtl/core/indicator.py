"""Incremental indicator kernels: one value in, O(1) amortised, floats in a ring.

Running sums drift and remember their past, so every kernel sums its window anew, oldest value first,
at each bar whose number since the epoch (open_ms // interval_ms) is a multiple of the window. Two
instances that were started at different times therefore agree to the last bit after one such bar.
"""

from collections import deque
from math import log, sqrt
from typing import Any

CANCELLED = 1e-6
"""A running sum smaller than this share of what was taken from it is no longer trusted."""


class RollingMoments:
    """Mean and sample standard deviation (ddof=1) of the last `window` values.

    `mean` and `std` are meaningful once `is_full`. Values are summed as differences to an anchor
    inside the window, which keeps squares of prices from cancelling; where they cancel all the same the
    window is summed anew. A window of one repeated value has exactly that mean and exactly no deviation.
    """

    __slots__ = (
        "_anchor",
        "_at",
        "_freedom",
        "_missing",
        "_ring",
        "_squares",
        "_sum",
        "is_full",
        "mean",
        "std",
        "window",
    )

    def __init__(self, window: int) -> None:
        if window < 2:
            raise ValueError(f"window: expected at least 2, got {window}")
        self.window = window
        self.is_full = False
        self.mean = 0.0
        self.std = 0.0
        self._freedom = window - 1
        self._missing = window
        self._ring = [0.0] * window
        self._at = 0
        self._anchor = 0.0
        self._sum = 0.0
        self._squares = 0.0

    def push(self, number: int, value: float) -> None:
        """Take the value of bar `number` (open_ms // interval_ms) and update `mean` and `std`."""
        window, freedom, ring, at = self.window, self._freedom, self._ring, self._at
        old = ring[at]
        ring[at] = value
        self._at = at + 1 if at < freedom else 0
        if self._missing:
            self._missing -= 1
            if not self._missing:
                self.is_full = True
                self._sum_anew(value)
            return
        if not number % window:
            self._sum_anew(value)
            return
        anchor = self._anchor
        new = value - anchor
        old -= anchor
        difference = new - old
        self._sum = total = self._sum + difference
        self._squares = squares = self._squares + difference * (new + old)
        mean = total / window
        spread = squares - total * mean
        if spread > (squares + old * old) * CANCELLED:
            self.mean = anchor + mean
            self.std = sqrt(spread / freedom)
        elif new or old or total or squares:
            self._sum_anew(value)
        else:
            self.mean, self.std = anchor, 0.0

    def _sum_anew(self, anchor: float) -> None:
        # A plain loop: the built-in sum() rounds differently from Python 3.12 on.
        total = squares = 0.0
        for value in self._ring[self._at :] + self._ring[: self._at]:
            difference = value - anchor
            total += difference
            squares += difference * difference
        self._anchor, self._sum, self._squares = anchor, total, squares
        mean = total / self.window
        spread = squares - total * mean
        self.mean = anchor + mean
        self.std = sqrt(spread / self._freedom) if spread > 0.0 else 0.0

    def dump(self) -> list[Any]:
        """Return plain data from which `load` restores every bit."""
        numbers = [self._anchor, self._sum, self._squares, self.mean, self.std]
        return [list(self._ring), self._at, self._missing, numbers]

    def load(self, state: list[Any]) -> None:
        """Restore what `dump` returned; ValueError when it belongs to another window."""
        ring, self._at, self._missing, numbers = state
        self._ring = _fit(ring, self.window)
        self.is_full = not self._missing
        self._anchor, self._sum, self._squares, self.mean, self.std = map(float, numbers)


class RollingExtremes:
    """Highest and lowest of the last `window` values, each value compared O(1) times."""

    __slots__ = ("_count", "_highs", "_lows", "window")

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"window: expected at least 1, got {window}")
        self.window = window
        self._count = 0
        self._highs: deque[tuple[int, float]] = deque()
        self._lows: deque[tuple[int, float]] = deque()

    @property
    def is_full(self) -> bool:
        """Tell whether `window` values were seen."""
        return self._count >= self.window

    @property
    def highest(self) -> float:
        """The highest value in the window; ValueError-free only after the first push."""
        return self._highs[0][1]

    @property
    def lowest(self) -> float:
        """The lowest value in the window; as `highest`."""
        return self._lows[0][1]

    def push(self, value: float) -> None:
        """Take the next value."""
        count = self._count
        self._count = count + 1
        oldest = count + 1 - self.window
        highs, lows = self._highs, self._lows
        while highs and highs[-1][1] <= value:
            highs.pop()
        highs.append((count, value))
        if highs[0][0] < oldest:
            highs.popleft()
        while lows and lows[-1][1] >= value:
            lows.pop()
        lows.append((count, value))
        if lows[0][0] < oldest:
            lows.popleft()

    def dump(self) -> list[Any]:
        """Return plain data from which `load` restores."""
        return [self._count, [list(pair) for pair in self._highs], [list(pair) for pair in self._lows]]

    def load(self, state: list[Any]) -> None:
        """Restore what `dump` returned."""
        self._count = state[0]
        self._highs = deque((int(at), float(value)) for at, value in state[1])
        self._lows = deque((int(at), float(value)) for at, value in state[2])


class RealizedVolatility:
    """Square root of the sum of squared log returns over the last `window` closes.

    Needs window + 1 closes; `value` is meaningful once `is_full`. Closes must be positive. Where an
    outlier leaves the window the rest is summed anew, so no trace of it stays.
    """

    __slots__ = ("_at", "_close", "_missing", "_ring", "_sum", "is_full", "value", "window")

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"window: expected at least 1, got {window}")
        self.window = window
        self.is_full = False
        self.value = 0.0
        self._close = 0.0
        self._missing = window
        self._ring = [0.0] * window
        self._at = 0
        self._sum = 0.0

    def push(self, number: int, close: float) -> None:
        """Take the close of bar `number` (open_ms // interval_ms) and update `value`."""
        before = self._close
        self._close = close
        if not before:
            return
        change = log(close / before)
        square = change * change
        window, ring, at = self.window, self._ring, self._at
        old = ring[at]
        ring[at] = square
        at += 1
        self._at = at if at < window else 0
        if self._missing:
            self._missing -= 1
            if not self._missing:
                self.is_full = True
                self._sum_anew()
            return
        total = self._sum + (square - old)
        if number % window and total >= old * CANCELLED:
            self._sum = total
            self.value = sqrt(total)
        else:
            self._sum_anew()

    def _sum_anew(self) -> None:
        total = 0.0
        for square in self._ring[self._at :] + self._ring[: self._at]:
            total += square
        self._sum = total
        self.value = sqrt(total)

    def dump(self) -> list[Any]:
        """Return plain data from which `load` restores every bit."""
        return [list(self._ring), self._at, self._missing, [self._close, self._sum, self.value]]

    def load(self, state: list[Any]) -> None:
        """Restore what `dump` returned; ValueError when it belongs to another window."""
        ring, self._at, self._missing, numbers = state
        self._ring = _fit(ring, self.window)
        self.is_full = not self._missing
        self._close, self._sum, self.value = map(float, numbers)


def _fit(ring: list[float], window: int) -> list[float]:
    if len(ring) != window:
        raise ValueError(f"state of a window of {len(ring)} does not fit a window of {window}")
    return [float(value) for value in ring]
