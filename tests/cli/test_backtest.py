"""`qmtl new` and `qmtl backtest`: what is printed, what is kept, and one clear line for bad input."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from qmtl.cli.backtest import list_market
from qmtl.runtime.sdk import Bars
from qmtl.runtime.sdk.market_history import make_history
from tests.cli.command import Answer, environment, run_command
from tests.runtime.sdk.strategies import BAND_BREAK, walk

HEAD = "from qmtl.runtime.sdk import Strategy\n\n\n"
UNKNOWN = (
    "band_break.py: BandBreak has no parameter windw (window, inner, stop, target); did you mean window?"
)


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with 3,000 candles in candles.parquet."""
    monkeypatch.chdir(home)
    bars = walk(3_000)
    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    pl.DataFrame({"open_ms": bars.open_ms, **columns}).write_parquet(home / "candles.parquet")
    return home


def backtest(*words: str) -> Answer:
    return run_command("backtest", "band_break.py", "--data", "candles.parquet", *words)


def test_01_new_writes_a_strategy_that_runs(place: Path) -> None:
    assert run_command("new", "band_break.py").code == 0
    text = (place / "band_break.py").read_text("utf-8")
    page = BAND_BREAK.partition('ten minutes."""\n\n')[2]
    assert text == page
    answer = run_command("new", "band_break.py")
    assert (answer.code, answer.error) == (2, "error: band_break.py: exists already")
    assert run_command("new", "band_break").code == 2
    done = backtest()
    assert done.code == 0, done.error
    data, verdict, holes, kept = done.text.splitlines()
    assert re.fullmatch(
        r"3,000 bars \(100 %, sha256:[0-9a-f]{4}…\) · fee 0\.04 % · slippage 1 tick · \d+\.\d s", data
    )
    assert re.fullmatch(
        r"\d+ trades · net [+−][\d.]+ % = gross [+−]?[\d.]+, fees −[\d.]+, funding 0\.0 · DD [\d.]+ %"
        r" · Sharpe [−\d.–]+ \[[−\d.–]+, [−\d.–]+\]( · 1 open)?",
        verdict,
    )
    assert holes == "holes: 3 funding rates unknown, counted 0 (first 2023-11-15 16:00)"
    assert re.fullmatch(r"report: runs/[0-9a-f]{8}/report\.html", kept)


def test_a_run_is_kept_and_repeats(place: Path) -> None:
    run_command("new", "band_break.py")
    answer = backtest("-p", "window=30", "--json", "--size", "500 USDT")
    body = json.loads(answer.text)
    folder = place / body["run"]
    record = json.loads((folder / "run.json").read_text())
    assert record["params"]["window"] == 30
    assert record["plan"]["notional"] == "500"
    assert record["strategy"]["class"] == "BandBreak"
    assert record["data"][0]["rows"] == 3_000
    assert record["data"][0]["fingerprint"] == body["fingerprints"]["BTCUSDT"]
    assert record["warmup"] == 31
    assert record["command"][:2] == ["qmtl", "backtest"]
    assert record["trades_hash"] == body["trades_hash"]
    assert body["canonical"] == ["BTC/USDT:USDT"]
    trades = pl.read_parquet(folder / "trades.parquet")
    equity = pl.read_parquet(folder / "equity.parquet")
    assert trades.height == record["figures"]["trades"] + record["figures"]["open_trades"]
    assert equity.columns[:4] == ["ts", "equity", "position", "close"]
    assert {"plot_upper", "plot_lower"} <= set(equity.columns)
    assert equity["equity"][-1] - 10_000 == pytest.approx(trades["pnl"].sum(), abs=1e-6)
    again = json.loads(backtest("-p", "window=30", "--json", "--size", "500 USDT").text)
    assert (again["run"], again["trades_hash"]) == (body["run"], body["trades_hash"])
    assert [path.name for path in (place / "runs").iterdir()] == [folder.name]


