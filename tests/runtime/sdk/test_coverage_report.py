"""Every cell of a range is filled or lies in exactly one hole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.ranges import merge_ranges
from qmtl.runtime.sdk.coverage_report import DAY_S, Hole, bounds_of, report_coverage, share_by_day
from qmtl.runtime.sdk.fetch_plan import MissingReason
from qmtl.runtime.sdk.history import CoverageKind, CoverageSpan, SeriesKey

KEY = SeriesKey("ohlcv:binance:BTC/USDT:1h", 3_600)
H = 3_600
KINDS: tuple[CoverageKind, ...] = ("rows", "young", "empty", "empty_24h")
REASONS: tuple[MissingReason, ...] = ("pending", "budget", "failed", "no_source")


def spans_of(cells: list[CoverageKind | None]) -> list[CoverageSpan]:
    return [CoverageSpan(H * n, H * (n + 1), kind) for n, kind in enumerate(cells) if kind]


def test_holes_carry_the_reason_they_were_given() -> None:
    spans = [
        CoverageSpan(0, 2 * H, "rows"),
        CoverageSpan(3 * H, 4 * H, "empty"),
        CoverageSpan(8 * H, 9 * H, "young"),
    ]
    report = report_coverage(KEY, spans, 0, 10 * H, [(4 * H, 6 * H, "failed"), (5 * H, 7 * H, "pending")])
    assert (report.filled, report.cells) == (3, 10)
    assert report.holes == [
        Hole(2 * H, 3 * H, "no_source"),
        Hole(3 * H, 4 * H, "confirmed_empty"),
        Hole(4 * H, 6 * H, "failed"),
        Hole(6 * H, 7 * H, "pending"),
        Hole(7 * H, 8 * H, "no_source"),
        Hole(9 * H, 10 * H, "no_source"),
    ]
    assert [hole.reason for hole in report.missing].count("confirmed_empty") == 0
    assert bounds_of(spans) == (0, 9 * H)
    assert bounds_of(spans[1:2]) is None
    assert report_coverage(KEY, spans, H, H).cells == 0


CELLS = st.lists(st.sampled_from([None, *KINDS]), max_size=80)
EXPLAINED = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80), st.sampled_from(REASONS)), max_size=4)


@pytest.mark.fuzz
@given(CELLS, st.integers(0, 80), st.integers(0, 80), EXPLAINED)
def test_every_cell_is_filled_or_in_one_hole(
    cells: list[CoverageKind | None], a: int, b: int, told: list[tuple[int, int, MissingReason]]
) -> None:
    start, end = sorted((a, b))
    explained = [(H * min(x, y), H * max(x, y), reason) for x, y, reason in told]
    report = report_coverage(KEY, spans_of(cells), H * start, H * end, explained)
    kinds = [cells[n] if n < len(cells) else None for n in range(start, end)]
    assert report.filled == sum(kind in {"rows", "young"} for kind in kinds)
    assert report.cells == end - start
    assert report.holes == sorted(report.holes)
    in_holes = [n for hole in report.holes for n in range(hole.start // H, hole.end // H)]
    assert sorted(in_holes) == [n for n in range(start, end) if kinds[n - start] not in {"rows", "young"}]
    for hole in report.holes:
        for n in range(hole.start // H, hole.end // H):
            is_empty = kinds[n - start] in {"empty", "empty_24h"}
            assert (hole.reason == "confirmed_empty") == is_empty
            if not is_empty:
                first = next((r for x, y, r in explained if x <= n * H < y), "no_source")
                assert hole.reason == first
    days = share_by_day(spans_of(cells), H * start, H * end)
    assert [day.day for day in days] == sorted({H * n // DAY_S * DAY_S for n in range(start, end)})
    assert round(sum(day.filled for day in days) * 24) == report.filled
    assert round(sum(day.asked for day in days) * 24) == report.cells
    hours = [h for h in report.holes if h.reason == "confirmed_empty"]
    assert round(sum(day.empty for day in days) * DAY_S) == sum(h.end - h.start for h in merge_holes(hours))


def merge_holes(holes: list[Hole]) -> list[Hole]:
    return [Hole(a, b, "confirmed_empty") for a, b in merge_ranges([(h.start, h.end) for h in holes])]
