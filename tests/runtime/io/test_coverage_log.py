"""Marks upserted by start and kind say what a list of cells, each with its own kind, would say."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.runtime.io.coverage_log import FENCE, Mark, lay_marks, settle_marks

KINDS = ["rows", "young", "empty", "empty_24h"]
WRITES = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=3),
        st.integers(0, 2),
    ),
    max_size=14,
)


def store(marks: dict[tuple[int, str], Mark], added: list[Mark]) -> None:
    marks.update({(mark.start, mark.kind): mark for mark in added})


@pytest.mark.fuzz
@given(WRITES)
def test_marks_mean_what_cells_mean(writes: list[tuple[str, list[tuple[int, int]], int]]) -> None:
    marks: dict[tuple[int, str], Mark] = {}
    cells: dict[int, str] = {}
    now = 100
    for kind, spans, later in writes:
        now += later  # often the same second
        ranges = [(start, start + length) for start, length in spans]
        store(marks, lay_marks(list(marks.values()), ranges, kind, now))
        above = {"rows"} if kind != "empty_24h" else {"rows", "empty"}
        for cell in {cell for start, end in ranges for cell in range(start, end)}:
            if kind == "rows" or cells.get(cell) not in above:
                cells[cell] = kind
        settled = settle_marks(marks.values())
        assert {cell: mark.kind for mark in settled for cell in range(mark.start, mark.end)} == cells
        assert all(a.end <= b.start for a, b in itertools.pairwise(settled))


@pytest.mark.fuzz
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=12))
def test_fences_remember_the_highest(claims: list[tuple[int, int]]) -> None:
    marks: dict[tuple[int, str], Mark] = {}
    cells: dict[int, int] = {}
    for fence, (start, length) in enumerate(claims, 1):
        store(marks, lay_marks(list(marks.values()), [(start, start + length)], FENCE, fence))
        cells |= dict.fromkeys(range(start, start + length), fence)
    settled = settle_marks(marks.values())
    assert {cell: mark.stamp for mark in settled for cell in range(mark.start, mark.end)} == cells


def test_a_series_that_grows_for_long_keeps_two_marks() -> None:
    marks: dict[tuple[int, str], Mark] = {}
    for bar in range(500):
        end = 6_000 + bar * 60
        store(marks, lay_marks(list(marks.values()), [(end - 120, end)], "young", end))
        store(marks, lay_marks(list(marks.values()), [(0, end - 60)], "rows", end))
    assert len(marks) <= 3
    assert [mark[:3] for mark in settle_marks(marks.values())] == [
        (0, 35_880, "rows"),
        (35_880, 35_940, "young"),
    ]


def test_what_is_known_already_is_not_written_again() -> None:
    mark = Mark(0, 600, "rows", 5)
    assert lay_marks([mark], [(60, 120)], "rows", 9) == []
    assert lay_marks([mark], [(60, 120)], "empty", 9) == []
    assert lay_marks([mark], [(600, 660)], "rows", 9) == [Mark(0, 660, "rows", 9)]
    # A check of the same hole moves its time, so it is a mark of its own.
    hole = Mark(600, 660, "empty_24h", 5)
    assert lay_marks([mark, hole], [(600, 660)], "empty_24h", 9) == [Mark(600, 660, "empty_24h", 9)]
