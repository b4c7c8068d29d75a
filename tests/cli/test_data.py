"""seamless.md §13: `qmtl data` from a recorded file to the store and back, as a user types it."""

import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from qmtl.cli import app
from qmtl.runtime.io.artifacts import ArtifactReader
from qmtl.runtime.io.history_file import read_bars
from tests.servers import QuestDBServer

assert_same = partial(assert_frame_equal, check_exact=True)

BTC = [
    "BTCUSDT_UM_1m_2023-07-18_2023-08-17.feather",
    "BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather",
    "BTCUSDT_UM_1m_2025-07-13_2025-08-12.parquet",
]
THIN = "UNITTEST_BTC-1m.feather"
DAY = 1_738_368_000  # 2025-02-01


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture
def ask(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command line in this process, in a home that holds nothing."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "120")

    def answer(*words: object) -> Answer:
        code = app.run([str(word) for word in words])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return answer


def bars(*minutes: int, start: int = DAY) -> pl.DataFrame:
    ts = pl.Series("ts", [start + 60 * minute for minute in minutes], pl.Int64)
    return pl.DataFrame([ts]).with_columns(
        open=pl.lit(2.0), high=pl.lit(3.0), low=pl.lit(1.0), close=pl.lit(2.5), volume=pl.lit(1.0)
    )


def gaps_of(frame: pl.DataFrame) -> list[tuple[int, int]]:
    """The holes of recorded rows, found row by row."""
    times = frame["ts"].to_list()
    return [(a + 60, b) for a, b in itertools.pairwise(times) if b - a != 60]


@pytest.mark.recorded
def test_42_a_file_with_538_gaps_comes_back_row_for_row(
    ask: Ask, home: Path, recorded_file: Callable[[str], Path]
) -> None:
    source = recorded_file(f"candles/{THIN}")
    recorded = read_bars(source)
    gaps = gaps_of(recorded)
    assert len(gaps) == 538
    series = ("UNITTEST/BTC", "1m", "--exchange", "binance")
    told = ask("data", "fetch", *series, "--file", source)
    assert (told.code, told.err) == (0, "")
    head, *lines = told.out.splitlines()
    assert head.startswith("binance UNITTEST/BTC 1m 13,681/14,398 · 538 holes · 0:0")
    assert len(lines) == 538
    assert lines[0] == "  hole 2017-11-04 23:08 → 2017-11-04 23:14 · 6 bars · no_source"
    body = ask("data", "coverage", *series, "--json").body["series"][0]
    assert [(hole["start"], hole["end"]) for hole in body["holes"]] == gaps
    assert {hole["reason"] for hole in body["holes"]} == {"no_source"}
    for name in ("out.parquet", "out.feather", "out.csv", "out.csv.gz"):
        done = ask("data", "export", *series, name, "--json")
        assert (done.code, done.body["rows"], done.body["holes"]) == (0, 13_681, body["holes"])
        assert_same(read_bars(home / name), recorded)
    verified = ask("data", "verify", *series)
    assert (verified.code, verified.out) == (0, "1 series · 0 differences\n")


@pytest.mark.recorded
def test_42_recorded_files_go_through_store_coverage_and_artifact(
    ask: Ask, home: Path, recorded_file: Callable[[str], Path]
) -> None:
    """Three files with the genuine months between them, and the thin one: row for row what was recorded."""
    (home / "qmtl.yml").write_text("seamless: {artifacts_enabled: true, artifact_dir: kept}\n")
    reader = ArtifactReader(home / "kept")
    pieces = []
    for name in [*BTC, THIN]:
        recorded = read_bars(recorded_file(f"candles/{name}"))
        symbol = "UNITTEST/BTC" if name == THIN else "BTCUSDT"
        told = ask("data", "fetch", symbol, "1m", "--file", recorded_file(f"candles/{name}"), "--json").body
        assert (told["filled"], len(told["holes"])) == (recorded.height, 538 if name == THIN else 0)
        named = reader.resolve(told["node_id"], 60, told["as_of"], told["start"], told["end"])
        assert named == told["dataset_fingerprint"]
        assert_same(reader.open(named), recorded)
        pieces += [] if name == THIN else [recorded]
    body = ask("data", "coverage", "BTC/USDT", "1m", "--json").body["series"][0]
    assert body["symbol"] == "BTC/USDT:USDT"
    assert [(hole["start"], hole["end"]) for hole in body["holes"]] == [
        (a["ts"][-1] + 60, b["ts"][0]) for a, b in itertools.pairwise(pieces)
    ]
    assert ask("data", "export", "BTC/USDT:USDT", "1m", "all.parquet").code == 0
    assert_same(read_bars(home / "all.parquet"), pl.concat(pieces))
    assert ask("data", "verify").out == "2 series · 0 differences\n"


def test_42_a_flipped_byte_of_a_segment_is_named(ask: Ask, home: Path) -> None:
    bars(*range(100)).write_parquet(home / "a.parquet")
    assert ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet").code == 0
    segment = next((home / ".qmtl_seamless_store" / "segments").rglob("*.arrow"))
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 4
    segment.write_bytes(raw)
    told = ask("data", "verify")
    assert told.code == 1
    assert str(segment) in told.out
    assert "binanceusdm BTC/USDT:USDT 1m · hash · 2025-02-01 00:00 → 2025-03-01 00:00" in told.out
    assert told.out.endswith(("1 series · 1 difference\n", "differences\n"))
    listed = ask("data", "verify", "BTCUSDT", "1m", "--json")
    assert (listed.code, listed.body["differences"][0]["check"]) == (1, "hash")
    assert ask("data", "export", "BTCUSDT", "1m", "o.csv").code == 1, "no damaged row leaves the store"
    assert "qmtl data verify --forget" in told.out
    dropped = ask("data", "verify", "--forget")
    assert dropped.code == 1
    assert "BTC/USDT:USDT 1m · forgotten 2025-02-01 00:00 → 2025-03-01 00:00" in dropped.out
    assert ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet").code == 0
    assert ask("data", "verify").code == 0


def test_verify_names_rows_that_are_not_the_artifact_s(ask: Ask, home: Path) -> None:
    (home / "qmtl.yml").write_text("seamless: {artifacts_enabled: true}\n")
    bars(*range(5)).write_parquet(home / "a.parquet")
    bars(2).with_columns(close=pl.lit(2.25)).write_parquet(home / "b.parquet")
    assert ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet").code == 0
    assert ask("data", "verify").code == 0
    # The same rows again are no news; other rows are a newer artifact of their own range only.
    again = ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet", "--json").body
    changed = ask("data", "fetch", "BTCUSDT", "1m", "--file", "b.parquet", "--json").body
    assert changed["as_of"] > again["as_of"]
    told = ask("data", "verify")
    assert told.code == 1
    assert "artifact · 2025-02-01 00:00 → 2025-02-01 00:05 · stored rows are not those of" in told.out
    next((home / ".qmtl_seamless_artifacts").rglob("data.parquet")).unlink()
    assert "data.parquet: is missing" in ask("data", "verify").out


def test_every_spelling_is_one_series_and_its_canonical_form_is_echoed(ask: Ask, home: Path) -> None:
    bars(0, 1, 3).write_csv(home / "a.csv")
    for symbol in ("BTCUSDT", "btcusdt", "BTC/USDT", "BTC/USDT:USDT"):
        told = ask("data", "fetch", symbol, "1m", "--file", "a.csv")
        assert told.out.startswith("binanceusdm BTC/USDT:USDT 1m 3/4 · 1 hole · 0:0")
    assert ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.csv", "--exchange", "kraken").out.startswith(
        "kraken BTC/USDT 1m 3/4"
    )
    every = ask("data", "coverage", "--json").body["series"]
    assert [(one["exchange"], one["symbol"]) for one in every] == [
        ("binanceusdm", "BTC/USDT:USDT"),
        ("kraken", "BTC/USDT"),
    ]
    assert [
        one["symbol"] for one in ask("data", "coverage", "--exchange", "kraken", "--json").body["series"]
    ] == ["BTC/USDT"]


