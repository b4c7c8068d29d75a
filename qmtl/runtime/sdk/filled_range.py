"""What filling a gap brought."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from qmtl.core.ranges import Range, merge_ranges
from qmtl.runtime.sdk.history import SeriesKey
from qmtl.runtime.sdk.history_frame import frame_schema, order_rows


class Filled(NamedTuple):
    """Rows, the cells they cover, what is confirmed empty, and which rows were young when they came."""

    frame: pl.DataFrame
    covered: list[Range]
    empty: list[Range]
    young: list[Range]


def join_filled(key: SeriesKey, parts: Sequence[Filled]) -> Filled:
    """Return several as one."""
    if len(parts) == 1:
        return parts[0]
    frames = [part.frame for part in parts if part.frame.height]
    frame = order_rows(key, pl.concat(frames)) if frames else pl.DataFrame(schema=frame_schema(key))
    return Filled(
        frame,
        merge_ranges([span for part in parts for span in part.covered]),
        merge_ranges([span for part in parts for span in part.empty]),
        merge_ranges([span for part in parts for span in part.young]),
    )
