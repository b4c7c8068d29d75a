"""Rows of a file put into a store: checked like an exchange's answer, holes left as holes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qmtl.core.bar import BarError
from qmtl.core.ranges import Range, clip_ranges, merge_ranges
from qmtl.runtime.io.history_file import Unit, read_bars, read_trades
from qmtl.runtime.sdk.conformance import ConformancePipeline, ConformancePipelineError, ConformanceReport
from qmtl.runtime.sdk.fetch_plan import plan_window, runs_of
from qmtl.runtime.sdk.history import HistoryStore, SeriesKey, grid_offset

if TYPE_CHECKING:
    import polars as pl

_ROWS_A_WRITE = 50_000


class Imported(NamedTuple):
    """Rows that were stored, the cells they span, and what conformance said of the file."""

    rows: int
    start: int
    end: int
    report: ConformanceReport


def read_history(
    path: Path, key: SeriesKey, conformance: ConformancePipeline, *, unit: Unit | None = None
) -> "tuple[pl.DataFrame, ConformanceReport]":
    """Return the rows of a file as a store takes them.

    BarError names the file and what is wrong: a row, a column, a rule of conformance.
    """
    is_trades = key.named.kind == "trades"
    rows = (read_trades if is_trades else read_bars)(path, unit=unit)
    try:
        rows, report = conformance.normalize(
            rows, schema="trades" if is_trades else "ohlcv", interval=key.interval
        )
    except ConformancePipelineError as error:
        raise BarError(f"{path}: {error}") from error
    if not rows.height:
        raise BarError(f"{path}: no rows")
    return rows, report


async def store_history(
    store: HistoryStore,
    key: SeriesKey,
    rows: "pl.DataFrame",
    *,
    now_s: int,
    stabilization_bars: int,
    on_progress: Callable[[int], None] | None = None,
) -> Range:
    """Store rows piece by piece and return the cells they span; `on_progress` hears how many were stored.

    Bars cover the cells they stand for, so that gaps between them stay missing. Trades cover every cell from
    the first that holds one to the last. Young cells are provisional: they are fetched once more.
    """
    step, offset = key.interval, grid_offset(key.interval)
    start, end = ((int(ts) - offset) // step * step + offset for ts in (rows["ts"][0], rows["ts"][-1]))
    window = plan_window(key, start, end + step, now_s=now_s, stabilization_bars=stabilization_bars)
    for at in range(0, rows.height, _ROWS_A_WRITE):
        piece = rows.slice(at, _ROWS_A_WRITE)
        if key.named.kind == "trades":
            # A cell is covered once the piece with its last trade is stored.
            is_last = at + piece.height == rows.height
            last = window.last if is_last else int(rows["ts"][at + piece.height]) // step * step
            covered = merge_ranges([(int(piece["ts"][0]) // step * step, last)])
        else:
            covered = runs_of(piece["ts"], step)
        await _write(store, key, piece, covered, window.young_from)
        if on_progress is not None:
            on_progress(piece.height)
    return window.first, window.last


async def _write(
    store: HistoryStore, key: SeriesKey, piece: "pl.DataFrame", covered: list[Range], young_from: int
) -> None:
    import polars as pl

    is_young = pl.col("ts") >= young_from
    last = max([end for _, end in covered], default=0)
    old = clip_ranges(covered, 0, young_from)
    young = clip_ranges(covered, young_from, max(last, young_from))
    for rows, ranges, provisional in (
        (piece.filter(~is_young), old, False),
        (piece.filter(is_young), young, True),
    ):
        if rows.height or ranges:
            await store.write(key, rows, covered=ranges, provisional=provisional)
