"""Files of candles, trades and rates: Parquet, Feather, CSV, and the monthly files of the exchange.

The one reader of such files in the house. Times carry their unit: a date and time does, a column named `ts`
(seconds) or `*_s`, `*_ms`, `*_us`, `*_ns` does, a monthly file does by its digits (13 ms, 16 µs); any other
whole number needs the caller to say. Rows come back as they stand in the file. Errors are BarError with the
file and the row (counted from 0) or the columns; FileNotFoundError stays one.
"""

import gzip
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from qmtl.core.bar import BarError

if TYPE_CHECKING:
    import polars as pl

Unit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_TIME_COLUMNS = ("date", "timestamp", "open_time", "open_ms", "time", "datetime", "ts")
_TRADE_TIMES = ("ts_ms", "transact_time", "timestamp", "date", "time", "datetime", "ts")
_VALUES = ("open", "high", "low", "close", "volume")
_NAMED_UNIT = re.compile(r"(?:^|_)(ms|us|ns|s)$")
_MONTHLY_CANDLES = (
    "open_time",
    *_VALUES,
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
_MONTHLY_TRADES = (
    "agg_trade_id",
    "price",
    "quantity",
    "first_trade_id",
    "last_trade_id",
    "transact_time",
    "is_buyer_maker",
    "is_best_match",
)
_MONTHLY = {12: _MONTHLY_CANDLES, 7: _MONTHLY_TRADES[:7], 8: _MONTHLY_TRADES}
_DIGITS = {13: "ms", 16: "us"}
READABLE = ".feather, .parquet, .csv, .csv.gz or .zip"
WRITABLE = ".parquet, .feather, .csv or .csv.gz"


def read_candles(path: Path, *, unit: Unit | None = None) -> "pl.DataFrame":
    """Return columns open_ms (Int64), open, high, low, close, volume (Float64) of a file of candles.

    `unit` is what whole numbers count in where nothing in the file says it.
    """
    frame = _read_table(path)
    name = _require(frame, path, _TIME_COLUMNS, _VALUES)
    values = [_floats(frame, value, path) for value in _VALUES]
    times = _times_ms(frame, name, path, unit, is_exact=True)
    return _assemble([times.alias("open_ms"), *values])


def read_bars(path: Path, *, unit: Unit | None = None) -> "pl.DataFrame":
    """Return the rows of a file of candles as bars: ts in epoch seconds, open, high, low, close, volume."""
    import polars as pl

    frame = read_candles(path, unit=unit)
    uneven = frame["open_ms"] % 1000 != 0
    if uneven.any():
        row = int(uneven.arg_max() or 0)
        raise BarError(f"{path}: row {row}: time {frame['open_ms'][row]} ms is no whole second")
    return frame.select((pl.col("open_ms") // 1000).alias("ts"), *_VALUES)


def read_rates(path: Path, *, unit: Unit | None = None) -> "pl.DataFrame":
    """Return columns open_ms (Int64), open (Float64) of a file of funding rates, the rate in `open`."""
    frame = _read_table(path)
    name = _require(frame, path, _TIME_COLUMNS, ("open",))
    return _assemble([_times_ms(frame, name, path, unit).alias("open_ms"), _floats(frame, "open", path)])


def read_trades(path: Path, *, unit: Unit | None = None) -> "pl.DataFrame":
    """Return the rows of a file of trades, in the house's form or the exchange's file of aggregate trades."""
    import polars as pl

    frame = _read_table(path)
    is_monthly = "agg_trade_id" in frame.columns
    needed = ("price", "quantity", "is_buyer_maker") if is_monthly else ("id", "price", "amount", "side")
    times = _times_ms(frame, _require(frame, path, _TRADE_TIMES, needed), path, unit)
    if is_monthly:
        is_sell = pl.col("is_buyer_maker").cast(pl.String).str.to_lowercase() == "true"
        side = pl.when(is_sell).then(pl.lit("sell")).otherwise(pl.lit("buy")).alias("side")
        frame = frame.with_columns(side).rename({"agg_trade_id": "id", "quantity": "amount"})
    values = [_floats(frame, value, path) for value in ("price", "amount")]
    texts = [frame[text].cast(pl.String) for text in ("id", "side")]
    made = _assemble([times.alias("ts_ms"), *values, *texts])
    return made.select((pl.col("ts_ms") // 1000).alias("ts"), "ts_ms", "id", "price", "amount", "side")


def write_rows(frame: "pl.DataFrame", path: Path) -> None:
    """Write rows as they are, by the suffix of `path`; an existing file is replaced once all is written."""
    beside = path.with_name(f".{path.name}.new")
    writer = _writer(path)
    try:
        with beside.open("wb") as file:
            writer(frame, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a suffix that names no format."""
    _writer(path)


def _writer(path: Path) -> "Callable[[pl.DataFrame, Any], object]":
    import polars as pl

    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return lambda frame, file: frame.write_parquet(file, compression="zstd")
    if name.endswith((".feather", ".arrow", ".ipc")):
        # Readers of Feather other than polars do not know string views yet.
        oldest = pl.CompatLevel.oldest()
        return lambda frame, file: frame.write_ipc(file, compression="lz4", compat_level=oldest)
    if name.endswith(".csv"):
        return lambda frame, file: frame.write_csv(file)
    if name.endswith(".csv.gz"):
        return lambda frame, file: file.write(gzip.compress(frame.write_csv().encode(), 6, mtime=0))
    raise BarError(f"{path}: expected {WRITABLE}")


# --- tables ---------------------------------------------------------------------------------------


def _read_table(path: Path) -> "pl.DataFrame":
    """Read a file whole; names of columns in lower case, every value of a CSV as text."""
    import polars as pl

    name = path.name.lower()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if name.endswith((".feather", ".arrow", ".ipc")):
            frame = pl.read_ipc(io.BytesIO(path.read_bytes()))
        elif name.endswith((".parquet", ".pq")):
            frame = pl.read_parquet(path)
        elif name.endswith(".csv"):
            frame = _read_csv(path.read_bytes())
        elif name.endswith(".csv.gz"):
            frame = _read_csv(gzip.decompress(path.read_bytes()))
        elif name.endswith(".zip"):
            frame = _read_csv(_only_member(path))
        else:
            raise BarError(f"{path}: expected {READABLE}")
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise BarError(f"{path}: cannot be read: {(str(error).splitlines() or ['damaged'])[0]}") from error
    lower = [column.strip().lower() for column in frame.columns]
    return (
        frame.rename(dict(zip(frame.columns, lower, strict=True))) if len(set(lower)) == len(lower) else frame
    )


def _only_member(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
        if len(names) != 1:
            raise BarError(f"{path}: expected one .csv inside, found {len(names)}")
        try:
            return archive.read(names[0])
        except RuntimeError as error:
            raise BarError(f"{path}: cannot be read: {error}") from error


def _read_csv(raw: bytes) -> "pl.DataFrame":
    import polars as pl

    if not raw.strip():
        return pl.DataFrame()
    first = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip().split(b",")
    # The exchange's older monthly files have no header: their first cell is a number already.
    is_bare = first[0].strip().isdigit() and len(first) in _MONTHLY
    names = list(_MONTHLY[len(first)]) if is_bare else None
    return pl.read_csv(io.BytesIO(raw), has_header=not is_bare, new_columns=names, infer_schema=False)


def _require(frame: "pl.DataFrame", path: Path, times: Sequence[str], values: Sequence[str]) -> str:
    """Return the column that holds the time."""
    name = next((one for one in times if one in frame.columns), None)
    absent = [one for one in values if one not in frame.columns]
    if name is None:
        absent.insert(0, " | ".join(times[:3]))
    if name is None or absent:
        raise BarError(
            f"{path}: missing columns {', '.join(absent)}; found {', '.join(frame.columns) or 'none'}"
        )
    return name


def _assemble(columns: "list[pl.Series]") -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(columns)


# --- times ----------------------------------------------------------------------------------------


def _times_ms(
    frame: "pl.DataFrame", name: str, path: Path, unit: Unit | None, *, is_exact: bool = False
) -> "pl.Series":
    """Return a column of times in milliseconds; exact ones hold nothing finer."""
    import polars as pl

    column = frame[name]
    if column.null_count():
        raise BarError(f"{path}: row {column.is_null().arg_max()}: no {name}")
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("ms"))
    if column.dtype == pl.String:
        column = _parse_times(column, path)
    if isinstance(column.dtype, pl.Datetime):
        return _as_ms(column.to_physical(), column.dtype.time_unit, path, is_exact=is_exact)
    if not column.dtype.is_integer():
        raise BarError(f"{path}: column {name}: expected a time, found {column.dtype}")
    if frame.columns in [list(names) for names in _MONTHLY.values()]:
        told: str | None = _unit_by_digits(column, path)
    else:
        named = _NAMED_UNIT.search(name)
        told = "s" if name == "ts" else (named[1] if named else unit)
    if told is None:
        raise BarError(
            f"{path}: column {name} holds whole numbers; say their unit: {', '.join(UNITS)} (--unit)"
        )
    return _as_ms(column.cast(pl.Int64), told, path, is_exact=is_exact)


def _as_ms(ticks: "pl.Series", unit: str, path: Path, *, is_exact: bool) -> "pl.Series":
    per_second = _PER_SECOND[unit]
    if per_second <= 1_000:
        return ticks * (1_000 // per_second)
    per_ms = per_second // 1_000
    uneven = ticks % per_ms != 0
    if is_exact and uneven.any():
        row = int(uneven.arg_max() or 0)
        raise BarError(f"{path}: row {row}: time {ticks[row]} {unit} is no whole millisecond")
    return ticks // per_ms


def _unit_by_digits(column: "pl.Series", path: Path) -> str:
    least, most = column.min(), column.max()
    for digits, unit in _DIGITS.items():
        if least is not None and 10 ** (digits - 1) <= least and most < 10**digits:
            return unit
    if least is None:
        return "ms"
    row = int((~column.is_between(10**12, 10**13 - 1)).arg_max() or 0)
    raise BarError(
        f"{path}: row {row}: time {column[row]} has neither 13 digits (ms) nor 16 (µs), as all must"
    )


def _parse_times(column: "pl.Series", path: Path) -> "pl.Series":
    """Return whole numbers or, in UTC, dates and times; the first row tells which of the two."""
    import polars as pl

    texts = column.str.strip_chars()
    if texts.len() and re.fullmatch(r"-?\d+", str(texts[0])):
        numbers = texts.cast(pl.Int64, strict=False)
        _refuse_text(column, numbers, path, "whole number")
        return numbers
    times = [_parse_time(text, column.name, row, path) for row, text in enumerate(texts)]
    return pl.Series(column.name, times, pl.Datetime("us", "UTC"))


def _parse_time(text: str, name: str, row: int, path: Path) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BarError(f"{path}: row {row}: {name} {text!r} is no time") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _refuse_text(column: "pl.Series", numbers: "pl.Series", path: Path, what: str) -> None:
    strange = numbers.is_null() & column.is_not_null()
    if strange.any():
        row = int(strange.arg_max() or 0)
        raise BarError(f"{path}: row {row}: {column.name} {column[row]!r} is no {what}")


def _floats(frame: "pl.DataFrame", name: str, path: Path) -> "pl.Series":
    import polars as pl

    column = frame[name]
    if column.dtype == pl.String:
        numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
        _refuse_text(column, numbers, path, "number")
    elif column.dtype.is_numeric():
        numbers = column.cast(pl.Float64)
    else:
        raise BarError(f"{path}: column {name}: expected numbers, found {column.dtype}")
    if numbers.null_count():
        raise BarError(f"{path}: row {numbers.is_null().arg_max()}: no {name}")
    return numbers
