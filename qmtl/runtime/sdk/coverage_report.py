"""What a range of history holds and what it lacks: cells, holes with their reason, shares by day; pure."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from qmtl.core.ranges import Range, clip_ranges, measure_ranges, merge_ranges, subtract_ranges
from qmtl.runtime.sdk.fetch_plan import MissingReason
from qmtl.runtime.sdk.history import CoverageSpan, SeriesKey

DAY_S = 86_400
HoleReason = MissingReason | Literal["confirmed_empty"]
"""Why cells hold no rows: nobody brought them (see MissingReason), or the exchange has none."""


class Hole(NamedTuple):
    """Cells [start, end) without rows, and why."""

    start: int
    end: int
    reason: HoleReason


class CoverageReport(NamedTuple):
    """A range of a series on its grid: how many of its closed cells hold rows, and the holes between."""

    key: SeriesKey
    start: int
    end: int
    filled: int
    cells: int
    holes: list[Hole]

    @property
    def missing(self) -> list[Hole]:
        """The holes that rows may still be found for."""
        return [hole for hole in self.holes if hole.reason != "confirmed_empty"]


class DayShare(NamedTuple):
    """Shares of one UTC day, from 0 to 1: with rows, confirmed empty, and within the range at all."""

    day: int
    filled: float
    empty: float
    asked: float


def report_coverage(
    key: SeriesKey,
    spans: Iterable[CoverageSpan],
    start: int,
    end: int,
    explained: Sequence[tuple[int, int, MissingReason]] = (),
) -> CoverageReport:
    """Return what [start, end), on the grid, holds; holes that nobody explained have no source."""
    rows, empty = _split(spans, start, end)
    bare = subtract_ranges(subtract_ranges(_whole(start, end), rows), empty)
    holes = [Hole(*span, "confirmed_empty") for span in subtract_ranges(empty, rows)]
    for begin, finish, reason in explained:
        holes += [Hole(*part, reason) for part in clip_ranges(bare, begin, finish)]
        bare = subtract_ranges(bare, [(begin, finish)])
    holes += [Hole(*span, "no_source") for span in bare]
    filled = measure_ranges(rows) // key.interval
    return CoverageReport(key, start, end, filled, (end - start) // key.interval, sorted(holes))


def bounds_of(spans: Sequence[CoverageSpan]) -> Range | None:
    """Return where the rows of a series begin and end, None without any."""
    rows = [span for span in spans if span.kind in {"rows", "young"}]
    return (rows[0].start, rows[-1].end) if rows else None


def share_by_day(spans: Iterable[CoverageSpan], start: int, end: int) -> list[DayShare]:
    """Return the shares of every UTC day that [start, end) touches."""
    rows, empty = _split(spans, start, end)
    parts = [_by_day(ranges) for ranges in (rows, subtract_ranges(empty, rows), _whole(start, end))]
    return [DayShare(day, *(part.get(day, 0) / DAY_S for part in parts)) for day in sorted(parts[2])]


def _whole(start: int, end: int) -> list[Range]:
    return [(start, end)] if start < end else []


def _split(spans: Iterable[CoverageSpan], start: int, end: int) -> tuple[list[Range], list[Range]]:
    known = list(spans)
    rows = merge_ranges([(one.start, one.end) for one in known if one.kind in {"rows", "young"}])
    empty = merge_ranges([(one.start, one.end) for one in known if one.kind in {"empty", "empty_24h"}])
    return clip_ranges(rows, start, end), clip_ranges(empty, start, end)


def _by_day(ranges: Iterable[Range]) -> dict[int, int]:
    """Return the seconds of `ranges` in each day they touch, days named by their first second."""
    days: dict[int, int] = {}
    for start, end in ranges:
        at = start
        while at < end:
            day = at // DAY_S * DAY_S
            until = min(end, day + DAY_S)
            days[day] = days.get(day, 0) + until - at
            at = until
    return days
