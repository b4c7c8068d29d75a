"""`qmtl report`: from a run's folder to a page a browser draws, and runs side by side."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import polars as pl
import pytest

from bench.recorded import load_bars
from tests.cli.command import qmtl

BARS = 3_000


@pytest.fixture
def runs(home: Path) -> list[str]:
    """Two runs of the quickstart's strategy over the same candles, one parameter apart."""
    bars, _ = load_bars(BARS)
    columns = {
        name: [getattr(bar, name) for bar in bars] for name in ("open", "high", "low", "close", "volume")
    }
    times = pl.Series("date", [bar.open_ms for bar in bars]).cast(pl.Datetime("ms", "UTC"))
    pl.DataFrame([times]).with_columns(**{n: pl.Series(n, v) for n, v in columns.items()}).write_ipc(
        home / "candles.feather"
    )
    assert qmtl("new", "band_break.py", home=home).returncode == 0
    found = []
    for window in ("20", "30"):
        given = ("--data", "candles.feather", "--param", f"window={window}", "--json")
        done = qmtl("backtest", "band_break.py", *given, home=home, timeout_s=90)
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout)
        assert Path(home / body["report"]).stat().st_size > 4_000_000
        found.append(Path(body["run"]).name)
    return found


def test_a_run_becomes_a_page_and_two_stand_side_by_side(home: Path, runs: list[str]) -> None:
    shown = qmtl("report", "show", runs[0][:6], home=home)
    assert shown.returncode == 0, shown.stderr
    assert "% net." in shown.stdout
    assert f"report: runs/{runs[0]}/report.html" in shown.stdout
    compared = qmtl("report", "compare", *runs, home=home)
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.startswith("window: 20, 30\n")
    assert all(word in compared.stdout for word in (*runs, "deepest drawdown", "profit factor"))
    assert re.search(r"^net +[+−][\d.]+% +[+−][\d.]+%$", compared.stdout, re.MULTILINE)
    body = json.loads(qmtl("report", "compare", runs[0], runs[0], "--json", home=home).stdout)
    assert body["different"] == []
    assert body["figures"]["trades"][0] == body["figures"]["trades"][1] > 0


def test_a_cost_that_the_line_of_costs_leaves_out_is_named(home: Path, runs: list[str]) -> None:
    (home / "qmtl.yml").write_text("backtest: {maker_fee: 0.0001}\n", "utf-8")
    given = ("--data", "candles.feather", "--param", "window=20", "--json")
    done = qmtl("backtest", "band_break.py", *given, home=home, timeout_s=90)
    other = Path(json.loads(done.stdout)["run"]).name
    body = json.loads(qmtl("report", "compare", runs[0], other, "--json", home=home).stdout)
    assert body["different"] == ["maker fee: 0.0002, 0.0001"]


def test_bad_input_is_one_line(home: Path, runs: list[str]) -> None:
    for arguments, words in (
        (("show", "nothing"), "run nothing: not found below runs"),
        (("compare", runs[0]), "two to four runs, got 1"),
    ):
        done = qmtl("report", *arguments, home=home)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
    (home / "runs" / "5a5a5a5a").mkdir()
    (home / "runs" / "5a5a5a5a" / "sweep.jsonl").touch()
    done = qmtl("report", "show", "5a5a", home=home)
    assert (done.returncode, "5a5a: a sweep below runs" in done.stderr) == (2, True), done.stderr
    (home / "runs" / runs[0] / "trades.parquet").write_bytes(b"torn")
    done = qmtl("report", "show", runs[0], home=home)
    assert (done.returncode, "trades.parquet: cannot be read" in done.stderr) == (2, True), done.stderr
    (home / "runs" / runs[0] / "equity.parquet").unlink()
    done = qmtl("report", "show", runs[0], home=home)
    assert (done.returncode, "equity.parquet: is missing" in done.stderr) == (2, True), done.stderr


def test_a_browser_draws_every_chart(home: Path, runs: list[str]) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        done = qmtl("report", "show", runs[0], "--png", home=home)
        assert (done.returncode, "needs Chromium" in done.stderr) == (1, True), done.stderr
        pytest.skip("chromium is not on PATH; the page was not drawn")
    done = qmtl("report", "show", runs[0], "--png", "--json", home=home, timeout_s=90)
    assert done.returncode == 0, done.stderr
    picture = home / json.loads(done.stdout)["picture"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = home / "runs" / runs[0] / "report.html"
    page = report.as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    command = [browser, *flags, "--virtual-time-budget=8000", f"--user-data-dir={home / 'profile'}"]
    command += ["--window-size=1200,900", page]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    assert 'data-drawn="yes"' in drawn
    assert drawn.count('class="main-svg"') >= 6
    # The picture holds the whole page; a narrow window has nothing to scroll sideways.
    height = int(re.findall(r'data-height="(\d+)"', drawn)[0])
    assert struct.unpack(">II", picture.read_bytes()[16:24])[1] == pytest.approx(height, abs=40)
    probe = "<script>document.title=document.documentElement.scrollWidth+' of '+innerWidth</script>"
    report.write_text(report.read_text("utf-8").replace("</body>", f"{probe}</body>"), "utf-8")
    narrow = [*command[:-2], "--window-size=500,900", page]
    drawn = subprocess.run(narrow, capture_output=True, text=True, timeout=90, check=True).stdout
    wide, window = re.findall(r"<title>(\d+) of (\d+)</title>", drawn)[0]
    assert int(wide) <= int(window) == 500
