"""Files of history: every format, every unit, every fault with its row; what is written is read back."""

import gzip
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.feather
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from qmtl.core.bar import BarError
from qmtl.runtime.io.history_file import (
    check_writable,
    read_bars,
    read_candles,
    read_rates,
    read_trades,
    write_rows,
)

assert_same = partial(assert_frame_equal, check_exact=True)

START = 1_706_745_600
VALUES = {
    "open": [1.0, 1.5],
    "high": [2.0, 2.5],
    "low": [0.5, 1.0],
    "close": [1.5, 2.0],
    "volume": [3.0, 0.0],
}
BARS = pl.DataFrame({"ts": [START, START + 60], **VALUES})
HEADER = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
HEADER += "taker_buy_quote_volume,ignore"
TRADES = pl.DataFrame(
    {
        "ts": [START, START],
        "ts_ms": [START * 1000 + 1, START * 1000 + 2],
        "id": ["7", "8é"],
        "price": [1.25, 1.0 / 3],
        "amount": [1.0, 2.0],
        "side": ["buy", None],
    }
)


def monthly(times: list[int], *, header: bool) -> str:
    rows = [f"{time},1,2,0.5,1.5,3,{time + 59_999},1,1,1,1,0" for time in times]
    return "\n".join([HEADER, *rows] if header else rows) + "\n"


def place(path: Path, text: str) -> Path:
    raw = text.encode()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}.csv", raw)
    else:
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".zip"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("digits", [13, 16])
def test_monthly_files_tell_their_unit_by_digits(
    tmp_path: Path, suffix: str, header: bool, digits: int
) -> None:
    factor = 10 ** (digits - 10)
    text = monthly([START * factor, (START + 60) * factor], header=header)
    path = place(tmp_path / f"BTCUSDT-1m-2024-02{suffix}", text)
    # A unit of the caller's own is not needed, and cannot mislead.
    for unit in (None, "s"):
        frame = read_bars(path, unit=unit)
        assert frame["ts"].to_list() == [START, START + 60]
        assert frame.row(0)[1:] == (1.0, 2.0, 0.5, 1.5, 3.0)


def test_monthly_files_of_aggregate_trades(tmp_path: Path) -> None:
    rows = f"7,1.25,1,1,3,{START * 1000 + 1},true\n8,1.5,2,4,4,{START * 1000 + 2},false\n"
    header = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
    spot = f"7,1.25,1,1,3,{START * 10**6 + 1999},True,True\n8,1.5,2,4,4,{START * 10**6 + 2000},False,True\n"
    for text in (rows, header + rows, spot):
        frame = read_trades(place(tmp_path / "BTCUSDT-aggTrades-2024-02.zip", text))
        assert frame.rows() == [
            (START, START * 1000 + 1, "7", 1.25, 1.0, "sell"),
            (START, START * 1000 + 2, "8", 1.5, 2.0, "buy"),
        ]


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv", ".csv.gz", ".pq", ".arrow"])
def test_42_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    for _ in range(2):  # a file that is there is replaced
        write_rows(BARS, path)
        assert_same(read_bars(path), BARS)
    write_rows(TRADES, path)
    assert_same(read_trades(path), TRADES)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing is left beside it"


def test_other_readers_know_the_feather_file(tmp_path: Path) -> None:
    write_rows(TRADES, tmp_path / "a.feather")
    assert pyarrow.feather.read_table(tmp_path / "a.feather")["id"].to_pylist() == ["7", "8é"]


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("precious")
    with pytest.raises(pl.exceptions.PolarsError):
        write_rows(pl.DataFrame({"nested": [[1]]}), path)  # CSV holds no lists
    assert path.read_text() == "precious"
    for name in ("a.xlsx", "a", "a.zip"):
        with pytest.raises(BarError, match=r"expected \.parquet, \.feather, \.csv or \.csv\.gz"):
            check_writable(tmp_path / name)


MOMENTS: list[tuple[str, pl.Series]] = [
    *((f"datetime {u}", pl.Series([datetime.fromtimestamp(START, UTC)], dtype=pl.Datetime(u, "UTC")))
      for u in ("ms", "us", "ns")),
    ("naive", pl.Series([datetime.fromtimestamp(START, UTC).replace(tzinfo=None)])),
    ("zone", pl.Series([datetime.fromtimestamp(START, UTC)]).dt.convert_time_zone("Asia/Seoul")),
    ("date", pl.Series([date(2024, 2, 1)])),
    *((text, pl.Series([text])) for text in ("2024-02-01", "2024-02-01 00:00:00", "2024-02-01T00:00:00Z",
      "2024-02-01T00:00:00.000000000+0000", " 2024-02-01 09:00:00+09:00 ")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "moments"), MOMENTS, ids=[name for name, _ in MOMENTS])
@pytest.mark.parametrize("column", ["date", "timestamp", "open_time", "Time", "ts"])
def test_dates_and_times_carry_their_unit(tmp_path: Path, name: str, moments: pl.Series, column: str) -> None:
    path = tmp_path / "a.parquet"
    BARS.head(1).drop("ts").with_columns(moments.alias(column)).write_parquet(path)
    assert read_bars(path)["ts"].to_list() == [START]


