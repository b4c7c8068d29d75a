"""What a request means on its grid, and what each stage still has to bring; pure."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from qmtl.core.ranges import Range, clip_ranges, intersect_ranges, merge_ranges, snap_range, subtract_ranges
from qmtl.runtime.sdk.history import CLOSE_GRACE_S, CoverageSpan, SeriesKey, grid_offset

if TYPE_CHECKING:
    import polars as pl

MissingReason = Literal["pending", "budget", "failed", "no_source"]
"""Why a cell is not there: being fetched, cut off by a budget, the fetch failed, nobody could be asked."""

RECENT_CELLS = 10
"""The live feed is asked when one of so many newest closed cells is missing."""


class FetchWindow(NamedTuple):
    """A request on its grid: cells [first, last), of which those before `closed_until` are closed.

    From `young_from` on cells are young: stored and returned, but not yet final. `newest_closed` is the end
    of the newest closed cell of all, inside the request or not. Seconds.
    """

    key: SeriesKey
    start: int
    end: int
    first: int
    last: int
    closed_until: int
    young_from: int
    newest_closed: int

    @property
    def closed(self) -> list[Range]:
        """The closed cells, as at most one range."""
        return [(self.first, self.closed_until)] if self.first < self.closed_until else []

    @property
    def recent(self) -> list[Range]:
        """The closed cells the live feed may still bring."""
        oldest = self.newest_closed - RECENT_CELLS * self.key.interval
        return clip_ranges(self.closed, oldest, self.closed_until)

    @property
    def closed_cells(self) -> int:
        """How many cells are closed."""
        return (self.closed_until - self.first) // self.key.interval

    @property
    def forming(self) -> int | None:
        """The cell that is open now, if the request asks for it."""
        return self.newest_closed if self.first <= self.newest_closed < self.last else None


def check_request(start: Any, end: Any, interval: Any) -> None:
    """Raise ValueError unless 0 <= start <= end and interval > 0, all whole."""
    for name, value, least in (("start", start, 0), ("end", end, 0), ("interval", interval, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}: expected whole seconds of at least {least}, got {value!r}")
    if start > end:
        raise ValueError(f"start {start} is after end {end}")


def plan_window(
    key: SeriesKey,
    start: int,
    end: int,
    *,
    now_s: int,
    stabilization_bars: int,
    offset: int | None = None,
) -> FetchWindow:
    """Return the window of a request at `now_s`; ValueError when start, end or interval are wrong."""
    step = key.interval
    check_request(start, end, step)
    at = grid_offset(step) if offset is None else offset
    first, last = snap_range(start, end, step, at)
    newest_closed = (now_s - CLOSE_GRACE_S - at) // step * step + at
    # The first cell with ts + step > now - N * step.
    young_from = (now_s - (stabilization_bars + 1) * step - at) // step * step + at + step
    return FetchWindow(
        key,
        start,
        end,
        first,
        last,
        closed_until=min(max(newest_closed, first), last),
        young_from=young_from,
        newest_closed=newest_closed,
    )


def covered_ranges(spans: Iterable[CoverageSpan], young_from: int) -> list[Range]:
    """Return what need not be fetched: a young span counts until it is old, then it is fetched once more."""
    ranges = []
    for start, end, kind in spans:
        begin = max(start, young_from) if kind == "young" else start
        if begin < end:
            ranges.append((begin, end))
    return merge_ranges(ranges)


def empty_ranges(spans: Iterable[CoverageSpan]) -> list[Range]:
    """Return what is confirmed empty."""
    return merge_ranges([(start, end) for start, end, kind in spans if kind in {"empty", "empty_24h"}])


def provisional_ranges(spans: Iterable[CoverageSpan]) -> list[Range]:
    """Return what is stored but was young when it was."""
    return merge_ranges([(start, end) for start, end, kind in spans if kind == "young"])


def left_after(window: FetchWindow, brought: Sequence[Range]) -> list[Range]:
    """Return the closed cells that nobody brought yet; `brought` is sorted and disjoint."""
    return subtract_ranges(window.closed, brought)


def split_ranges(ranges: Iterable[Range], width: int) -> list[Range]:
    """Return `ranges` cut into pieces of at most `width` seconds, counted from each one's start."""
    return [(at, min(at + width, end)) for start, end in ranges for at in range(start, end, width)]


def split_gaps(gaps: Sequence[Range], step: int, max_cells: int | None) -> tuple[list[Range], list[Range]]:
    """Return the gaps to fill while the caller waits, and those of more than `max_cells` cells."""
    if max_cells is None:
        return list(gaps), []
    short = [gap for gap in gaps if gap[1] - gap[0] <= max_cells * step]
    return short, [gap for gap in gaps if gap[1] - gap[0] > max_cells * step]


def runs_of(ts: "pl.Series", step: int) -> list[Range]:
    """Return the cells that hold rows as ranges; `ts` is strictly ascending and on the grid."""
    count = len(ts)
    if not count:
        return []
    first, last = int(ts[0]), int(ts[-1])
    if last - first == (count - 1) * step:
        return [(first, last + step)]
    values = ts.to_numpy()
    breaks = ((values[1:] - values[:-1]) != step).nonzero()[0]
    starts = [first, *(int(values[at + 1]) for at in breaks)]
    ends = [*(int(values[at]) + step for at in breaks), last + step]
    return list(zip(starts, ends, strict=True))


def explain_missing(
    missing: Sequence[Range], causes: Sequence[tuple[Sequence[Range], MissingReason]], rest: MissingReason
) -> list[tuple[int, int, MissingReason]]:
    """Return every missing range with the first cause that names it, `rest` where none does; ascending."""
    left, explained = list(missing), []
    for ranges, reason in causes:
        named = merge_ranges(ranges)
        explained += [(start, end, reason) for start, end in intersect_ranges(left, named)]
        left = subtract_ranges(left, named)
    explained += [(start, end, rest) for start, end in left]
    return sorted(explained)