def test_saved_parameters_load_only_when_asked(place: Path) -> None:
    run_command("new", "band_break.py")
    (place / "params").mkdir()
    (place / "params" / "band_break.yml").write_text("params:\n  window: 40\n")
    assert json.loads(backtest("--json").text)["params"]["window"] == 20
    both = backtest("--json", "--params", "params/band_break.yml", "-p", "inner=2")
    assert json.loads(both.text)["params"] | {"stop": 0, "target": 0} == {
        "window": 40, "inner": 2.0, "stop": 0, "target": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--param", "windw=30"],
            UNKNOWN,
        ),
        (["--param", "window"], "--param window: expected NAME=VALUE"),
        (["--param", "window=x"], "band_break.py: window: expected a number, got 'x'"),
        (["--params", "none.yml"], "none.yml: no such file of parameters"),
        (["--symbol", "BTC//USDT"], "band_break.py: BandBreak: symbol 'BTC//USDT' is not known"),
        (["--exclude", "2025"], "--exclude 2025: expected START:END"),
        (["--exclude", "2000-01-01:2100-01-01"], "--exclude: no candle of BTCUSDT is left"),
        (["--size", "-1"], "--size: found '-1', expected a number > 0"),
        (["--fill", "never"], "--fill: found 'never', expected 'next_open' or 'close'"),
        (["--funding", "none.feather"], "none.feather: no such file"),
        (["--data", "more.parquet"], "--data: 2 files, expected 1 for BTCUSDT"),
        (["--unit", "h"], "--unit: found 'h', expected s, ms, us, ns"),
    ],
)
def test_06_bad_input_is_one_line(place: Path, words: list[str], message: str) -> None:
    run_command("new", "band_break.py")
    answer = backtest(*words)
    assert answer.code == 2
    assert answer.error.startswith(f"error: {message}")
    assert "\n" not in answer.error
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("import Bars", "import Bras"), "band_break.py:3: ImportError: "),
        (("class BandBreak(Strategy)", "class BandBreak"), "band_break.py: no class that is a Strategy"),
        (("self.window)\n", "self.windw)\n"), "band_break.py:16: AttributeError: "),
        (("bars.close < middle", "bars.close[1:] < 0"), "band_break.py: BandBreak: column exit_long: "),
        (("bars.close < middle", "middle"), "band_break.py: BandBreak: column exit_long: row 0 is NaN"),
        (
            ("bars.close < middle", "bars.open_ms"),
            "band_break.py: BandBreak: column exit_long: expected bool",
        ),
        (('"1m", "close"', '"7m", "close"'), "band_break.py: BandBreak: interval '7m' is not known"),
        (('"1m", "close"', '"1m", "open"'), "band_break.py: BandBreak: decide_on: expected"),
        (('"1m", "close"', '"1h", "close"'), "candles.parquet: row 1: its time is not on the 1h grid"),
    ],
)
def test_06_faults_of_a_strategy_name_file_and_line(
    place: Path, change: tuple[str, str], message: str
) -> None:
    (place / "band_break.py").write_text(BAND_BREAK.replace(*change))
    answer = backtest()
    assert answer.code == 2
    assert answer.error.startswith(f"error: {message}"), answer.error


def test_06_a_hole_under_a_trade_is_flagged_and_strict_refuses(place: Path) -> None:
    run_command("new", "band_break.py")
    whole = json.loads(backtest("--json").text)
    held = pl.read_parquet(Path(whole["run"]) / "equity.parquet")["position"].to_numpy()
    row = 1_500 + int((held[1_500:] != 0).argmax()) + 1
    frame = pl.read_parquet("candles.parquet")
    pl.concat([frame[:row], frame[row + 100 :]]).write_parquet("holed.parquet")
    start = datetime.fromtimestamp(frame["open_ms"][row] / 1000, UTC)
    words = ["backtest", "band_break.py", "--data", "holed.parquet"]
    answer = run_command(*words)
    assert answer.code == 0
    assert "2,900 bars (96.66 %" in answer.text
    assert f"holes: 1 × not in holed.parquet (100 min, first {start:%Y-%m-%d %H:%M})" in answer.text
    assert "· 1 trade over missing candles" in answer.text
    strict = run_command(*words, "--strict", "--out", "elsewhere")
    assert strict.code == 2
    assert strict.error.startswith("error: 1 trade over missing candles: holes: 1 × not in holed.parquet")
    assert strict.error.count("over missing candles") == 1
    assert not Path("elsewhere").exists()
    cut = run_command(
        *words,
        "--strict",
        "--exclude",
        f"{start:%Y-%m-%dT%H:%M}:{start + timedelta(minutes=100):%Y-%m-%dT%H:%M}",
    )
    assert cut.code == 0, cut.error
    assert "over missing" not in cut.text


def test_a_run_without_a_trade_says_what_its_bars_came_to(place: Path) -> None:
    silent = BAND_BREAK.replace("ta.crosses_above(bars.close, upper)", "bars.close < 0")
    (place / "band_break.py").write_text(
        silent.replace("ta.crosses_below(bars.close, lower)", "bars.close < 0")
    )
    verdict = backtest().text.splitlines()[1]
    assert re.search(r"^0 trades .* · \d+ bars warming up, 2,9\d\d bars no signal$", verdict), verdict