@pytest.mark.parametrize(
    ("column", "factor", "unit"),
    [
        ("ts", 1, None),
        ("open_ms", 10**3, None),
        ("timestamp", 1, "s"),
        ("timestamp", 10**3, "ms"),
        ("date", 10**6, "us"),
        ("time", 10**9, "ns"),
    ],
)
def test_whole_numbers_need_a_unit(tmp_path: Path, column: str, factor: int, unit: Any) -> None:
    for suffix in (".csv", ".feather"):
        path = tmp_path / f"a{suffix}"
        write_rows(BARS.drop("ts").with_columns((BARS["ts"] * factor).alias(column)), path)
        assert read_bars(path, unit=unit)["ts"].to_list() == [START, START + 60]
        if unit:
            with pytest.raises(BarError, match=f"column {column} holds whole numbers; say their unit: s, ms"):
                read_bars(path)


NAMES = "open,high,low,close,volume"
BAD_ROWS = [
    (f"date,{NAMES}\n2024-02-01,1,2,0.5,x,1\n", "row 0: close 'x' is no number"),
    (f"date,{NAMES}\n2024-02-01,1,2,0.5,,1\n", "row 0: no close"),
    (f"date,{NAMES}\n2024-02-01,1,2,0.5,1,1\nsoon,1,2,0.5,1,1\n", "row 1: date 'soon' is no"),
    (f"ts,{NAMES}\n60,1,2,0.5,1,1\n1.5,1,2,0.5,1,1\n", "row 1: ts '1.5' is no whole number"),
    (f"open_ms,{NAMES}\n60500,1,2,0.5,1,1\n", "row 0: time 60500 ms is no whole second"),
    (f"date,{NAMES}\n2024-02-01T00:00:00.0001,1,2,0.5,1,1\n", "row 0: time 1706745600000100 us"),
    (monthly([1_706_745_600], header=True), "row 0: time 1706745600 has neither 13 digits (ms) nor 16"),
    (monthly([1_706_745_600_000, 1_706_745_660_000_000], header=False), "row 1: time 17067456600000"),
    ("date,open\n", "missing columns high, low, close, volume; found date, open"),
    ("", "missing columns date | timestamp | open_time, open, high, low, close, volume; found none"),
    (f"date,{NAMES}\n2024-02-01,1,2,0.5,1,1,9\n", "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = place(tmp_path / "bad.csv", text)
    with pytest.raises(BarError) as caught:
        read_bars(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.csv: no such file"):
        read_bars(tmp_path / "none.csv")
    for name in ("a.parquet", "a.feather", "a.csv.gz", "a.zip"):
        (tmp_path / name).write_bytes(b"not at all\xff\x00")
        with pytest.raises(BarError, match=f"{name}: cannot be read"):
            read_bars(tmp_path / name)
    whole = place(tmp_path / "cut.csv.gz", monthly([START * 1000] * 99, header=True)).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(BarError, match=r"cut.csv.gz: cannot be read"):
        read_bars(tmp_path / "cut.csv.gz")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(BarError, match=r"two.zip: expected one .csv inside, found 2"):
        read_bars(tmp_path / "two.zip")


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("BTCUSDT_UM_1m_2023-07-18_2023-08-17.feather", 43_199),
        ("BTCUSDT_UM_1m_2025-07-13_2025-08-12.parquet", 43_200),
        ("FILUSDT-1m-2023-08.csv.gz", 44_640),
        ("UNITTEST_BTC-1m.feather", 13_681),
    ],
)
def test_recorded_files_are_read_whole(
    recorded_file: Callable[[str], Path], tmp_path: Path, name: str, rows: int
) -> None:
    path = recorded_file(f"candles/{name}")
    frame = read_bars(path)
    assert (frame.height, frame["ts"].is_sorted()) == (rows, True)
    if name.endswith(".csv.gz"):
        bare = gzip.decompress(path.read_bytes()).decode().partition("\n")[2]
        assert_same(read_bars(place(tmp_path / "bare.zip", bare)), frame)
    assert read_candles(path)["open_ms"].to_list() == (frame["ts"] * 1000).to_list()


@pytest.mark.recorded
def test_rates_are_read_as_they_are(recorded_file: Callable[[str], Path]) -> None:
    frame = read_rates(recorded_file("candles/BTCUSDT_UM_8h-funding_rate.feather"))
    assert (frame.columns, frame.height, frame["open"][0]) == (["open_ms", "open"], 266, 6.818e-05)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.tuples(st.integers(0, 10**11 - 1), *[FINITE] * 5), min_size=1, max_size=20)
SIDES = st.sampled_from(["buy", "sell", None])
IDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
TRADE_ROWS = st.lists(
    st.tuples(st.integers(0, 10**14 - 1), IDS, FINITE, FINITE, SIDES), min_size=1, max_size=20
)


@pytest.mark.fuzz
@given(ROWS, TRADE_ROWS, st.sampled_from([".parquet", ".feather", ".csv", ".csv.gz"]))
def test_42_any_rows_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], trades: list[Any], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("files") / f"a{suffix}"
    frame = pl.DataFrame(rows, schema=BARS.schema, orient="row")
    write_rows(frame, path)
    assert_same(read_bars(path), frame)
    made = [(ms // 1000, ms, *rest) for ms, *rest in trades]
    frame = pl.DataFrame(made, schema=TRADES.schema, orient="row")
    write_rows(frame, path)
    assert_same(read_trades(path), frame)
