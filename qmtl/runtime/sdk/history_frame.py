"""Frames of history: their schema, and the checks a frame passes before a store takes it."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qmtl.runtime.sdk.history import BAR_COLUMNS, TRADE_COLUMNS, SeriesKey
from qmtl.runtime.sdk.ohlcv_nodeid import TIMEFRAME_SECONDS, NodeId, NodeIdError

if TYPE_CHECKING:
    import polars as pl


@lru_cache(maxsize=4096)
def resolve_series(key: SeriesKey) -> NodeId:
    """Return the parts of a key's node id; NodeIdError when it is not canonical or the interval not its own.

    Trades take any interval of at least a second: the cell of their coverage.
    """
    named = key.named
    if key.interval < 1:
        raise NodeIdError(key.node_id, f"interval {key.interval} is not at least 1 s")
    if named.timeframe is not None and TIMEFRAME_SECONDS[named.timeframe] != key.interval:
        raise NodeIdError(key.node_id, f"interval {key.interval} is not that of {named.timeframe}")
    return named


def row_identity(key: SeriesKey) -> list[str]:
    """Return the columns that identify and order a row: `ts`, of trades `ts_ms` and `id`."""
    return ["ts_ms", "id"] if resolve_series(key).kind == "trades" else ["ts"]


def frame_schema(key: SeriesKey) -> dict[str, Any]:
    """Return column -> polars type in the order of the contract; pass it to `pl.DataFrame(schema=…)`."""
    import polars as pl

    types = {"i64": pl.Int64, "f64": pl.Float64, "str": pl.String}
    columns = TRADE_COLUMNS if resolve_series(key).kind == "trades" else BAR_COLUMNS
    return {name: types[kind] for name, kind in columns}


def order_rows(key: SeriesKey, frame: "pl.DataFrame") -> "pl.DataFrame":
    """Return the rows strictly ascending; of rows with one identity the last stays."""
    identity = row_identity(key)
    if identity == ["ts"]:
        steps = frame["ts"].diff()
        if frame.height < 2 or steps.min() > 0:  # type: ignore[operator]  # whole numbers, no null
            return frame
    return frame.unique(identity, keep="last", maintain_order=True).sort(identity) if frame.height else frame


def check_frame(key: SeriesKey, frame: "pl.DataFrame") -> "pl.DataFrame":
    """Return `frame` as a store keeps it: the contract's columns, ascending, one row for one identity.

    ValueError names a column that is missing, too many or of another type, and a null or negative time.
    """
    schema = frame_schema(key)
    given = dict(frame.schema)
    if given != schema:
        for name, kind in schema.items():
            if given.get(name) != kind:
                raise ValueError(f"{key.node_id}: column {name} is {given.get(name, 'missing')}, not {kind}")
        if extra := sorted(set(given) - set(schema)):
            raise ValueError(f"{key.node_id}: columns {', '.join(extra)} are not those of a stored row")
    frame = frame.select(list(schema))
    for name in ("ts", *row_identity(key)):
        if frame[name].null_count():
            raise ValueError(f"{key.node_id}: {name} holds a null")
    if frame.height and frame["ts"].min() < 0:  # type: ignore[operator]  # whole numbers, no null
        raise ValueError(f"{key.node_id}: ts holds a negative time")
    if "ts_ms" in schema and not (frame["ts_ms"] // 1000 == frame["ts"]).all():
        raise ValueError(f"{key.node_id}: ts is not ts_ms in whole seconds")
    return order_rows(key, frame)


def check_range(start: int, end: int) -> None:
    """Raise ValueError unless 0 <= start <= end."""
    if start < 0 or end < start:
        raise ValueError(f"range [{start}, {end}): start must not be negative nor after end")
