"""Incremental indicator kernels: one value in, O(1) amortised, floats in a ring.

Running sums drift and remember their past, so every kernel sums its window anew, oldest value first,
at each bar whose number since the epoch (open_ms // interval_ms) is a multiple of the window. Two
instances that were started at different times therefore agree to the last bit after one such bar.
"""

from collections import deque
from math import log, sqrt
from typing import Any


class RollingMoments:
    """Mean and sample standard deviation (ddof=1) of the last `window` values.

    `mean` and `std` are meaningful once `is_full`. Values are summed as differences to an anchor
    inside the window, which keeps squares of prices from cancelling. A window of one repeated value
    has exactly that mean and exactly no deviation.
    """

    __slots__ = ("_anchor", "_at", "_last", "_ring", "_run", "_squares", "_sum", "mean", "std", "window")

    def __init__(self, window: int) -> None:
        if window < 2:
            raise ValueError(f"window: expected at least 2, got {window}")
        self.window = window
        self.mean = 0.0
        self.std = 0.0
        self._ring: list[float] = []
        self._at = 0
        self._anchor = 0.0
        self._sum = 0.0
        self._squares = 0.0
        self._last = 0.0
        self._run = 0

    @property
    def is_full(self) -> bool:
        """Tell whether `window` values were seen."""
        return len(self._ring) == self.window

    def push(self, number: int, value: float) -> None:
        """Take the value of bar `number` (open_ms // interval_ms) and update `mean` and `std`."""
        window = self.window
        ring = self._ring
        at = self._at
        if len(ring) < window:
            self._fill(value)
            return
        old = ring[at]
        ring[at] = value
        at += 1
        self._at = at if at < window else 0
        if value == self._last:
            self._run += 1
            if self._run >= window:
                self._settle(value)
                return
        else:
            self._last = value
            self._run = 1
        if number % window:
            anchor = self._anchor
            new = value - anchor
            old -= anchor
            difference = new - old
            total = self._sum + difference
            squares = self._squares + difference * (new + old)
            self._sum = total
            self._squares = squares
            self.mean = self._anchor + total / window
            spread = squares - total * total / window
            self.std = sqrt(spread / (window - 1)) if spread > 0.0 else 0.0
        else:
            self._sum_anew()

    def _fill(self, value: float) -> None:
        self._ring.append(value)
        self._run = self._run + 1 if self._run and value == self._last else 1
        self._last = value
        if len(self._ring) == self.window:
            if self._run >= self.window:
                self._settle(value)
            else:
                self._sum_anew()

    def _settle(self, value: float) -> None:
        self._anchor = self.mean = value
        self._sum = self._squares = self.std = 0.0

    def _sum_anew(self) -> None:
        # A plain loop: the built-in sum() rounds differently from Python 3.12 on.
        anchor = self._anchor = self._last
        total = squares = 0.0
        for value in self._ring[self._at :] + self._ring[: self._at]:
            difference = value - anchor
            total += difference
            squares += difference * difference
        self._sum, self._squares = total, squares
        self.mean = anchor + total / self.window
        spread = squares - total * total / self.window
        self.std = sqrt(spread / (self.window - 1)) if spread > 0.0 else 0.0

    def dump(self) -> list[Any]:
        """Return plain data from which `load` restores every bit."""
        sums = [self._anchor, self._sum, self._squares, self._last, self.mean, self.std]
        return [list(self._ring), self._at, self._run, sums]

    def load(self, state: list[Any]) -> None:
        """Restore what `dump` returned; ValueError when it belongs to another window."""
        ring, self._at, self._run, sums = state
        if len(ring) > self.window:
            raise ValueError(f"state of a window of {len(ring)} does not fit a window of {self.window}")
        self._ring = [float(value) for value in ring]
        self._anchor, self._sum, self._squares, self._last, self.mean, self.std = map(float, sums)


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

    Needs window + 1 closes; `value` is meaningful once `is_full`. Closes must be positive.
    """

    __slots__ = ("_at", "_close", "_quiet", "_ring", "_sum", "value", "window")

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"window: expected at least 1, got {window}")
        self.window = window
        self.value = 0.0
        self._close = 0.0
        self._ring: list[float] = []
        self._at = 0
        self._sum = 0.0
        self._quiet = 0

    @property
    def is_full(self) -> bool:
        """Tell whether `window` returns were seen."""
        return len(self._ring) == self.window

    def push(self, number: int, close: float) -> None:
        """Take the close of bar `number` (open_ms // interval_ms) and update `value`."""
        before = self._close
        self._close = close
        if not before:
            return
        change = log(close / before)
        square = change * change
        self._quiet = 0 if square else self._quiet + 1
        ring = self._ring
        if len(ring) < self.window:
            ring.append(square)
            if len(ring) == self.window:
                self._sum_anew()
            return
        at = self._at
        old = ring[at]
        ring[at] = square
        at += 1
        self._at = at if at < self.window else 0
        if self._quiet >= self.window:
            self._sum = self.value = 0.0
        elif number % self.window:
            total = self._sum + (square - old)
            self._sum = total
            self.value = sqrt(total) if total > 0.0 else 0.0
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
        return [list(self._ring), self._at, self._quiet, [self._close, self._sum, self.value]]

    def load(self, state: list[Any]) -> None:
        """Restore what `dump` returned; ValueError when it belongs to another window."""
        ring, self._at, self._quiet, numbers = state
        if len(ring) > self.window:
            raise ValueError(f"state of a window of {len(ring)} does not fit a window of {self.window}")
        self._ring = [float(square) for square in ring]
        self._close, self._sum, self.value = map(float, numbers)
