"""Ranges behave as the sets of whole numbers they stand for."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.ranges import (
    Range,
    clip_ranges,
    intersect_ranges,
    measure_ranges,
    merge_ranges,
    snap_range,
    subtract_ranges,
)

NUMBERS = st.integers(-20, 60)
ANY = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12)
"""Overlapping, touching, empty and backward ranges, in any order."""
SORTED = ANY.map(merge_ranges)


def members(ranges: list[Range]) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


def is_canonical(ranges: list[Range]) -> bool:
    return all(start < end for start, end in ranges) and all(
        one[1] < following[0] for one, following in pairwise(ranges)
    )


@given(ANY)
def test_merging_keeps_every_number_once(ranges: list[Range]) -> None:
    before = list(ranges)
    merged = merge_ranges(ranges)
    assert is_canonical(merged)
    assert members(merged) == members(ranges)
    assert merge_ranges(iter(ranges)) == merged
    assert merge_ranges(merged) == merged
    assert ranges == before


@given(SORTED, SORTED)
def test_subtracting_leaves_what_no_hole_covers(ranges: list[Range], holes: list[Range]) -> None:
    left = subtract_ranges(ranges, holes)
    assert is_canonical(left)
    assert members(left) == members(ranges) - members(holes)


@given(SORTED, SORTED)
def test_intersecting_keeps_what_is_in_both(ranges: list[Range], others: list[Range]) -> None:
    both = intersect_ranges(ranges, others)
    assert is_canonical(both)
    assert members(both) == members(ranges) & members(others)
    assert both == intersect_ranges(others, ranges)


@given(SORTED, SORTED)
def test_a_range_is_what_is_left_and_what_is_shared(ranges: list[Range], holes: list[Range]) -> None:
    parts = subtract_ranges(ranges, holes) + intersect_ranges(ranges, holes)
    assert merge_ranges(parts) == ranges
    assert measure_ranges(parts) == measure_ranges(ranges) == len(members(ranges))


@given(SORTED, NUMBERS, NUMBERS)
def test_clipping_cuts_to_a_window(ranges: list[Range], start: int, end: int) -> None:
    clipped = clip_ranges(ranges, start, end)
    assert is_canonical(clipped)
    assert members(clipped) == members(ranges) & set(range(start, end))


@given(NUMBERS, NUMBERS, st.integers(1, 9), st.integers(0, 30))
def test_snapping_covers_the_cells_that_start_inside(start: int, end: int, step: int, offset: int) -> None:
    first, last = snap_range(start, end, step, offset)
    cells = [ts for ts in range(start, end) if (ts - offset) % step == 0]
    assert list(range(first, last, step)) == cells
    assert first <= last


@pytest.mark.parametrize("empty", [[], [(5, 5)], [(7, 3)]])
def test_nothing_is_nothing(empty: list[Range]) -> None:
    assert merge_ranges(empty) == []
    assert subtract_ranges([], [(0, 9)]) == []
    assert subtract_ranges([(0, 9)], []) == [(0, 9)]
    assert clip_ranges([(0, 9)], 9, 9) == clip_ranges([(0, 9)], 9, 3) == []
    assert measure_ranges([]) == 0


def test_15_work_grows_with_the_number_of_ranges_not_with_its_square() -> None:
    """Counts accesses, not seconds: the sweep passes each hole a bounded number of times."""

    class Counted(list[Range]):
        accesses = 0

        def __getitem__(self, index: Any) -> Any:
            Counted.accesses += 1
            return super().__getitem__(index)

    def accesses(count: int) -> int:
        Counted.accesses = 0
        ranges = [(n * 10, n * 10 + 9) for n in range(count)]
        left = subtract_ranges(ranges, Counted((n * 10 + 3, n * 10 + 5) for n in range(count)))
        assert len(left) == 2 * count
        return Counted.accesses

    assert accesses(8_000) <= 12 * accesses(1_000)