def test_the_heat_map_tells_days_months_and_holes(ask: Ask, home: Path) -> None:
    whole = [minute for minute in range(3 * 1440) if not 1440 <= minute < 1500]
    pl.concat([bars(*whole), bars(0, start=DAY + 120 * 86_400)]).write_parquet(home / "a.parquet")
    ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet")
    lines = ask("data", "coverage", "BTCUSDT", "1m").out.splitlines()
    assert lines == [
        "binanceusdm BTC/USDT:USDT 1m · 2025-02-01 00:00 → 2025-06-01 00:01",
        "        1    6    11   16   21   26   31  (UTC)",
        "2025-02 █▓█·························",
        "2025-03 … 2025-05  no rows in 3 months",
        "2025-06 █",
        "█ whole  ▓ ▒ ░ in part  · missing  ○ confirmed empty",
        "binanceusdm BTC/USDT:USDT 1m 4,261/172,801 · 2 holes",
        "  hole 2025-02-02 00:00 → 2025-02-02 01:00 · 60 bars · no_source",
        "  hole 2025-02-04 00:00 → 2025-06-01 00:00 · 168,480 bars · no_source",
    ]
    part = ask("data", "coverage", "BTCUSDT", "1m", "--start", "2025-02-02", "--end", "2025-02-02T02:00").out
    assert "1m 60/120 · 1 hole" in part
    strip = ask("data", "coverage").out.splitlines()
    assert len(strip) == 2
    assert strip[1].startswith("▓·")


