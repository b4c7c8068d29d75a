"""`qmtl reproduce`: the same trades, or what differs by name."""

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from bench.recorded import load_bars
from tests.cli.command import qmtl


@pytest.fixture
def run(home: Path) -> str:
    bars, _ = load_bars(2_500)
    columns = {
        name: [getattr(bar, name) for bar in bars] for name in ("open", "high", "low", "close", "volume")
    }
    times = pl.Series("date", [bar.open_ms for bar in bars]).cast(pl.Datetime("ms", "UTC"))
    pl.DataFrame({"date": times, **columns}).write_parquet(home / "candles.parquet")
    assert qmtl("new", "band_break.py", home=home).returncode == 0
    given = ("--data", "candles.parquet", "--fee", "0.05%", "-p", "window=25", "--json")
    done = qmtl("backtest", "band_break.py", *given, home=home, timeout_s=90)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"]).name


def test_a_run_comes_out_the_same_whatever_the_settings_say_now(home: Path, run: str) -> None:
    (home / "qmtl.yml").write_text("backtest: {fee: 0.001, slippage_ticks: 9}\n", "utf-8")
    done = qmtl("reproduce", run[:5], home=home, timeout_s=90)
    assert (done.returncode, done.stderr) == (0, "")
    assert " trades equal · sha256:" in done.stdout


def test_what_differs_is_named(home: Path, run: str) -> None:
    text = (home / "band_break.py").read_text("utf-8")
    (home / "band_break.py").write_text(text.replace("bars.close < middle", "bars.close < lower"), "utf-8")
    frame = pl.read_parquet(home / "candles.parquet")
    frame.with_columns(pl.col("volume") + (pl.int_range(pl.len()) == 1_000)).write_parquet(
        home / "other.parquet"
    )
    done = qmtl("reproduce", run, "--data", "other.parquet", "--json", home=home, timeout_s=90)
    assert done.returncode == 3, done.stderr
    body = json.loads(done.stdout)
    assert body["is_same"] is False
    assert [line.split(":")[0] for line in body["different"]] == ["strategy", "data BTCUSDT"]


def test_a_run_pays_the_funding_of_its_command_and_another_is_named(home: Path, run: str) -> None:
    first = pl.read_parquet(home / "candles.parquet")["date"][0]
    dates = [first.replace(minute=0) + timedelta(hours=hour) for hour in range(48)]
    rates = pl.DataFrame({"date": dates, "open": 0.001}).filter(pl.col("date").dt.hour() % 8 == 0)
    rates.write_csv(home / "rates.csv")
    given = ("--data", "candles.parquet", "--fee", "0.05%", "-p", "window=25", "--json")
    done = qmtl("backtest", "band_break.py", *given, "--funding=rates.csv", home=home)
    paying = Path(json.loads(done.stdout)["run"]).name
    assert paying != run
    assert qmtl("reproduce", paying, home=home).returncode == 0
    rates.with_columns(open=-0.001).write_csv(home / "rates.csv")
    other = qmtl("reproduce", paying, "--json", home=home)
    assert [line.split(":")[0] for line in json.loads(other.stdout)["different"]] == ["funding BTCUSDT"]


def test_a_record_that_was_changed_is_named(home: Path, run: str) -> None:
    record = home / "runs" / run / "run.json"
    record.write_text(record.read_text("utf-8").replace('"window": 25', '"window": 30'), "utf-8")
    done = qmtl("reproduce", run, home=home)
    assert done.returncode == 3
    assert "run.json: what went into the run was changed after it was written" in done.stdout


def test_bad_input_is_one_line(home: Path, run: str) -> None:
    (home / "candles.parquet").rename(home / "moved.parquet")
    for arguments, words in (
        ((run,), "candles.parquet: the run's candles are not there; name them with --data"),
        (("ffff0000",), "run ffff0000: not found below runs"),
    ):
        done = qmtl("reproduce", *arguments, home=home)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
    assert qmtl("reproduce", run, "--data", "moved.parquet", home=home, timeout_s=90).returncode == 0


def test_funding_is_part_of_a_run_and_of_its_repetition(home: Path, run: str) -> None:
    """Two runs that differ in their rates are two runs; the rates of the command are read again."""
    times = pl.read_parquet(home / "candles.parquet")["date"]
    slots = pl.datetime_range(times[0], times[-1], "1h", eager=True, time_unit="ms", time_zone="UTC")
    rates = pl.DataFrame({"date": slots}).filter(pl.col("date").dt.hour() % 8 == 0)
    zeros = {name: [0.0] * rates.height for name in ("high", "low", "close", "volume")}
    rates.with_columns(open=pl.lit(0.01), **{n: pl.Series(v) for n, v in zeros.items()}).write_ipc(
        home / "rates.feather"
    )
    given = ("--data", "candles.parquet", "--fee", "0.05%", "-p", "window=25", "--json")
    paid = qmtl("backtest", "band_break.py", *given, "--funding", "rates.feather", home=home, timeout_s=90)
    assert paid.returncode == 0, paid.stderr
    name = Path(json.loads(paid.stdout)["run"]).name
    assert name != run
    done = qmtl("reproduce", name, home=home, timeout_s=90)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    (home / "rates.feather").rename(home / "moved.feather")
    moved = qmtl("reproduce", name, home=home)
    assert (moved.returncode, moved.stderr) == (
        2, "error: rates.feather: the run's funding rates are not there\n",
    )  # fmt: skip
    pl.read_ipc(home / "moved.feather").with_columns(open=pl.lit(0.02)).write_ipc(home / "rates.feather")
    other = qmtl("reproduce", name, home=home, timeout_s=90)
    assert "funding BTCUSDT: sha256:" in other.stdout
