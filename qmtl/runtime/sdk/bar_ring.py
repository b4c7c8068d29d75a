"""The last closed bars of one symbol, so that a window of them is a slice and not a copy."""

from typing import Any

import numpy as np

from qmtl.engine.candle_path import BarLike
from qmtl.runtime.sdk.bars import Bars


class BarRing:
    """Keeps the last `keep` bars; a bar that is not after the last one is left out."""

    def __init__(self, keep: int, *, symbol: str, interval: str) -> None:
        self.keep = max(1, keep)
        self.symbol, self.interval = symbol, interval
        # Twice the room: the rows are moved to the front once in `keep` bars.
        room = 2 * self.keep + 2
        self._times = np.zeros(room, np.int64)
        self._columns = np.zeros((5, room))
        self._end = 0

    def __len__(self) -> int:
        return min(self._end, self.keep)

    @property
    def last_ms(self) -> int:
        """When the newest bar opened, -1 before the first."""
        return int(self._times[self._end - 1]) if self._end else -1

    def push(self, bar: BarLike) -> None:
        """Take the next closed bar."""
        if bar.open_ms <= self.last_ms:
            return
        if self._end > 2 * self.keep:
            start = self._end - self.keep
            # Views that were handed out keep the old arrays: what somebody holds must not change.
            times, columns = np.zeros_like(self._times), np.zeros_like(self._columns)
            times[: self.keep] = self._times[start : self._end]
            columns[:, : self.keep] = self._columns[:, start : self._end]
            self._times, self._columns, self._end = times, columns, self.keep
        self._write(self._end, bar)
        self._end += 1

    def _write(self, at: int, bar: BarLike) -> None:
        self._times[at] = bar.open_ms
        self._columns[:, at] = (bar.open, bar.high, bar.low, bar.close, bar.volume)

    def last(self, count: int) -> Bars:
        """Return the newest `count` closed bars, or as many as there are."""
        start = max(0, self._end - min(count, self.keep))
        return self._view(self._times, self._columns, start, self._end)

    def last_with(self, count: int, forming: BarLike) -> Bars:
        """Return the newest `count` - 1 closed bars and the forming one after them."""
        self._write(self._end, forming)
        start = max(0, self._end - min(count - 1, self.keep))
        end = self._end + 1
        times, columns = self._times[start:end].copy(), self._columns[:, start:end].copy()
        return self._view(times, columns, 0, end - start, is_forming=True)

    def _view(self, times: Any, columns: Any, start: int, end: int, *, is_forming: bool = False) -> Bars:
        return Bars(
            times[start:end],
            *columns[:, start:end],
            symbol=self.symbol,
            interval=self.interval,
            is_forming=is_forming,
        )

    def dump(self) -> list[list[Any]]:
        """Return plain rows from which `load` restores."""
        start = self._end - len(self)
        columns = [self._times[start : self._end].tolist()]
        columns += [column[start : self._end].tolist() for column in self._columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def load(self, rows: list[list[Any]]) -> None:
        """Restore what `dump` returned."""
        self._end = 0
        for open_ms, *prices in rows:
            self._times[self._end] = open_ms
            self._columns[:, self._end] = prices
            self._end += 1
