"""The name of a data set is its rows', however they lie in memory."""

import hashlib
import json
import struct
from math import isnan
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.history import BAR_COLUMNS, TRADE_COLUMNS

NODE = "ohlcv:binance:BTC/USDT:1m"
TRADES = "trades:binance:BTC/USDT"
START = 1_706_745_600
VECTOR = "sha256:3bb6c1d138367df7981be27f808cb72a87a0f4cee0f9149a8bf4b0f945835e15"
POLARS = {"i64": pl.Int64, "f64": pl.Float64, "str": pl.String}
Rows = list[tuple[Any, ...]]


def frame_of(rows: Rows, columns: tuple[tuple[str, str], ...] = BAR_COLUMNS) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: POLARS[kind] for name, kind in columns}, orient="row")


def plain_fingerprint(rows: Rows, columns: tuple[tuple[str, str], ...], node_id: str, interval: int) -> str:
    """The contract read aloud, one value at a time."""
    header = {"columns": columns, "end": START + 10**7, "interval": interval, "node_id": node_id}
    header |= {"rows": len(rows), "start": START, "version": "v2"}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    out = b"QMTLFP01" + struct.pack("<I", len(text)) + text
    blocks: dict[int, Rows] = {}
    for row in sorted(rows, key=lambda row: (row[0], row[1], row[2] or "")):
        blocks.setdefault(row[0] // (65_536 * interval), []).append(row)
    for number, members in sorted(blocks.items()):
        digest = hashlib.sha256()
        for place, (_, kind) in enumerate(columns):
            digest.update(b"".join(plain_value(row[place], kind) for row in members))
        out += struct.pack("<qI", number, len(members)) + digest.digest()
    return f"sha256:{hashlib.sha256(out).hexdigest()}"


def plain_value(value: Any, kind: str) -> bytes:
    if kind == "i64":
        return struct.pack("<q", value)
    if kind == "str":
        text = None if value is None else value.encode()
        return struct.pack("<I", 0xFFFFFFFF) if text is None else struct.pack("<I", len(text)) + text
    if value is None or isnan(value):
        return struct.pack("<Q", 0x7FF8000000000000)
    return struct.pack("<d", value + 0.0)


def named(frame: pl.DataFrame, node_id: str = NODE, interval: int = 60) -> str:
    return fingerprint(frame, node_id=node_id, interval=interval, start=START, end=START + 10**7)


def test_32_the_vector_holds() -> None:
    rows: Rows = [(START, 1.0, 2.0, 0.5, 1.5, 10.0), (START + 60, 1.5, 1.5, 1.5, 1.5, -0.0)]
    for ordered in (rows, rows[::-1]):
        found = fingerprint(frame_of(ordered), node_id=NODE, interval=60, start=START, end=START + 120)
        assert found == VECTOR


VALUES = st.one_of(st.none(), st.just(-0.0), st.floats(allow_nan=True, allow_infinity=True))
BARS = st.lists(
    st.tuples(st.integers(0, 400_000).map(lambda n: START + 60 * n), VALUES, VALUES, VALUES, VALUES, VALUES),
    unique_by=lambda row: row[0],
    max_size=30,
)


@pytest.mark.fuzz
@given(BARS, st.randoms(use_true_random=False))
def test_32_chunks_and_order_are_irrelevant(rows: Rows, random: Any) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    cut = len(rows) // 2
    pieces = pl.concat([frame_of(shuffled[:cut]), frame_of(shuffled[cut:])], rechunk=False)
    # Every block boundary of 65,536 minutes lies inside the drawn times.
    assert named(pieces) == named(frame_of(rows)) == plain_fingerprint(rows, BAR_COLUMNS, NODE, 60)


TEXTS = st.one_of(st.none(), st.text(max_size=5), st.just("buy"))
IDS = st.text(st.characters(codec="utf-8"), max_size=4)
TRADE_ROWS = st.lists(
    st.tuples(st.integers(START * 1000, START * 1000 + 50), IDS, VALUES, VALUES, TEXTS),
    unique_by=lambda row: (row[0], row[1]),
    max_size=30,
)


@pytest.mark.fuzz
@given(TRADE_ROWS, st.randoms(use_true_random=False))
def test_32_trades_are_encoded_as_written(drawn: Rows, random: Any) -> None:
    rows: Rows = [(ms // 1000, ms, *rest) for ms, *rest in drawn]
    shuffled = rows.copy()
    random.shuffle(shuffled)
    found = named(frame_of(shuffled, TRADE_COLUMNS), TRADES, 3_600)
    assert found == plain_fingerprint(rows, TRADE_COLUMNS, TRADES, 3_600)


def test_32_a_slice_of_texts_is_named_like_a_copy() -> None:
    rows: Rows = [
        (START, START * 1000 + n, f"{n:05}é", 1.0, 1.0, None if n % 3 else "buy") for n in range(50)
    ]
    whole = frame_of(rows, TRADE_COLUMNS)
    assert named(whole[10:40], TRADES, 3_600) == named(frame_of(rows[10:40], TRADE_COLUMNS), TRADES, 3_600)


def test_32_every_part_of_the_name_counts() -> None:
    frame = frame_of([(START, 1.0, 2.0, 0.5, 1.5, 10.0)])
    given_: dict[str, Any] = {"node_id": NODE, "interval": 60, "start": START, "end": START + 60}
    changes: list[dict[str, Any]] = [
        {},
        {"end": START + 120},
        {"start": START - 60},
        {"interval": 120},
        {"node_id": "ohlcv:binance:ETH/USDT:1m"},
        {"version": "v3"},
    ]
    names = {fingerprint(frame, **{**given_, **change}) for change in changes}
    names.add(fingerprint(frame.with_columns(close=pl.lit(1.4)), **given_))
    assert len(names) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ts": pl.col("ts").cast(pl.Int32)}, "column ts: expected Int64, found Int32"),
        ({"close": pl.lit("1.5")}, "column close: expected Float64, found String"),
        ({"ts": pl.lit(None, pl.Int64)}, "column ts: holds nulls"),
    ],
)
def test_a_frame_of_another_form_is_refused(change: dict[str, pl.Expr], message: str) -> None:
    frame = frame_of([(START, 1.0, 2.0, 0.5, 1.5, 10.0)])
    with pytest.raises(ValueError, match=message):
        named(frame.with_columns(**change))
    with pytest.raises(ValueError, match="column volume: expected Float64, found None"):
        named(frame.drop("volume"))
