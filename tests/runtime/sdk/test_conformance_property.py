"""The table of conformance read aloud, row by row, beside the pipeline."""

import math
from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.sdk.conformance import (
    BLOCKING,
    ConformancePipeline,
    ConformancePipelineError,
)

START = 1_706_745_600
NOW = START + 60 * 12 + 30
NAMES = ("ts", "open", "high", "low", "close", "volume")
Row = tuple[Any, ...]

TIMES = st.one_of(
    st.integers(0, 15).map(lambda n: START + 60 * n),
    st.sampled_from([None, 0, -60, 10**11, START + 61, START * 1000]),
)
PRICES = st.sampled_from([1.0, 1.5, 2.0, 3.0])
BAD_VALUES = st.sampled_from([None, 0.0, -1.0, math.nan, math.inf, 1.0, 2.0, 9.0])
CLEAN_ROWS = st.tuples(TIMES, st.just(2.0), st.just(3.0), st.just(1.0), PRICES, st.just(5.0))
ANY_ROWS = st.tuples(TIMES, *[BAD_VALUES] * 5)
FRAMES = st.one_of(
    st.lists(st.one_of(CLEAN_ROWS, CLEAN_ROWS, ANY_ROWS), max_size=12),
    # What an exchange sends: in order, with holes, nothing else.
    st.sets(st.integers(0, 9)).map(
        lambda ns: [(START + 60 * n, 2.0, 3.0, 1.0, 2.5, 5.0) for n in sorted(ns)]
    ),
)


def row_flags(row: Row) -> set[str]:
    ts, opened, high, low, close, volume = row
    found = set()
    if ts is None or not 0 < ts < 10**11:
        found.add("invalid_timestamp")
    else:
        if ts % 60:
            found.add("misaligned_ts")
        if ts + 60 + 2 > NOW:
            found.add("forming_bar")
    values = (opened, high, low, close, volume)
    if any(value is None or not math.isfinite(value) for value in values):
        found.add("non_finite")
    elif not (0 < low <= min(opened, close) <= max(opened, close) <= high and volume >= 0):
        found.add("ohlc_inconsistent")
    return found


def plain(rows: list[Row]) -> tuple[list[Row], dict[str, int]]:
    counts: Counter[str] = Counter()
    kept: dict[int, Row] = {}
    for row in rows:
        flags = row_flags(row)
        counts.update(flags)
        if not flags:
            kept[row[0]] = row
    times = Counter(row[0] for row in rows if "invalid_timestamp" not in row_flags(row))
    counts["duplicate_ts"] = sum(count for count in times.values() if count > 1)
    left = [kept[ts] for ts in sorted(kept)]
    if left:
        counts["gap"] = (left[-1][0] - left[0][0]) // 60 + 1 - len(left)
    return left, {flag: count for flag, count in counts.items() if count}


@pytest.mark.fuzz
@given(FRAMES)
def test_33_the_pipeline_says_what_the_table_says(rows: list[Row]) -> None:
    schema = dict.fromkeys(NAMES, pl.Float64) | {"ts": pl.Int64}
    frame = pl.DataFrame(rows, schema={name: schema[name] for name in NAMES}, orient="row")
    clock = VirtualClock(NOW * 1000)
    expected, counts = plain(rows)
    out, report = ConformancePipeline("permissive-dev", clock=clock).normalize(frame, interval=60)
    assert dict(report.flags_counts) == counts
    assert out.rows() == expected
    assert len(report.warnings) == len(counts)
    strict = ConformancePipeline(clock=clock)
    if counts.keys() & set(BLOCKING):
        with pytest.raises(ConformancePipelineError) as caught:
            strict.normalize(frame, interval=60)
        assert dict(caught.value.report.flags_counts) == counts
    else:
        assert strict.normalize(frame, interval=60)[0].rows() == expected
