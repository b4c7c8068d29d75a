"""The first ten minutes, as typed: a built wheel, one paper exchange, no network, one unchanged file."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qmtl.core.event import SessionStarted
from qmtl.engine.journal import open_journal, read_events
from tests.cli.command import qmtl, start
from tests.cli.test_trade import write_settings
from tests.conftest import ROOT

LIMIT_S = 240
SPEED = "120"
RUNS, RUN_S = 8, "8"
"""How often a loaded machine may be given so many more seconds of trading until enough bars were decided."""

MISTYPED = (
    "error: band_break.py: BandBreak has no parameter windw"
    " (window, inner, stop, target); did you mean window?"
)

# Loaded by every Python of the transcript: whoever asks for an address outside this machine leaves a line.
# uvloop opens sockets that Python does not see, and is optional: here it counts as not installed.
GUARD = """
import os, sys

sys.modules["uvloop"] = None
_INSIDE = {"localhost", "127.0.0.1", "::1", "", None}


def _watch(event, arguments):
    if event == "socket.connect":
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in _INSIDE:
        with open(os.path.join(os.environ["HOME"], "outside.log"), "a") as log:
            log.write(f"{host}\\n")
        raise OSError(f"no network here: {host}")


sys.addaudithook(_watch)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a built wheel installs, in a directory of its own beside the dependencies."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S)
    (built,) = place.glob("*.whl")
    site = place / "site"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(GUARD)
    return site


class Desk(NamedTuple):
    """A home in which the wheel is installed."""

    home: Path
    site: Path

    def type(self, line: str, code: int = 0) -> str:
        """Run `qmtl LINE`, require its exit code and return the answer, or the error where it fails."""
        done = qmtl(*line.split(), home=self.home, timeout_s=LIMIT_S, PYTHONPATH=str(self.site))
        assert done.returncode == code, f"{line}: {done.stdout}{done.stderr}"
        return done.stderr if code else done.stdout

    def ask(self, line: str) -> Any:
        """Run `qmtl LINE --json` and return its answer."""
        return json.loads(self.type(f"{line} --json").splitlines()[-1])

    def digest(self) -> str:
        return hashlib.sha256((self.home / "band_break.py").read_bytes()).hexdigest()


@pytest.fixture
def desk(home: Path, wheel: Path) -> Iterator[Desk]:
    """A clean home whose venue is a paper exchange of the same wheel."""
    words = ("paper-exchange", "--port", "0", "--speed", SPEED, "--json")
    with start(*words, home=home, PYTHONPATH=str(wheel)) as server:
        try:
            assert server.stdout is not None
            urls = json.loads(server.stdout.readline())
            write_settings(home, urls["rest"], urls["ws"])
            settings = home / "qmtl.yml"
            settings.write_text(settings.read_text().replace("fills: venue", "fills: simulated"))
            yield Desk(home, wheel)
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
        finally:
            server.kill()


def matches(pattern: str, text: str) -> None:
    assert re.fullmatch(pattern, text.strip(), re.DOTALL), text


def trade_until_decided(desk: Desk) -> None:
    """Trade, again where the machine was too slow, until a few bars were decided on live data."""
    told = ""
    for _ in range(RUNS):
        told += desk.type(f"trade band_break.py --for {RUN_S}")
        reasons = desk.ask("why --last 1d")["reasons"]
        if sum(reasons.get(name, 0) for name in ("no_signal", "entered", "holding", "exited")) >= 5:
            matches(r"dryrun desk · .*\d\d:\d\d:\d\d .+", told)
            return
    pytest.fail(f"no bar was decided: {told}")


@pytest.mark.timeout(900)
def test_01_the_first_ten_minutes(desk: Desk) -> None:
    """quickstart.md §1: from `new` to `parity`; figures are illustrative, words are not."""
    desk.type("new band_break.py")
    digest = desk.digest()
    fetched = desk.type("data fetch BTCUSDT 1m --since 2d")
    matches(r"binanceusdm BTC/USDT:USDT 1m 2,880/2,880 · 0 holes · \d+:\d\d", fetched)
    linted = desk.type("lint band_break.py")
    matches(r"future cut: ok · past cut: ok \(warm-up \d+\) · decides on: close", linted)
    tested = desk.type("backtest band_break.py").splitlines()
    matches(r"2,880 bars \(100 %, sha256:[0-9a-f]{4}…\) · fee 0.04 % · slippage 1 tick · [\d.]+ s", tested[0])
    sums = r"net −?[\d.]+ % = gross [+−]?[\d.]+, fees −[\d.]+, funding [+−]?[\d.]+"
    matches(rf"\d+ trades · {sums} · DD [\d.]+ % · Sharpe .+ \[.+, .+\]", tested[1])
    matches(r"report: runs/\w+/report.html", tested[-1])
    run = Path(tested[-1].removeprefix("report: ")).parent
    record = json.loads((desk.home / run / "run.json").read_text())
    assert record["strategy"]["sha256"] == digest
    swept = desk.type("sweep band_break.py -p window -p inner --splits 6").splitlines()
    matches(r"99 sets × 6 splits · \d+ s · best out-of-sample .+, deflated .+", swept[-2])
    assert swept[-1] == "saved params/band_break.yml"
    assert f"report: {run}/report.html" in desk.type(f"report show {run.name}")
    page = (desk.home / run / "report.html").read_text("utf-8")
    assert "BandBreak" in page
    trade_until_decided(desk)
    matches(r".*[\d,]+ closes: .+", desk.type("why --last 1h"))
    equal = re.fullmatch(
        r"([\d,]+)/([\d,]+) decisions equal · [\d,]+ fills?( [+-][\d.]+ ticks? \(assumed 1\))?\n",
        desk.type("parity --last 24h"),
    )
    assert equal is not None
    assert equal[1] == equal[2]
    assert desk.type("backtest band_break.py --param windw=30", code=2).strip() == MISTYPED
    # One file from history to live, and nobody asked for an address outside this machine.
    assert desk.digest() == digest
    path = desk.home / ".qmtl" / "desk.db"
    with closing(open_journal(path)) as journal:
        sessions = [e for _, e in read_events(journal, path, 0) if isinstance(e, SessionStarted)]
    assert {session.setup.params["sha256"] for session in sessions} == {digest}
    assert not (desk.home / "outside.log").exists()


def test_01_the_transcript_runs_the_wheel_and_sees_the_network(home: Path, wheel: Path) -> None:
    """What the test above stands on: its commands are the wheel's, and an address outside is noticed."""
    script = "import qmtl, socket; print(qmtl.__file__); socket.create_connection(('192.0.2.1', 9), 1)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=home,
        env={"HOME": str(home), "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert Path(done.stdout.strip()).is_relative_to(wheel)
    assert "no network here: 192.0.2.1" in done.stderr
    assert (home / "outside.log").read_text() == "192.0.2.1\n"
