"""Candles of one symbol for a backtest, with what is known about them: coverage, holes, fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from qmtl.core.bar import BarError
from qmtl.core.interval import FUNDING_MS
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.history import grid_offset

_MINUTE_MS = 60_000


class Hole(NamedTuple):
    """A stretch [start_ms, end_ms) without candles, and why."""

    start_ms: int
    end_ms: int
    reason: str


class Funding(NamedTuple):
    """One funding payment: the rate that was paid at `ts_ms`, and the mark price where it is known."""

    ts_ms: int
    rate: float
    mark: float | None = None


@dataclass(frozen=True)
class MarketHistory:
    """Closed candles in [start_ms, end_ms), where they came from, and the funding paid meanwhile.

    `funding` is None where no rates are known at all. Candles that are absent are `holes`.
    """

    bars: Bars
    source: str
    node_id: str
    start_ms: int
    end_ms: int
    holes: Sequence[Hole] = ()
    funding: dict[int, Funding] | None = None

    @property
    def expected(self) -> int:
        """How many candles [start_ms, end_ms) has."""
        return (self.end_ms - self.start_ms) // self.bars.interval_ms

    @property
    def coverage(self) -> float:
        """Share of the expected candles that are there."""
        return len(self.bars) / self.expected if self.expected else 1.0

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:<hex>` of the candles."""
        bars = self.bars
        start, end, interval = self.start_ms // 1000, self.end_ms // 1000, bars.interval_ms // 1000
        return fingerprint(to_frame(bars), node_id=self.node_id, interval=interval, start=start, end=end)

    @cached_property
    def funding_print(self) -> str | None:
        """`sha256:<hex>` of the known rates of this range, None where nobody knows any."""
        if self.funding is None:
            return None
        slots = range(self.start_ms // FUNDING_MS, self.end_ms // FUNDING_MS + 1)
        rows = [(slot, one.rate, one.mark) for slot in slots if (one := self.funding.get(slot))]
        return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"

    def without(self, excluded: Sequence[tuple[int, int]]) -> list["MarketHistory"]:
        """Return the stretches that are left when `excluded` ([start, end) in ms) is cut out.

        Nothing ever joins across a cut: each stretch is a history of its own.
        """
        edges = [(self.start_ms, self.end_ms)]
        for cut_start, cut_end in excluded:
            edges = [
                piece
                for start, end in edges
                for piece in ((start, min(end, cut_start)), (max(start, cut_end), end))
                if piece[0] < piece[1]
            ]
        return [part for start, end in edges if len((part := self.between(start, end)).bars)]

    def between(self, start_ms: int, end_ms: int) -> "MarketHistory":
        """Return the part that lies in [start_ms, end_ms)."""
        start_ms, end_ms = max(start_ms, self.start_ms), min(end_ms, self.end_ms)
        first, last = np.searchsorted(self.bars.open_ms, (start_ms, end_ms)).tolist()
        holes = [
            Hole(max(hole.start_ms, start_ms), min(hole.end_ms, end_ms), hole.reason)
            for hole in self.holes
            if hole.start_ms < end_ms and hole.end_ms > start_ms
        ]
        bars = self.bars.slice(first, last)
        return MarketHistory(bars, self.source, self.node_id, start_ms, end_ms, holes, self.funding)


def make_history(
    bars: Bars,
    *,
    source: str,
    node_id: str,
    start_ms: int | None = None,
    end_ms: int | None = None,
    reason: str = "not in the data",
    reasons: Sequence[Hole] = (),
    funding: dict[int, Funding] | None = None,
) -> MarketHistory:
    """Make a history of candles that were checked by `check_bars`; holes are found, `reasons` names them.

    Without `start_ms` and `end_ms` the range is that of the candles. BarError when there are none.
    """
    if not len(bars):
        raise BarError(f"{source}: no candles")
    length = bars.interval_ms
    start_ms = int(bars.open_ms[0]) if start_ms is None else start_ms
    end_ms = int(bars.open_ms[-1]) + length if end_ms is None else end_ms
    holes = []
    for begin, end in find_gaps(bars, start_ms, end_ms):
        told = [hole.reason for hole in reasons if hole.start_ms < end and hole.end_ms > begin]
        holes.append(Hole(begin, end, "; ".join(dict.fromkeys(told)) or reason))
    return MarketHistory(bars, source, node_id, start_ms, end_ms, holes, funding)


def find_gaps(bars: Bars, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """Return the stretches of [start_ms, end_ms) without candles."""
    length = bars.interval_ms
    ends = np.concatenate(([start_ms], bars.open_ms + length))
    starts = np.concatenate((bars.open_ms, [end_ms]))
    rows = np.flatnonzero(starts > ends)
    return [(int(ends[row]), int(starts[row])) for row in rows]


def check_bars(bars: Bars, source: str) -> Bars:
    """Return `bars`; BarError names source, row and rule where a candle breaks one (see core.bar)."""
    prices = np.stack((bars.open, bars.high, bars.low, bars.close))
    with np.errstate(invalid="ignore"):
        is_number = (np.isfinite(prices) & (prices > 0)).all(axis=0)
        is_number &= np.isfinite(bars.volume) & (bars.volume >= 0)
        is_ordered = (bars.low <= np.minimum(bars.open, bars.close)) & (
            np.maximum(bars.open, bars.close) <= bars.high
        )
        is_on_grid = (bars.open_ms - 1000 * grid_offset(bars.interval_ms // 1000)) % bars.interval_ms == 0
        is_after = np.concatenate(([True], np.diff(bars.open_ms) > 0))
    for holds, rule in (
        (is_number, "price or volume is not a positive finite number"),
        (is_ordered, "low <= open, close <= high does not hold"),
        (is_on_grid, f"its time is not on the {bars.interval} grid"),
        (is_after, "its time is not after the row before it"),
    ):
        if not holds.all():
            raise BarError(f"{source}: row {int(np.argmin(holds))}: {rule}")
    return bars


def to_frame(bars: Bars) -> Any:
    """Return bars as a polars frame of `history.BAR_COLUMNS`, times in epoch seconds."""
    import polars as pl

    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    return pl.DataFrame({"ts": bars.open_ms // 1000, **columns})


def from_frame(frame: Any, *, symbol: str, interval: str) -> Bars:
    """Return the bars of a polars frame of `history.BAR_COLUMNS`."""
    columns = [frame[name].to_numpy() for name in ("open", "high", "low", "close", "volume")]
    times = frame["ts"].to_numpy().astype(np.int64) * 1000
    return Bars(times, *(column.copy() for column in columns), symbol=symbol, interval=interval)


def sum_by_slot(rates: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return what is due at each 8h slot of (time in ms, rate).

    Contracts that settle more often pay at a slot what fell due since the one before, so that a position held
    all the time pays the same. Times are taken to the minute; of a minute the last rate counts.
    """
    by_minute = {ts_ms // _MINUTE_MS: rate for ts_ms, rate in rates}
    due: dict[int, float] = {}
    for minute, rate in sorted(by_minute.items()):
        # Up to the next slot, or the one a minute ago: exchanges stamp some milliseconds beside the time.
        slot = -((_MINUTE_MS - minute * _MINUTE_MS) // FUNDING_MS)
        due[slot] = round(due.get(slot, 0.0) + rate, 12)
    return due


def slots_between(start_ms: int, end_ms: int) -> range:
    """Return the funding times in (start_ms, end_ms]."""
    first = (start_ms // FUNDING_MS + 1) * FUNDING_MS
    return range(first, end_ms + 1, FUNDING_MS)
