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
            "rows": len(ordered[0]),
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


def _checked(frame: "pl.DataFrame", columns: Sequence[tuple[str, str]]) -> "list[pl.Series]":
    import polars as pl

    types = {"i64": pl.Int64, "f64": pl.Float64, "str": pl.String}
    schema = frame.schema
    for name, kind in columns:
        if schema.get(name) != types[kind]:
            raise ValueError(f"column {name}: expected {types[kind]()}, found {schema.get(name)}")
        if kind == "i64" and frame[name].null_count():
            raise ValueError(f"column {name}: holds nulls")
    return [frame[name] for name, _ in columns]


def _ordered(series: "list[pl.Series]", columns: Sequence[tuple[str, str]]) -> "list[pl.Series]":
    """Return the columns with rows ascending; ties, which clean rows lack, go by the remaining columns."""
    import polars as pl

    if _ascends(series, columns):
        return series
    names = [name for name, _ in columns]
    return pl.DataFrame(series).sort(names).select(names).get_columns()


def _ascends(series: "list[pl.Series]", columns: Sequence[tuple[str, str]]) -> bool:
    ts = series[0].to_numpy()
    if columns is BAR_COLUMNS:
        return bool((ts[1:] > ts[:-1]).all())
    ts_ms, ids = series[1].to_numpy(), series[2]
    if not ((ts[1:] >= ts[:-1]).all() and (ts_ms[1:] >= ts_ms[:-1]).all()):
        return False
    same = (ts_ms[1:] == ts_ms[:-1]).nonzero()[0]
    return bool(not same.size or (ids.gather(same + 1) > ids.gather(same)).fill_null(False).all())


def _blocks(
    series: "list[pl.Series]", columns: Sequence[tuple[str, str]], length_s: int
) -> Iterator[tuple[int, int, bytes]]:
    import numpy as np

    if not len(series[0]):
        return
    numbers = series[0].to_numpy() // length_s
    starts = np.concatenate(([0], np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, [len(numbers)])).tolist()
    for first, last in itertools.pairwise(starts):
        digest = hashlib.sha256()
        for column, (_, kind) in zip(series, columns, strict=True):
            digest.update(_ENCODERS[kind](column.slice(first, last - first)).data)
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

    count = len(column)
    marks = column.str.len_bytes().fill_null(_NULL_TEXT).to_numpy().astype("<u4")
    texts = column.fill_null("").to_arrow().cast(pa.large_binary())
    if count and marks.min() == marks.max() != _NULL_TEXT:
        # Ids mostly have one length: a table of bytes.
        width = int(marks[0])
        first = np.frombuffer(texts.buffers()[1], "<i8")[texts.offset] if width else 0
        table = np.empty((count, 4 + width), np.uint8)
        table[:, :4] = marks.view(np.uint8).reshape(count, 4)
        if width:
            data = np.frombuffer(texts.buffers()[2], np.uint8, count=count * width, offset=int(first))
            table[:, 4:] = data.reshape(count, width)
        return table
    return _join(marks, texts)


def _join(marks: "np.ndarray[Any, Any]", texts: Any) -> "np.ndarray[Any, Any]":
    """Return marks and texts in turn: a fresh Arrow array keeps its values one behind the other."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(marks)
    heads = pa.Array.from_buffers(pa.binary(4), count, [None, pa.py_buffer(marks)]).cast(pa.large_binary())
    joined = pc.binary_join_element_wise(heads, texts, pa.scalar(b"", pa.large_binary()))
    total = int(np.where(marks == _NULL_TEXT, 0, marks).sum(dtype="i8")) + 4 * count
    return np.frombuffer(joined.buffers()[2], np.uint8, count=total)


_ENCODERS = {"i64": _whole_numbers, "f64": _numbers, "str": _texts}
