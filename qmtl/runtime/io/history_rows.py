"""Rows as exchanges answer them, made into frames: the one place where milliseconds become seconds."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from qmtl.core.ranges import Range
from qmtl.runtime.sdk.history import BAR_COLUMNS, TRADE_COLUMNS

if TYPE_CHECKING:
    import polars as pl

_VALUES = tuple(name for name, _ in BAR_COLUMNS[1:])
_MAX_MS = 10**14
TradeRow = tuple[int, int, str, float, float, str | None]
"""ts, ts_ms, id, price, amount, side."""


class RowError(ValueError):
    """A row is malformed; the message names it and what is wrong."""


def _schema(columns: Sequence[tuple[str, str]]) -> "dict[str, pl.DataType | type[pl.DataType]]":
    import polars as pl

    types: dict[str, type[pl.DataType]] = {"i64": pl.Int64, "f64": pl.Float64, "str": pl.String}
    return {name: types[kind] for name, kind in columns}


def frame_live_bars(rows: "Sequence[tuple[Any, ...]]") -> "pl.DataFrame":
    """Return rows (ts, open, high, low, close, volume, closed) as bars with the Boolean column `closed`."""
    import polars as pl

    return pl.DataFrame(rows, schema={**_schema(BAR_COLUMNS), "closed": pl.Boolean}, orient="row")


def empty_bars() -> "pl.DataFrame":
    """Return no bars, with their columns."""
    import polars as pl

    return pl.DataFrame(schema=_schema(BAR_COLUMNS))


def empty_trades() -> "pl.DataFrame":
    """Return no trades, with their columns."""
    import polars as pl

    return pl.DataFrame(schema=_schema(TRADE_COLUMNS))


def parse_bars(rows: Sequence[Sequence[Any]], step: int, offset: int) -> "pl.DataFrame":
    """Return rows [open ms, open, high, low, close, volume] as bars, ascending, the last of equals kept.

    RowError for a row that is short, holds something else than numbers, or lies off the grid.
    """
    import polars as pl

    if not rows:
        return empty_bars()
    try:
        frame = pl.DataFrame(rows, schema=_schema(BAR_COLUMNS), orient="row")
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise _find_fault(rows) or RowError(f"rows are malformed: {error}") from error
    ts_ms = frame["ts"]
    if sum(frame.null_count().row(0)) or len(rows[0]) != len(BAR_COLUMNS):
        raise _find_fault(rows) or RowError("a row holds nothing where a number belongs")
    is_off = ((ts_ms - offset * 1000) % (step * 1000) != 0) | (ts_ms <= 0) | (ts_ms > _MAX_MS)
    if is_off.any():
        raise _off_grid(ts_ms, step, offset)
    frame = frame.with_columns(ts_ms // 1000)
    return arrange(frame, ["ts"])


def parse_bar(row: Sequence[Any]) -> tuple[int, float, float, float, float, float]:
    """Return a row [open ms, o, h, l, c, volume] with its time in seconds; RowError when it is malformed."""
    fault = _find_fault([row])
    if fault is not None:
        raise fault
    first, high, low, last, volume = map(float, row[1:])
    return int(row[0]) // 1000, first, high, low, last, volume


def arrange(frame: "pl.DataFrame", keys: list[str]) -> "pl.DataFrame":
    """Return `frame` strictly ascending by `keys`; of equal ones the last row is kept."""
    if len(keys) == 1:
        key = frame[keys[0]]
        # The common case costs one pass: an exchange answers in order and without repeats.
        if frame.height < 2 or bool((key.diff().slice(1) > 0).all()):
            return frame
    return frame.unique(keys, keep="last", maintain_order=True).sort(keys)


def join_frames(frames: "Sequence[pl.DataFrame]", keys: list[str], empty: "pl.DataFrame") -> "pl.DataFrame":
    """Return several frames as one that ascends by `keys`; of equal rows the last one is kept."""
    import polars as pl

    held = [frame for frame in frames if frame.height]
    if not held:
        return empty
    held.sort(key=lambda frame: frame[keys[0]][0])
    return arrange(held[0] if len(held) == 1 else pl.concat(held), keys)


def gaps_to_runs(ts: "pl.Series", step: int) -> list[Range]:
    """Return an ascending column of cell starts as ranges of cells without a hole between."""
    if ts.is_empty():
        return []
    breaks = (ts.diff() != step).fill_null(value=True).arg_true()
    firsts = ts.gather(breaks).to_list()
    lasts = [ts[at - 1] for at in breaks.to_list()[1:]] + [ts[-1]]
    return [(first, last + step) for first, last in zip(firsts, lasts, strict=True)]


def parse_trades(trades: Sequence[Any]) -> "pl.DataFrame":
    """Return unified trades as a frame, ascending by time and id; RowError for a malformed one.

    The rows must begin with a whole millisecond, see `list_trades`.
    """
    return frame_trades(list_trades(trades, {})) if trades else empty_trades()


def frame_trades(rows: Sequence[TradeRow]) -> "pl.DataFrame":
    """Return trade rows as a frame, ascending by time and id."""
    import polars as pl

    frame = pl.DataFrame(rows, schema=_schema(TRADE_COLUMNS), orient="row")
    return arrange(frame, ["ts_ms", "id"])


def list_trades(trades: Sequence[Any], equals: dict[str, int]) -> list[TradeRow]:
    """Return unified trades as rows of TRADE_COLUMNS; RowError for a malformed one.

    A trade without an id is named `~{ts_ms}:{price}:{amount}:{side}:{k}`, k counting its equals of that
    millisecond, which `equals` remembers.
    """
    rows: list[TradeRow] = []
    for number, trade in enumerate(trades):
        try:
            ts_ms, price, amount = trade["timestamp"], trade["price"], trade["amount"]
            name, side = trade.get("id"), trade.get("side")
        except (KeyError, TypeError, AttributeError):
            raise RowError(f"trade {number} is malformed: {trade!r:.120}") from None
        if not _is_time(ts_ms) or not _is_number(price) or not _is_number(amount):
            raise RowError(f"trade {number} is malformed: {ts_ms!r}, {price!r}, {amount!r}")
        if name in {None, ""}:
            stem = f"~{ts_ms}:{price}:{amount}:{side or ''}"
            equals[stem] = equals.get(stem, -1) + 1
            name = f"{stem}:{equals[stem]}"
        rows.append((ts_ms // 1000, ts_ms, str(name), float(price), float(amount), side))
    return rows


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_MS


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _find_fault(rows: Sequence[Any]) -> RowError | None:
    for number, row in enumerate(rows):
        is_row = isinstance(row, list | tuple) and len(row) == len(BAR_COLUMNS)
        if not is_row or not _is_time(row[0]) or not all(_is_number(value) for value in row[1:]):
            return RowError(f"row {number} is malformed: {row!r:.120}; expected [ms, {', '.join(_VALUES)}]")
    return None


def _off_grid(ts_ms: "pl.Series", step: int, offset: int) -> RowError:
    for number, value in enumerate(ts_ms.to_list()):
        if not 0 < value <= _MAX_MS:
            return RowError(f"row {number}: {value} is no time in milliseconds")
        if (value - offset * 1000) % (step * 1000):
            return RowError(
                f"row {number}: {value} is not on the grid of {step} s from {offset}; see grid_offset_s"
            )
    return RowError("a row is off the grid")
