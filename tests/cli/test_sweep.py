"""`qmtl sweep`: what it prints, keeps and saves, how it goes on, and one clear line for bad input."""

import json
import re
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.cli.command import Answer, qmtl, run_command, start
from tests.runtime.sdk.strategies import BAND_BREAK, walk

SETS = ("-p", "window=10:20:5", "-p", "inner=1.0,1.5", "--splits", "2", "--workers", "1")


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a strategy and 2,500 candles."""
    monkeypatch.chdir(home)
    bars = walk(2_500)
    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    pl.DataFrame({"open_ms": bars.open_ms, **columns}).write_parquet(home / "candles.parquet")
    (home / "band_break.py").write_text(BAND_BREAK)
    return home


def sweep(*words: str, file: str = "band_break.py") -> Answer:
    return run_command("sweep", file, "--data", "candles.parquet", *words)


def test_a_sweep_prints_map_table_verdict_and_saves_the_best_set(place: Path) -> None:
    answer = sweep(*SETS[:-1], "2")
    assert answer.code == 0, answer.error
    data, *lines = answer.text.splitlines()
    assert re.fullmatch(
        r"2,500 bars \(100 %, sha256:\w{4}…\) · fee 0\.04 % · slippage 1 tick · size 10 % of equity", data
    )
    assert lines[0] == "Sharpe out of sample: window down, inner across"
    assert [line.split()[0] for line in lines[1:5]] == ["1.0", "10", "15", "20"]
    assert lines[5].split() == ["split", "chosen", "in", "training", "train", "test", "return", "trades"]
    assert [line.split()[0] for line in lines[6:8]] == ["1", "2"]
    assert lines[8].startswith("best: window=")
    assert "probability of overfitting" in lines[9]
    assert re.fullmatch(
        r"6 sets × 2 splits · [\d.]+ s · best out-of-sample [−\d.]+, deflated [\d.]+: .*not better than luck",
        lines[10],
    )
    assert lines[11] == "saved params/band_break.yml"
    saved = yaml.safe_load((place / "params/band_break.yml").read_text())
    assert list(saved["params"]) == ["window", "inner", "stop", "target"]
    assert saved["found"]["sets"] == 6
    again = run_command(
        "backtest",
        "band_break.py",
        "--data",
        "candles.parquet",
        "--params",
        "params/band_break.yml",
        "--json",
    )
    assert json.loads(again.text)["params"] == saved["params"]


def test_every_row_carries_data_params_seed_and_version_and_a_second_run_goes_on(place: Path) -> None:
    body = json.loads(sweep(*SETS, "--json").text)
    rows = [json.loads(line) for line in (place / body["sweep"] / "sweep.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == 6
    for row in rows:
        assert row["data"] == body["fingerprints"]["BTCUSDT"]
        assert (row["seed"], row["version"]) == (7, "0.1.0")
        assert set(row["params"]) == {"window", "inner"}
        assert set(row["result"]) == {"train", "test", "returns"}
    kept = place / body["sweep"] / "sweep.jsonl"
    text = kept.read_text()
    kept.write_text(text[: text.rindex("\n", 0, -1) - 3])  # as a kill leaves it
    again = sweep(*SETS)
    assert "going on from 4 sets" in again.error
    assert sorted(kept.read_text().splitlines()[1:]) == sorted(text.splitlines()[1:])
    assert (
        json.loads((place / body["sweep"] / "sweep.json").read_text())["map"][0]["params"]
        == rows[0]["params"]
    )
    other = json.loads(sweep(*SETS, "--json", "--fee", "0.02%").text)
    assert other["sweep"] != body["sweep"]


def test_a_sweep_killed_by_sigkill_goes_on_when_it_is_run_again(place: Path) -> None:
    gate = place / "gate"
    gate.touch()
    waiting = BAND_BREAK.replace(
        "        middle, width",
        f"        while self.window == 20 and pathlib.Path({str(gate)!r}).exists():\n"
        "            time.sleep(0.05)\n        middle, width",
    )
    (place / "band_break.py").write_text(
        waiting.replace("from qmtl", "import pathlib\nimport time\n\nfrom qmtl", 1)
    )
    words = ("sweep", "band_break.py", "--data", "candles.parquet", *SETS)
    with start(*words, home=place) as process:
        for _ in range(600):
            rows = [file.read_text().count("\n") - 1 for file in place.glob("runs/*/sweep.jsonl")]
            if rows == [4] or process.poll() is not None:
                break
            time.sleep(0.1)
        process.kill()
        process.communicate()
    assert rows == [4]
    gate.unlink()
    again = sweep(*SETS)
    assert "going on from 4 sets" in again.error
    assert "6 sets × 2 splits" in again.text


def test_a_sweep_with_other_funding_rates_is_another_sweep(place: Path) -> None:
    """Rows that were counted without funding must not be taken for rows with it."""
    opens = pl.read_parquet(place / "candles.parquet")["open_ms"]
    slot_ms = 8 * 3_600_000
    slots = [ms for ms in opens.to_list() if ms % slot_ms == 0]
    columns = dict.fromkeys(("high", "low", "close", "volume"), 0.0)
    rates = pl.DataFrame({"open_ms": slots, "open": 0.01, **columns})
    rates.write_parquet(place / "rates.parquet")
    words = (*SETS, "--json")
    without = json.loads(sweep(*words).text)
    paid = json.loads(sweep(*words, "--funding", "rates.parquet").text)
    assert paid["sweep"] != without["sweep"]
    assert paid["map"] != without["map"]


def test_ctrl_c_leaves_one_line_and_no_traceback(place: Path) -> None:
    words = ("-p", "window=10:60:1", "-p", "inner=0.5:2.5:0.02", "--splits", "2", "--workers", "2")
    with start("sweep", "band_break.py", "--data", "candles.parquet", *words, home=place) as process:
        for _ in range(600):
            rows = [file.read_text().count("\n") for file in place.glob("runs/*/sweep.jsonl")]
            if (rows and rows[0] > 20) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert re.fullmatch(
        r"finished sets are kept in runs/\w+/sweep\.jsonl; the same command goes on from there\n", error
    )


def moments(place: Path, *rows: int) -> list[str]:
    opens = pl.read_parquet(place / "candles.parquet")["open_ms"].to_list()
    return [datetime.fromtimestamp(opens[row] / 1000, UTC).strftime("%Y-%m-%dT%H:%M") for row in rows]


def test_which_worker_was_quicker_decides_nothing_between_equal_sets(place: Path) -> None:
    """Targets that are never reached make the same trades; the rows come in either order."""
    words = ("-p", "target=0.5,0.6,0.7", "--splits", "2", "--workers", "1", "--json")
    first = json.loads(sweep(*words).text)
    file = place / first["sweep"] / "sweep.jsonl"
    head, *rows = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join([head, *reversed(rows)]), "utf-8")
    assert json.loads(sweep(*words).text) == first
    assert first["best"] == {"target": 0.5}


def test_an_excluded_period_is_cut_out_and_makes_another_sweep(place: Path) -> None:
    start, end = moments(place, 600, 700)
    answer = sweep(*SETS, "--exclude", f"{start}:{end}", "--json")
    assert answer.code == 0, answer.error
    body, whole = json.loads(answer.text), json.loads(sweep(*SETS, "--json").text)
    assert body["sweep"] != whole["sweep"]
    assert body["map"] != whole["map"]
    assert [last - first for first, last in body["excluded"]] == [100 * 60_000]
    told = sweep(*SETS, "--exclude", f"{start}:{end}")
    assert told.text.startswith("2,400 bars (100 %, ")
    wrong = sweep(*SETS, "--exclude", f"{end}:{start}")
    assert wrong.code == 2
    assert "the start is not before the end" in wrong.error
    (place / "qmtl.yml").write_text("trader: {volatility_target: 0.2}\n")
    wrong = sweep(*SETS, "--exclude", f"{start}:{end}")
    assert wrong.code == 2
    assert "--exclude: a volatility target would look over the cut" in wrong.error


@pytest.mark.parametrize(
    ("text", "message"),
    [("engine: dask", "sweep.engine"), ("workers: 0", "sweep.workers")],
)
def test_a_wrong_word_of_the_sweep_section_is_named(place: Path, text: str, message: str) -> None:
    (place / "qmtl.yml").write_text(f"sweep: {{{text}}}\n")
    answer = sweep("-p", "window=10,12", "--splits", "2")
    assert answer.code == 2
    assert message in answer.error


def test_ray_is_chosen_by_configuration_and_finds_the_same(place: Path) -> None:
    pytest.importorskip("ray")
    words = ("-p", "window=10,12", "--splits", "2", "--json")
    here = json.loads(sweep(*words, "--workers", "1").text)
    shutil.rmtree(place / "runs")
    (place / "qmtl.yml").write_text("sweep: {engine: ray, workers: 1}\n")
    command = ("sweep", "band_break.py", "--data", "candles.parquet", *words)
    there = qmtl(*command, home=place, timeout_s=240)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["map"] == here["map"]


def test_06_a_hole_under_a_trade_of_a_sweep_is_flagged_and_strict_refuses(place: Path) -> None:
    frame = pl.read_parquet("candles.parquet")
    holes = [row for start in range(400, 2_400, 200) for row in range(start, start + 30)]
    frame.with_row_index().filter(~pl.col("index").is_in(holes)).drop("index").write_parquet(
        "candles.parquet"
    )
    words = ("-p", "window=10,12", "-p", "stop=0.05", "-p", "target=0.05", "--splits", "2", "--workers", "1")
    answer = sweep(*words)
    assert answer.code == 0, answer.error
    flag = next(line for line in answer.text.splitlines() if line.startswith("holes: "))
    assert re.fullmatch(r"holes: [12] sets? trades? over missing candles, first [-\d]+ [:\d]+", flag)
    (place / "params/band_break.yml").unlink()
    strict = sweep(*words, "--strict")
    assert (strict.code, strict.text) == (2, "")
    assert flag.removeprefix("holes: ") in strict.error
    assert not (place / "params/band_break.yml").exists()


def test_without_words_every_range_of_the_class_is_swept(place: Path) -> None:
    small = BAND_BREAK.replace("high=60", "high=15").replace("high=2.5", "high=0.75")
    (place / "band_break.py").write_text(small)
    body = json.loads(sweep("--splits", "2", "--workers", "1", "--json").text)
    assert body["space"] == {"window": [10, 15], "inner": [0.5, 0.75]}
    assert body["fixed"] == {"stop": 0.0011, "target": 0.0016}


def test_a_failing_set_is_reported_and_does_not_stop_the_others(place: Path) -> None:
    (place / "band_break.py").write_text(
        BAND_BREAK.replace("        middle, width", "        1 / (self.window - 15)\n        middle, width")
    )
    answer = sweep(*SETS)
    assert answer.code == 0, answer.error
    assert "failed: window=15 inner=1.0: StrategyError: band_break.py:16: ZeroDivisionError" in answer.text
    assert re.search(r"^15 +– +–$", answer.text, re.MULTILINE)
    answer = sweep("-p", "window=15", "-p", "inner=1.0,1.5", "--splits", "2", "--workers", "1")
    assert answer.code == 2
    assert re.match(
        r"error: all 2 sets failed, the first with .*band_break\.py:16: ZeroDivision", answer.error
    )


def test_optuna_searches_the_same_space(place: Path) -> None:
    pytest.importorskip("optuna")
    body = json.loads(sweep(*SETS, "--sampler", "optuna", "--trials", "4", "--json").text)
    assert (body["sets"], body["failed"]) == (4, 0)
    assert all(one["params"]["window"] in {10, 15, 20} for one in body["map"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("-p", "windw=1:2:1"),
            "BandBreak has no parameter windw (window, inner, stop, target); did you mean window?",
        ),
        (("-p", "stop"), "--param stop: the class gives no low, high and step; write stop=LOW:HIGH:STEP"),
        (("-p", "window=10:a:2"), "--param window=10:a:2: expected numbers LOW:HIGH:STEP"),
        (("-p", "window=20:10:5"), "expected low <= high and step > 0"),
        (("-p", "window=nan:20:5"), "expected low <= high and step > 0, got nan:20:5"),
        (("-p", "window=1.5,2"), "window: expected a whole number, got '1.5'"),
        (("-p", "window=10:20"), "expected NAME=LOW:HIGH:STEP, NAME=A,B,C or NAME=VALUE"),
        (("-p", "window", "-p", "window=10,20"), "window is given twice"),
        (("-p", "window=20"), "nothing to sweep"),
        (("-p", "window=1:2000000:1"), "more than 10,000 values"),
        (("-p", "window=1:9000:1", "-p", "inner=0:900:1"), "8,109,000 sets are too many"),
        (("--splits", "0"), "splits 0"),
        (("--splits", "2000"), "2,500 bars are too few for 2000 splits"),
        (("--engine", "dask"), "--engine: found 'dask', expected local or ray"),
        (("--trials", "0"), "--trials: found 0, expected a number >= 1"),
        (("--sampler", "random"), "--sampler: found 'random', expected grid or optuna"),
        (("--symbol", "BTC?"), "symbol"),
        (("--symbol", "BTCUSDT", "--symbol", "ETHUSDT"), "a sweep trades one symbol, found BTCUSDT, ETHUSDT"),
        (("--size", "-1"), "--size: found '-1', expected a number > 0"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    place: Path, words: tuple[str, ...], message: str
) -> None:
    before = sorted(path.name for path in place.iterdir())
    answer = sweep(*words)
    assert answer.code == 2
    assert message in answer.error
    assert len(answer.error.splitlines()) == 1
    assert answer.text == ""
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_strategy_without_signals_is_refused(place: Path) -> None:
    (place / "band_break.py").write_text(
        "from qmtl.runtime.sdk import Param, Strategy\n\n\nclass Grid(Strategy):\n"
        "    step = Param(1, 1, 3, 1)\n\n"
        "    def on_bar(self, ctx, bar):\n        pass\n"
    )
    answer = sweep()
    assert (answer.code, answer.text) == (2, "")
    assert answer.error == "error: band_break.py: Grid has no signals(bars); only those are swept"
