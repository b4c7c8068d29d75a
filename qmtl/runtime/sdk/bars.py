"""Closed candles as columns: what `signals` and `ctx.bars(n)` are given."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qmtl.core.instrument import parse_symbol
from qmtl.core.interval import parse_interval
from qmtl.runtime.sdk.param import StrategyError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]

_COLUMNS = ("open", "high", "low", "close", "volume")
_WEEK_MS, _MONDAY_MS = 604_800_000, 345_600_000
"""Weekly candles open on Monday; the epoch was a Thursday."""


class Bars:
    """Candles of one symbol, oldest first, as read-only numpy columns.

    `open_ms` (int64, UTC milliseconds) names each opening; `open, high, low, close, volume` are float64.
    With `is_forming` the last row is the candle that has not closed, at the price it has now.
    """

    __slots__ = (
        "_base",
        "_others",
        "close",
        "high",
        "interval",
        "interval_ms",
        "is_forming",
        "low",
        "open",
        "open_ms",
        "symbol",
        "volume",
    )

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __init__(
        self,
        open_ms: Times,
        open: Floats,  # noqa: A002 - the name of the column
        high: Floats,
        low: Floats,
        close: Floats,
        volume: Floats,
        *,
        symbol: str = "",
        interval: str = "1m",
        others: Mapping[str, "Bars"] | None = None,
        is_forming: bool = False,
    ) -> None:
        self.open_ms, self.open, self.high = open_ms, open, high
        self.low, self.close, self.volume = low, close, volume
        self.symbol, self.interval, self.is_forming = symbol, interval, is_forming
        self.interval_ms = parse_interval(interval)
        self._others = others or {}
        self._base: Bars | None = None
        for column in (open_ms, open, high, low, close, volume):
            column.flags.writeable = False

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any], **details: Any) -> "Bars":
        """Make bars of anything with the columns open_ms, open, high, low, close, volume."""
        values = [np.array(columns[name], dtype=np.float64) for name in _COLUMNS]
        return cls(np.array(columns["open_ms"], dtype=np.int64), *values, **details)

    def __len__(self) -> int:
        return len(self.open_ms)

    def __repr__(self) -> str:
        return f"<Bars {self.symbol} {self.interval} × {len(self)}>"

    def slice(self, start: int, stop: int) -> "Bars":
        """Return rows [start, stop) without copying; other symbols stay whole and are cut when asked for."""
        columns = [getattr(self, name)[start:stop] for name in _COLUMNS]
        return Bars(
            self.open_ms[start:stop],
            *columns,
            symbol=self.symbol,
            interval=self.interval,
            others=self._others,
            is_forming=self.is_forming and stop >= len(self),
        )

    def with_others(self, others: Mapping[str, "Bars"]) -> "Bars":
        """Return the same bars, knowing those of other symbols by their exchange name (`ETHUSDT`)."""
        columns = [getattr(self, name) for name in _COLUMNS]
        return Bars(
            self.open_ms,
            *columns,
            symbol=self.symbol,
            interval=self.interval,
            others=others,
            is_forming=self.is_forming,
        )

    # --- other intervals and symbols ---------------------------------------------------------------

    def at(self, interval: str) -> "Bars":
        """Return the closed candles of a longer interval, on a timeline of their own.

        Only candles that lie wholly within these bars are there; `align` brings values back to them.
        StrategyError when `interval` is no multiple of the bars' own.
        """
        length = parse_interval(interval)
        if length % self.interval_ms:
            raise StrategyError(f"bars.at({interval!r}): expected a multiple of {self.interval}")
        offset = _MONDAY_MS if length == _WEEK_MS else 0
        opens = self.open_ms
        group = (opens - offset) // length
        first = np.flatnonzero(np.diff(group, prepend=group[:1] - 1)) if len(opens) else opens
        start = group[first] * length + offset
        whole = (start >= opens[:1]) & (start + length <= self._closed_until())
        last = np.append(first[1:], len(opens)) - 1
        coarse = Bars(
            start[whole],
            self.open[first][whole],
            _reduced(np.maximum, self.high, first)[whole],
            _reduced(np.minimum, self.low, first)[whole],
            self.close[last][whole],
            _reduced(np.add, self.volume, first)[whole],
            symbol=self.symbol,
            interval=interval,
        )
        coarse._base = self
        return coarse

    def align(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values of bars made by `at`, one for each of the bars they were made of.

        Each row holds the value of the last candle that had closed by the end of that row: NaN (False for
        booleans) before the first. StrategyError when there is not one value a candle.
        """
        base = self._base
        if base is None:
            raise StrategyError("align: only bars made by bars.at(interval) bring values back")
        if len(values) != len(self):
            raise StrategyError(f"align: {len(values)} values for {len(self)} candles of {self.interval}")
        ends = base.open_ms + base.interval_ms
        if base.is_forming:
            ends = np.append(ends[:-1], base.open_ms[-1])
        at = np.searchsorted(self.open_ms + self.interval_ms, ends, side="right") - 1
        return _picked(values, at)

    def of(self, symbol: str) -> "Bars":
        """Return another symbol's bars, one for each of these: the last that opened by then.

        Rows before its first bar are NaN. StrategyError names the symbols there are.
        """
        name = parse_symbol(symbol)
        if name == self.symbol:
            return self
        other = self._others.get(name)
        if other is None:
            known = ", ".join(sorted(self._others)) or "none"
            raise StrategyError(f"bars.of({symbol!r}): not among the strategy's other symbols ({known})")
        at = np.searchsorted(other.open_ms, self.open_ms, side="right") - 1
        columns = [_picked(getattr(other, column), at) for column in _COLUMNS]
        return Bars(self.open_ms, *columns, symbol=name, interval=self.interval, is_forming=self.is_forming)

    def _closed_until(self) -> int:
        if not len(self):
            return 0
        return int(self.open_ms[-1]) + (0 if self.is_forming else self.interval_ms)


def _reduced(ufunc: np.ufunc, column: Floats, first: npt.NDArray[np.int64]) -> Floats:
    return ufunc.reduceat(column, first) if len(first) else column[:0]


def _picked(values: npt.NDArray[Any], at: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return values[at], and nothing (NaN, False) where `at` is negative."""
    if not len(values):
        empty: npt.NDArray[Any] = (
            np.zeros(len(at), bool) if values.dtype == bool else np.full(len(at), np.nan)
        )
        return empty
    found = values[np.maximum(at, 0)]
    if at.size and at[0] < 0:
        found = found.copy() if values.dtype == bool else found.astype(np.float64)
        found[at < 0] = False if values.dtype == bool else np.nan
    return found
