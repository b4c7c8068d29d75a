"""Half-open ranges [start, end) of whole numbers, as sorted disjoint lists; every operation is one sweep."""

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def merge_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Return `ranges`, in any order, as a sorted list in which none overlap or touch; empty ones go."""
    ordered = ranges if isinstance(ranges, list) else list(ranges)
    merged: list[Range] = []
    last_start = last_end = 0
    is_open = False
    for start, end in sorted(ordered):
        if end <= start:
            continue
        if is_open and start <= last_end:
            last_end = max(last_end, end)
            continue
        if is_open:
            merged.append((last_start, last_end))
        last_start, last_end, is_open = start, end, True
    if is_open:
        merged.append((last_start, last_end))
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
        start = max(ranges[here][0], others[there][0])
        end = min(ranges[here][1], others[there][1])
        if start < end:
            both.append((start, end))
        if ranges[here][1] < others[there][1]:
            here += 1
        else:
            there += 1
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