def test_trades_are_kept_in_hours(ask: Ask, home: Path) -> None:
    first_ms = DAY * 1000
    rows = {"ts_ms": [first_ms + 5, first_ms + 3_600_000, first_ms + 3_600_000], "id": ["1", "2", "3"]}
    frame = pl.DataFrame(
        {**rows, "price": [1.0, 2.0, 3.0], "amount": [1.0] * 3, "side": ["buy", "sell", None]}
    )
    frame.write_csv(home / "t.csv")
    told = ask("data", "fetch", "BTCUSDT", "trades", "--file", "t.csv")
    assert told.out.startswith("binanceusdm BTC/USDT:USDT trades 2/2 · 0 holes")
    assert ask("data", "export", "BTCUSDT", "trades", "o.parquet", "--json").body["rows"] == 3
    assert ask("data", "verify").out == "1 series · 0 differences\n"


def test_what_conformance_changed_is_said(ask: Ask, home: Path) -> None:
    twice = pl.concat([bars(0, 1, 2), bars(1).with_columns(close=pl.lit(2.75))])
    twice.write_parquet(home / "a.parquet")
    told = ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet")
    assert "a.parquet: duplicate_ts: 2 rows share a time; the last of each was kept" in told.err
    ask("data", "export", "BTCUSDT", "1m", "o.csv")
    assert read_bars(home / "o.csv")["close"].to_list() == [2.5, 2.75, 2.5]
    quiet = ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet", "-q")
    assert quiet.err == ""


def test_a_preset_of_one_s_own_decides_what_is_refused(ask: Ask, home: Path) -> None:
    (home / "presets.yml").write_text("conformance_presets: {no-gaps: {block: [gap]}}\n")
    (home / "qmtl.yml").write_text("seamless: {presets_file: presets.yml, conformance_preset: no-gaps}\n")
    bars(0, 2).write_parquet(home / "a.parquet")
    told = ask("data", "fetch", "BTCUSDT", "1m", "--file", "a.parquet")
    assert (told.code, told.out) == (2, "")
    assert "a.parquet: rows refused: gap: 1 cells are missing" in told.err
    assert not (home / ".qmtl_seamless_store").exists()


BAD: list[tuple[str, list[str]]] = [
    ("fetch BTCUSDT 1m", ["--since 90d", "--start TIME", "--file PATH"]),
    ("fetch BTCUSDT 7m --since 1d", ["timeframe '7m' is not known", "1m", "trades"]),
    ("fetch ? 1m --since 1d", ["symbol '?'", "BTC/USDT:USDT"]),
    ("fetch BTCUSDT 1m --since soon", ["--since: found 'soon'", "1h"]),
    ("fetch BTCUSDT 1m --since 0d", ["--since: found '0d'"]),
    ("fetch BTCUSDT 1m --start never", ["--start: found 'never'", "2024-02-01"]),
    ("fetch BTCUSDT 1m --start 1706745600000", ["--start: found '1706745600000'"]),
    ("fetch BTCUSDT 1m --start 2025-02-02 --end 2025-02-01", ["--start 2025-02-02 is not before"]),
    ("fetch BTCUSDT 1m --end 2025-02-01", ["--end needs --start or --since"]),
    ("fetch BTCUSDT 1m --since 1d --start 2025-02-01", ["--since and --start exclude each other"]),
    ("fetch BTCUSDT 1m --file none.csv", ["none.csv: no such file"]),
    ("fetch BTCUSDT 1m --file whole.csv", ["whole.csv: column timestamp holds whole numbers", "--unit"]),
    ("fetch BTCUSDT 1m --file whole.csv --unit h", ["--unit: found 'h'", "s, ms, us, ns"]),
    (
        "fetch BTCUSDT 1m --file whole.csv --unit s",
        ["whole.csv: rows refused: invalid_timestamp: 2", "row 0"],
    ),
    ("fetch BTCUSDT 1m --file whole.csv --unit ms --since 1d", ["--file brings the range of the file"]),
    ("fetch BTCUSDT 1m --file low.csv", ["low.csv: rows refused: ohlc_inconsistent: 1", "row 1"]),
    ("fetch BTCUSDT 5m --file low.csv", ["misaligned_ts: 1"]),
    ("fetch BTCUSDT 1m --file empty.csv", ["empty.csv: no rows"]),
    ("fetch BTCUSDT 1m --file junk.parquet", ["junk.parquet: cannot be read"]),
    ("fetch BTCUSDT 1m --file low.csv --exchange Binance!", ["exchange 'Binance!'"]),
    ("export BTCUSDT 1m none/out.csv", ["none/out.csv: there is no folder none"]),
    ("fetch BTCUSDT 1m --since 1h --exchange foo", ["--exchange: 'foo' is not one ccxt knows"]),
    ("export BTCUSDT 1m out.xlsx", ["out.xlsx: expected .parquet, .feather, .csv or .csv.gz"]),
    ("coverage BTCUSDT", ["BTCUSDT: which timeframe?"]),
    ("verify BTCUSDT 9m", ["timeframe '9m' is not known"]),
]