def test_on_a_terminal_progress_is_shown_and_nothing_else_changes(place: Path) -> None:
    """Off a terminal no bar is made: only this sees it."""
    run_command("new", "band_break.py")
    main, terminal = pty.openpty()
    line = [sys.executable, "-c", "from qmtl.cli.app import main; main()", "backtest", "band_break.py"]
    done = subprocess.run(
        [*line, "--data", "candles.parquet"],
        cwd=place,
        env=environment(place) | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=terminal,
        timeout=90,
        check=False,
    )
    os.close(terminal)
    shown = os.read(main, 100_000).decode()
    os.close(main)
    assert done.returncode == 0, shown
    assert b"report: runs/" in done.stdout
    assert "3,000/3,000 bars" in shown


def test_excluded_candles_are_counted(place: Path) -> None:
    run_command("new", "band_break.py")
    part = backtest("--exclude", "2023-11-15T10:00:2023-11-15T20:00")
    assert re.match(r"3,000 bars \(100 %, sha256:\w{4}…\) · 600 excluded · fee", part.text), part.text


def test_01_without_a_file_the_store_is_read(place: Path) -> None:
    """The transcript: data fetch, then backtest."""
    run_command("new", "band_break.py")
    bare = run_command("backtest", "band_break.py")
    assert bare.code == 2
    assert bare.error.startswith(
        "error: binanceusdm BTC/USDT:USDT 1m: nothing is stored; qmtl data fetch BTC"
    )
    assert run_command("data", "fetch", "BTCUSDT", "1m", "--file", "candles.parquet").code == 0
    stored = json.loads(run_command("backtest", "band_break.py", "--json").text)
    filed = json.loads(backtest("--json").text)
    assert stored["trades_hash"] == filed["trades_hash"]
    assert stored["coverage"] == {"BTCUSDT": 1.0}
    part = run_command(
        "backtest", "band_break.py", "--start", "2023-11-15T10:00", "--end", "2023-11-15T20:00"
    )
    assert part.text.startswith("600 bars (100 %"), part.error
    both = backtest("--since", "3d")
    assert both.error == "error: --data brings the range of its file; leave --since, --start and --end out"


def test_06_a_strategy_of_nodes_is_the_runners(place: Path) -> None:
    text = f"{HEAD}class Graph(Strategy):\n    def setup(self):\n        pass\n"
    (place / "graph.py").write_text(text)
    answer = run_command("backtest", "graph.py", "--data", "candles.parquet")
    assert (answer.code, answer.error) == (
        2, "error: graph.py: Graph is made of nodes: Runner.submit runs it",
    )  # fmt: skip


def test_06_an_event_strategy_that_fails_names_its_line(place: Path) -> None:
    text = (
        "from qmtl.runtime.sdk import Strategy\n\n\nclass Odd(Strategy):\n    def on_bar(self, ctx, bar):\n"
    )
    (place / "odd.py").write_text(text + "        ctx.buy(1, limit=bar.close / 0)\n")
    answer = run_command("backtest", "odd.py", "--data", "candles.parquet")
    assert (answer.code, answer.error) == (2, "error: odd.py:6: ZeroDivisionError: float division by zero")
    (place / "odd.py").write_text(text + "        ctx.buy(1, limt=bar.close)\n")
    answer = run_command("backtest", "odd.py", "--data", "candles.parquet")
    assert answer.code == 2
    assert answer.error.startswith("error: odd.py:6: ctx.buy has no limt (quantity, notional, limit, ")
    assert answer.error.endswith("did you mean limit?")


def test_a_cheap_coin_is_traded_like_any_other(place: Path) -> None:
    """What a venue takes at most is not in candles: of half a cent a tenth of 10,000 is 200,000 units."""
    run_command("new", "band_break.py")
    frame = pl.read_parquet(place / "candles.parquet")
    prices = [(pl.col(name) / 60_000 * 0.005).round(7) for name in ("open", "high", "low", "close")]
    frame.with_columns(prices).write_parquet(place / "cheap.parquet")
    done = run_command(
        "backtest", "band_break.py", "--symbol", "CHEAPUSDT", "--data", "cheap.parquet", "--json"
    )
    figures = json.loads(done.text)["figures"]
    assert figures["trades"] > 100
    assert figures["gates"] == {}


def test_a_price_below_a_ten_thousandth_has_the_tick_it_is_written_with() -> None:
    """Floats that small are written with an exponent: 1.234e-05 has eight decimals and not seven."""
    for prices, tick in (
        ([1.2e-05, 1.234e-05], "0.00000001"),
        ([1e-05, 2e-05], "0.00001"),
        ([0.3, 0.25], "0.01"),
    ):
        one, volume = np.array(prices), np.array([0.0, 1e16])
        bars = Bars(np.arange(2) * 60_000, one, one, one, one, volume, symbol="TINYUSDT")
        found = list_market("TINYUSDT", make_history(bars, source="file", node_id="ohlcv:file:TINYUSDT:1m"))
        assert (found.tick_size, found.lot_size) == (Decimal(tick), Decimal(1))
