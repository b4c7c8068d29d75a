"""Half-open ranges [start, end) of whole numbers, as sorted disjoint lists; every operation is one sweep."""

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def merge_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Return `ranges`, in any order, as a sorted list in which none overlap or touch; empty ones go."""
    given = ranges if isinstance(ranges, list) else list(ranges)
    merged = _merge_ascending(given)
    return merged if merged is not None else _merge_ascending(sorted(given)) or []


def _merge_ascending(ranges: list[Range]) -> list[Range] | None:
    # None when a start is lower than one before. Lists are mostly sorted, and sorting costs more than the
    # sweep; a range that touches no other is kept as the object it is.
    merged: list[Range] = []
    last: Range = (0, 0)
    last_start = last_end = 0
    is_open = False
    for one in ranges:
        start, end = one
        if end <= start:
            continue
        if not is_open:
            last, last_start, last_end, is_open = one, start, end, True
        elif start > last_end:
            merged.append(last)
            last, last_start, last_end = one, start, end
        elif start < last_start:
            return None
        elif end > last_end:
            last_end = end
            last = (last_start, last_end)
    if is_open:
        merged.append(last)
    return merged


def subtract_ranges(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """Return what of `ranges` no hole covers; both are sorted and disjoint, and so is the result."""
    left: list[Range] = []
    at, count = 0, len(holes)
    for start, end in ranges:
        begin = start
        while at < count and holes[at][1] <= begin:
            at += 1
        here = at
        while here < count and holes[here][0] < end:
            hole_start, hole_end = holes[here]
            if hole_start > begin:
                left.append((begin, hole_start))
            begin = max(begin, hole_end)
            here += 1
        # A hole may reach into the next range, so only those that ended are passed for good.
        at = max(at, here - 1)
        if begin < end:
            left.append((begin, end))
    return left


def intersect_ranges(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """Return what is in both; both are sorted and disjoint, and so is the result."""
    both: list[Range] = []
    here = there = 0
    while here < len(ranges) and there < len(others):
        start, end = ranges[here]
        other_start, other_end = others[there]
        if end < other_end:
            here += 1
        else:
            there += 1
            end = other_end
        start = max(start, other_start)
        if start < end:
            both.append((start, end))
    return both


def clip_ranges(ranges: Sequence[Range], start: int, end: int) -> list[Range]:
    """Return what of `ranges` lies in [start, end)."""
    return intersect_ranges(ranges, [(start, end)]) if start < end else []


def measure_ranges(ranges: Iterable[Range]) -> int:
    """Return the sum of lengths."""
    return sum(end - start for start, end in ranges)


def snap_range(start: int, end: int, step: int, offset: int = 0) -> Range:
    """Return the grid cells whose start lies in [start, end) as one range on the grid `offset + n * step`."""
    first = start + (offset - start) % step
    last = end + (offset - end) % step
    return first, max(first, last)
