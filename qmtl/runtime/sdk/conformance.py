"""Rows as they must be: names, types, grid, order and sense of bars and trades, with every change reported.

The units of times are never guessed: a number is epoch seconds or it is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.column_cast import Cast, cast_columns
from qmtl.runtime.sdk.history import BAR_COLUMNS, CLOSE_GRACE_S, TRADE_COLUMNS, SeamlessError, grid_offset
from qmtl.runtime.sdk.row_flags import RowFlags, bar_flags, is_clean, trade_flags
from qmtl.runtime.sdk.sla import unknown_preset

if TYPE_CHECKING:
    import polars as pl

Columns = Sequence[tuple[str, str]]

CONFORMANCE_VERSION = "v2"
REPORTED = (
    "duplicate_ts",
    "gap",
    "dtype_cast",
    "ts_cast",
    "ts_timezone_normalized",
    "forming_bar",
)
BLOCKING = (
    "missing_column",
    "dtype_mismatch",
    "invalid_timestamp",
    "misaligned_ts",
    "non_finite",
    "ohlc_inconsistent",
    "invalid_trade",
)
FLAGS = (*REPORTED, *BLOCKING)
"""Every flag there is, those that `strict-blocking` refuses last."""
_FATAL = ("missing_column", "dtype_mismatch")
_SCHEMAS: Mapping[str, Columns] = {"ohlcv": BAR_COLUMNS, "trades": TRADE_COLUMNS}
_UNITS = {
    "duplicate_ts": "rows share a time; the last of each was kept",
    "gap": "cells are missing",
    "dtype_cast": "columns were cast without loss",
    "ts_cast": "time columns were cast without loss",
    "ts_timezone_normalized": "time columns were turned to UTC",
    "forming_bar": "bars had not closed and were dropped",
    "missing_column": "columns are missing",
    "dtype_mismatch": "columns have a type that cannot be cast without loss",
    "invalid_timestamp": "rows have no time in epoch seconds",
    "misaligned_ts": "rows are off the grid of the interval",
    "non_finite": "rows hold null, NaN or an infinity",
    "ohlc_inconsistent": "bars contradict themselves",
    "invalid_trade": "trades make no sense",
}


@dataclass(frozen=True)
class ConformanceReport:
    """What was found: one warning a flag, and counts by flag (rows; columns for casts; cells for `gap`)."""

    warnings: tuple[str, ...] = ()
    flags_counts: Mapping[str, int] = field(default_factory=dict)


class ConformancePipelineError(SeamlessError):
    """Rows are not as they must be; `report` says what was found."""

    def __init__(self, message: str, report: ConformanceReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class ConformancePreset:
    """Which flags refuse a frame, and whether their rows are dropped instead (`partial_ok`)."""

    block: frozenset[str] = frozenset(BLOCKING)
    partial_ok: bool = False

    def __post_init__(self) -> None:
        """Refuse flags that do not exist."""
        for flag in sorted(self.block):
            if flag not in FLAGS:
                raise ValueError(unknown_preset("flag", flag, list(FLAGS)))


CONFORMANCE_PRESETS: dict[str, ConformancePreset] = {
    "strict-blocking": ConformancePreset(),
    "permissive-dev": ConformancePreset(partial_ok=True),
}
"""The presets that have a name; `strict-blocking` is the default."""
CLEAN = ConformanceReport()


class _Finding(NamedTuple):
    frame: "pl.DataFrame"
    counts: dict[str, int]
    details: dict[str, str]


class ConformancePipeline:
    """Brings frames into the house's form, or refuses them.

    `preset` is a name or a ConformancePreset; None is `strict-blocking`. `partial_ok` replaces the preset's.
    ValueError for an unknown name.
    """

    def __init__(
        self,
        preset: str | ConformancePreset | None = None,
        *,
        partial_ok: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(preset, ConformancePreset):
            name = preset or "strict-blocking"
            if name not in CONFORMANCE_PRESETS:
                raise ValueError(unknown_preset("conformance preset", name, list(CONFORMANCE_PRESETS)))
            preset = CONFORMANCE_PRESETS[name]
        self.preset = preset
        self.partial_ok = preset.partial_ok if partial_ok is None else partial_ok
        self._clock = clock or SystemClock()

    def normalize(
        self,
        df: "pl.DataFrame",
        *,
        schema: str | Columns | None = None,
        interval: int | None = None,
        offset: int | None = None,
    ) -> "tuple[pl.DataFrame, ConformanceReport]":
        """Return the rows in form, strictly ascending, with what was found and changed.

        `schema` is `ohlcv`, `trades` or their columns, by default what the columns of `df` say; `interval` in
        seconds is the caller's and wins over anything the rows suggest: without it there is no grid, no gap
        and no forming bar. `offset` moves the grid. Raises ConformancePipelineError.
        """
        columns = _columns_of(df, schema)
        absent = [name for name, _ in columns if name not in df.columns]
        if absent:
            found = f"found {', '.join(df.columns) or 'no column'}"
            detail = f"{', '.join(absent)}; {found}"
            raise self._error({"missing_column": len(absent)}, {"missing_column": detail})
        cast = cast_columns(df, columns)
        if cast.refused:
            counts = {**cast.counts, "dtype_mismatch": len(cast.refused)}
            raise self._error(counts, {"dtype_mismatch": "; ".join(cast.refused)})
        if interval is not None and interval <= 0:
            raise ValueError(f"interval: expected seconds > 0, got {interval}")
        grid = grid_offset(interval or 1) if offset is None else offset
        closed_by = self._clock.now_ms() // 1000 - CLOSE_GRACE_S
        is_bars = columns is BAR_COLUMNS
        details: dict[str, str] = {}
        if not cast.uneven and is_clean(cast.frame, interval, grid, closed_by, is_bars=is_bars):
            frame, counts = cast.frame, cast.counts
            if is_bars and interval is not None and frame.height:
                counts, details = _with_gaps(frame, interval, counts, details)
        else:
            frame, counts, details = _clean(cast, interval, grid, closed_by, is_bars=is_bars)
        blocked = [flag for flag in counts if flag in self.preset.block]
        if blocked and not self.partial_ok:
            raise self._error(counts, details)
        return frame, _report(counts, details) if counts else CLEAN

    def _error(self, counts: Mapping[str, int], details: Mapping[str, str]) -> ConformancePipelineError:
        report = _report(counts, details)
        blocking = [
            line for line in report.warnings if line.partition(":")[0] in {*self.preset.block, *_FATAL}
        ]
        return ConformancePipelineError(f"rows refused: {' · '.join(blocking)}", report)


def _columns_of(df: "pl.DataFrame", schema: str | Columns | None) -> Columns:
    if schema is None:
        return TRADE_COLUMNS if "price" in df.columns and "open" not in df.columns else BAR_COLUMNS
    if isinstance(schema, str):
        if schema not in _SCHEMAS:
            raise ValueError(unknown_preset("schema", schema, list(_SCHEMAS)))
        return _SCHEMAS[schema]
    for columns in _SCHEMAS.values():
        if tuple(schema) == columns:
            return columns
    raise ValueError("schema: expected ohlcv, trades, BAR_COLUMNS or TRADE_COLUMNS")


def _clean(cast: Cast, interval: int | None, grid: int, closed_by: int, *, is_bars: bool) -> _Finding:
    """Drop what has to go and count it; every flag looks at the rows as they came."""
    import polars as pl

    flags: RowFlags = bar_flags(cast, interval, grid, closed_by) if is_bars else trade_flags(cast)
    counts = dict(cast.counts)
    details: dict[str, str] = {}
    is_bad = pl.Series([False]).new_from_index(0, cast.frame.height)
    times = cast.frame["ts"]
    for flag, rows in flags.items():
        hits = int(rows.sum())
        if hits:
            counts[flag] = hits
            first = rows.arg_max() or 0
            details[flag] = f"first in row {first}, ts {times[first]}"
            is_bad |= rows
    keys = ["ts"] if is_bars else ["ts_ms", "id"]
    duplicated = cast.frame.select(keys).is_duplicated() & ~flags["invalid_timestamp"]
    if duplicated.any():
        counts["duplicate_ts"] = int(duplicated.sum())
        details["duplicate_ts"] = f"first at ts {times[duplicated.arg_max() or 0]}"
    kept = cast.frame.filter(~is_bad).unique(keys, keep="last", maintain_order=True).sort(keys)
    if is_bars and interval is not None:
        counts, details = _with_gaps(kept, interval, counts, details)
    return _Finding(kept, counts, details)


def _with_gaps(
    frame: "pl.DataFrame", interval: int, counts: dict[str, int], details: dict[str, str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Count the cells missing between the first row and the last."""
    if not frame.height:
        return counts, details
    times = frame["ts"]
    missing = (times[-1] - times[0]) // interval + 1 - frame.height
    if not missing:
        return counts, details
    steps = times.diff()
    place = int((steps > interval).arg_max() or 0)
    first = f"first [{times[place - 1] + interval}, {times[place]})"
    return {**counts, "gap": missing}, {**details, "gap": first}


def _report(counts: Mapping[str, int], details: Mapping[str, str]) -> ConformanceReport:
    ordered = {flag: counts[flag] for flag in FLAGS if flag in counts}
    warnings = tuple(
        f"{flag}: {count:,} {_UNITS[flag]}" + (f" ({details[flag]})" if flag in details else "")
        for flag, count in ordered.items()
    )
    return ConformanceReport(warnings, ordered)