@pytest.mark.parametrize(("line", "parts"), BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    ask: Ask, home: Path, line: str, parts: list[str]
) -> None:
    values = bars(0, 1).drop("ts")
    values.with_columns(timestamp=pl.Series([DAY * 1000, DAY * 1000 + 60_000])).write_csv(home / "whole.csv")
    low = pl.Series([1.0, 2.9])
    bars(0, 1).with_columns(low=low).write_csv(home / "low.csv")
    bars().write_csv(home / "empty.csv")
    (home / "junk.parquet").write_bytes(b"PAR1 not really")
    before = sorted(home.rglob("*"))
    told = ask("data", *line.split())
    assert (told.code, told.out) == (2, ""), told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    for part in parts:
        assert part in told.err
    assert sorted(home.rglob("*")) == before


def test_41_an_exchange_behind_the_extra_says_how_to_get_it(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    for timeframe, owner in (("1m", "CcxtOHLCVFetcher"), ("trades", "CcxtTradesFetcher")):
        told = ask("data", "fetch", "BTCUSDT", timeframe, "--exchange", "kraken", "--since", "1d")
        assert (told.code, told.out) == (2, "")
        assert told.err == f"error: ccxt is required for {owner}; run: uv pip install -e .[ccxt]\n"
    bars(0).write_parquet(home / "a.parquet")
    assert ask("data", "fetch", "BTCUSDT", "1m", "--exchange", "kraken", "--file", "a.parquet").code == 0


def test_nothing_stored_is_said_and_what_to_do(ask: Ask, home: Path) -> None:
    for line in ("coverage", "coverage BTCUSDT 1m", "export BTCUSDT 1m out.csv"):
        told = ask("data", *line.split())
        assert (told.code, told.out) == (1, "")
        assert "qmtl data fetch" in told.err
    assert ask("data", "verify").out == "0 series · 0 differences\n"
    assert not (home / "out.csv").exists()


@pytest.mark.recorded
def test_42_a_quest_db_store_keeps_the_same_rows_and_holes(
    ask: Ask, home: Path, recorded_file: Callable[[str], Path], questdb_server: QuestDBServer
) -> None:
    page = f"seamless: {{questdb_dsn: '{questdb_server.dsn}', questdb_http: '{questdb_server.http}'}}\n"
    (home / "qmtl.yml").write_text(page)
    source = recorded_file(f"candles/{THIN}")
    series = ("UNITTEST/BTC", "1m", "--exchange", "binance")
    told = ask("data", "fetch", *series, "--file", source, "--json")
    assert (told.code, told.err) == (0, "")
    assert (told.body["filled"], len(told.body["holes"])) == (13_681, 538)
    assert ask("data", "export", *series, "out.parquet", "--json").body["rows"] == 13_681
    assert_same(read_bars(home / "out.parquet"), read_bars(source))
    every = ask("data", "coverage", "--json").body["series"]
    assert [one["holes"] for one in every if one["symbol"] == "UNITTEST/BTC"] == [told.body["holes"]]
    assert ask("data", "verify", *series).out == "1 series · 0 differences\n"
