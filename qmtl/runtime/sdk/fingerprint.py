"""The name of a data set: one SHA-256 over its rows, equal wherever and however they were read.

Layout (little-endian): rows ascend; a block holds those with one k = floor(ts / (65,536 x interval)); its
digest is the SHA-256 of its columns one after the other. The result is the SHA-256 of the magic, the header
(canonical JSON, length first) and of each block in order its number, row count and digest.
"""

import hashlib
import itertools
import json
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qmtl.runtime.sdk.history import BAR_COLUMNS, TRADE_COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

DATASET_VERSION = "v2"
_MAGIC = b"QMTLFP01"
_BLOCK_CELLS = 65_536
_NULL_TEXT = 0xFFFFFFFF


def fingerprint(
    frame: "pl.DataFrame",
    *,
    node_id: str,
    interval: int,
    start: int,
    end: int,
    version: str = DATASET_VERSION,
) -> str:
    """Return `sha256:<hex>` of the rows of bars or trades of [start, end), in epoch seconds.

    Neither chunks nor the order of rows matter; null, NaN and signed zeros have one form each. ValueError
    when a column is absent, has another type, or `ts` holds nulls.
    """
    columns = TRADE_COLUMNS if node_id.startswith("trades:") else BAR_COLUMNS
    ordered = _ordered(_checked(frame, columns), columns)
    header = json.dumps(
        {
            "columns": columns,
            "end": end,
            "interval": interval,
            "node_id": node_id,
            "rows": ordered.height,
            "start": start,
            "version": version,
        },
        ensure_ascii=False,
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    whole = hashlib.sha256(_MAGIC)
    whole.update(struct.pack("<I", len(header)))
    whole.update(header)
    for number, rows, digest in _blocks(ordered, columns, _BLOCK_CELLS * interval):
        whole.update(struct.pack("<qI", number, rows))
        whole.update(digest)
    return f"sha256:{whole.hexdigest()}"


def _checked(frame: "pl.DataFrame", columns: Sequence[tuple[str, str]]) -> "pl.DataFrame":
    import polars as pl

    types = {"i64": pl.Int64, "f64": pl.Float64, "str": pl.String}
    for name, kind in columns:
        if frame.schema.get(name) != types[kind]:
            raise ValueError(f"column {name}: expected {types[kind]()}, found {frame.schema.get(name)}")
        if kind == "i64" and frame[name].null_count():
            raise ValueError(f"column {name}: holds nulls")
    return frame.select(name for name, _ in columns)


def _ordered(frame: "pl.DataFrame", columns: Sequence[tuple[str, str]]) -> "pl.DataFrame":
    """Return the rows ascending; ties, which a clean frame has not, go by the remaining columns."""
    import polars as pl

    if columns is BAR_COLUMNS:
        later = pl.col("ts") > pl.col("ts").shift()
    else:
        same = pl.col("ts_ms") == pl.col("ts_ms").shift()
        later = (pl.col("ts_ms") > pl.col("ts_ms").shift()) | (same & (pl.col("id") > pl.col("id").shift()))
        later = later & (pl.col("ts") >= pl.col("ts").shift())
    if frame.select(later.all()).item():  # the first row compares with null, which `all` passes over
        return frame
    return frame.sort([name for name, _ in columns])


def _blocks(
    frame: "pl.DataFrame", columns: Sequence[tuple[str, str]], length_s: int
) -> Iterator[tuple[int, int, bytes]]:
    import numpy as np

    if not frame.height:
        return
    numbers = frame["ts"].to_numpy() // length_s
    starts = np.concatenate(([0], np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, [len(numbers)])).tolist()
    for first, last in itertools.pairwise(starts):
        digest = hashlib.sha256()
        for name, kind in columns:
            digest.update(_ENCODERS[kind](frame[name].slice(first, last - first)).data)
        yield int(numbers[first]), last - first, digest.digest()


def _whole_numbers(column: "pl.Series") -> "np.ndarray[Any, Any]":
    import numpy as np

    return np.ascontiguousarray(column.to_numpy(), dtype="<i8")


def _numbers(column: "pl.Series") -> "np.ndarray[Any, Any]":
    import numpy as np

    values = np.ascontiguousarray(column.to_numpy(), dtype="<f8")  # nulls become NaN
    values = values + 0.0  # -0 becomes +0
    absent = np.isnan(values)
    if absent.any():
        values.view("<u8")[absent] = 0x7FF8_0000_0000_0000
    return values


def _texts(column: "pl.Series") -> "np.ndarray[Any, Any]":
    """Return each text as u32 length and UTF-8 bytes, one after the other."""
    import numpy as np
    import pyarrow as pa

    lengths = column.str.len_bytes().fill_null(0).to_numpy().astype("<i8")
    marks = np.where(column.is_null().to_numpy(), _NULL_TEXT, lengths).astype("<u4")
    array = column.fill_null("").rechunk().to_arrow().cast(pa.large_binary())
    begin, data = int(array.offset), array.buffers()[2]
    first = int(np.frombuffer(array.buffers()[1], "<i8", count=1, offset=8 * begin)[0])
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    places = (ends - lengths) + 4 * np.arange(len(lengths))
    out = np.empty(total + 4 * len(lengths), np.uint8)
    is_text = np.ones(len(out), np.bool_)
    heads = (places[:, None] + np.arange(4)).ravel()
    is_text[heads] = False
    out[heads] = marks.view(np.uint8)
    if total:
        out[is_text] = np.frombuffer(data, np.uint8, count=total, offset=first)
    return out


_ENCODERS = {"i64": _whole_numbers, "f64": _numbers, "str": _texts}
