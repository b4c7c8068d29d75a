"""Columns brought to the house's types where nothing is lost by it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import polars as pl

_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}


class Cast(NamedTuple):
    """A frame in the house's types, what was cast (by flag, in columns), and what was refused and why.

    `uneven` marks rows whose time is no whole number of its unit, where there are any.
    """

    frame: "pl.DataFrame"
    counts: dict[str, int]
    refused: list[str]
    uneven: "list[pl.Series]"


def cast_columns(df: "pl.DataFrame", columns: Sequence[tuple[str, str]]) -> Cast:
    """Return the named columns as Int64, Float64 or String; other columns are left out."""
    import polars as pl

    wanted = {"i64": pl.Int64, "f64": pl.Float64, "str": pl.String}
    counts: dict[str, int] = {}
    refused: list[str] = []
    uneven: list[pl.Series] = []
    series: list[pl.Series] = []
    for name, kind in columns:
        column = df[name]
        if column.dtype == wanted[kind]:
            series.append(column)
            continue
        cast = _as_time(column, uneven, counts) if kind == "i64" else _as_value(column, kind)
        if cast is None:
            refused.append(f"{name} is {column.dtype}, expected {wanted[kind]()}")
            continue
        flag = "ts_cast" if kind == "i64" else "dtype_cast"
        # An empty or all-null column has no type of its own to lose.
        if column.dtype != pl.Null:
            counts[flag] = counts.get(flag, 0) + 1
        series.append(cast)
    return Cast(pl.DataFrame(series), counts, refused, uneven)


def _as_time(column: "pl.Series", uneven: "list[pl.Series]", counts: dict[str, int]) -> "pl.Series | None":
    import polars as pl

    kind = column.dtype
    if kind == pl.Date:
        column, kind = column.cast(pl.Datetime("ms")), pl.Datetime("ms")
    if isinstance(kind, pl.Datetime):
        if kind.time_zone not in {None, "UTC"}:
            counts["ts_timezone_normalized"] = counts.get("ts_timezone_normalized", 0) + 1
        per_unit = (_PER_MS if column.name == "ts_ms" else _PER_SECOND)[kind.time_unit]
        ticks = column.to_physical()
        _note(uneven, ticks % per_unit != 0)
        return ticks // per_unit
    if kind.is_float():
        whole = column.cast(pl.Int64, strict=False)
        _note(
            uneven, column.is_finite() & (whole.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(True)
        )
        return whole
    if kind.is_integer() or kind == pl.Null:
        # What UInt64 holds beyond Int64 becomes null, and a null time is refused by row.
        return column.cast(pl.Int64, strict=False)
    return None


def _note(uneven: "list[pl.Series]", rows: "pl.Series") -> None:
    rows = rows.fill_null(False)
    if rows.any():
        uneven.append(rows)


def _as_value(column: "pl.Series", kind: str) -> "pl.Series | None":
    import polars as pl

    if column.dtype == pl.Null:
        return column.cast(pl.Float64 if kind == "f64" else pl.String)
    if kind == "str":
        is_text = isinstance(column.dtype, pl.Categorical | pl.Enum) or column.dtype.is_integer()
        return column.cast(pl.String) if is_text else None
    if not column.dtype.is_numeric():
        return None
    cast = column.cast(pl.Float64)
    if column.dtype.is_float():
        return cast
    back = cast.cast(column.dtype, strict=False)
    return cast if (back == column).fill_null(column.is_null()).all() else None
