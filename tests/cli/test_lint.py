"""`qmtl lint` as a user meets it."""

import json
from pathlib import Path

from tests.cli.command import qmtl

PEEKING = """\
import numpy as np

from qmtl.runtime.sdk import Bars, Signals, Strategy


class Peeking(Strategy):
    def signals(self, bars: Bars) -> Signals:
        return Signals(long=np.append(bars.close[1:], 0.0) > bars.close)
"""


def test_a_clean_file_passes_and_its_warmup_is_kept(home: Path) -> None:
    assert qmtl("new", "band_break.py", home=home).returncode == 0
    done = qmtl("lint", "band_break.py", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("future cut: ok · past cut: ok (warm-up 2")
    kept = json.loads((home / "band_break.lint.json").read_text("utf-8"))
    assert list(kept["warmup"]) == ["window=20 inner=1.0 stop=0.0011 target=0.0016"]
    other = json.loads(qmtl("lint", "band_break.py", "-p", "window=30", "--json", home=home).stdout)
    assert other["warmup"] == next(iter(kept["warmup"].values())) + 10


def test_look_ahead_is_named_and_exits_1(home: Path) -> None:
    (home / "peeking.py").write_text(PEEKING, "utf-8")
    done = qmtl("lint", "peeking.py", home=home)
    assert done.returncode == 1
    assert "long looks ahead: row" in done.stdout
    assert not (home / "peeking.lint.json").exists()


def test_bad_input_is_one_line(home: Path) -> None:
    (home / "peeking.py").write_text(PEEKING.replace("bars.close[1:]", "bars.nothing[1:]"), "utf-8")
    for arguments, words in (
        (("absent.py",), "absent.py: no such strategy file"),
        (("peeking.py",), "peeking.py:8: AttributeError"),
        (("peeking.py", "-p", "windw=3"), "Peeking has no parameter windw"),
        (("peeking.py", "--data", "absent.csv"), "absent.csv"),
    ):
        done = qmtl("lint", *arguments, home=home)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
