"""`qmtl trade FILE.py`: the same unchanged file on the same port, journaled so that it replays alone."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from qmtl.core.event import AnyEvent, DecisionMade, IntentRecorded, SessionStarted
from qmtl.engine.journal import open_journal, read_events
from tests.cli.command import qmtl, run_command
from tests.cli.test_trade import exchange

GRID = """from qmtl.runtime.sdk import Param, Strategy


class Grid(Strategy):
    interval, step = "1m", Param(0.0002)

    def on_bar(self, ctx, bar):
        ctx.state["bars"] = ctx.state.get("bars", 0) + 1
        if not ctx.orders:
            ctx.buy(notional=200, limit=bar.close * (1 - self.step), post_only=True)

    def on_fill(self, ctx, fill):
        if fill.side == "BUY":
            ctx.sell(fill.quantity, limit=fill.price * (1 + self.step), reduce_only=True)
"""


def journal_of(home: Path) -> Path:
    return home / ".qmtl" / "desk.db"


def read(home: Path) -> list[AnyEvent]:
    with closing(open_journal(journal_of(home))) as journal:
        return [event for _, event in read_events(journal, journal_of(home), 0)]


@pytest.mark.timeout(240)
def test_01_a_file_trades_unchanged_and_its_journal_replays(home: Path) -> None:
    with exchange(home):
        settings = home / "qmtl.yml"
        settings.write_text(settings.read_text().replace("fills: venue", "fills: simulated"))
        assert qmtl("new", "band_break.py", home=home).returncode == 0
        before = (home / "band_break.py").read_bytes()
        words = ("trade", "band_break.py", "--for", "6", "--size", "5%", "--json")
        done = qmtl(*words, home=home, timeout_s=120)
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout.splitlines()[-1])
        assert body["decisions"] > 21
        assert (home / "band_break.py").read_bytes() == before
    events = read(home)
    start = next(event for event in events if isinstance(event, SessionStarted))
    assert start.setup.params["strategy"] == f"{home / 'band_break.py'}:BandBreak"
    assert start.setup.params["plan.size_pct"] == "0.05"
    decided = [event for event in events if isinstance(event, DecisionMade) and event.reason != "warming_up"]
    assert decided
    assert {"close", "upper", "lower", "distance"} <= set(decided[0].numbers or {})
    # A journal replays alone: the file may change, its bytes were kept.
    (home / "band_break.py").write_text("nothing = 1\n")
    again = qmtl("replay", str(journal_of(home)), "--json", home=home)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["state_hash"] == body["state_hash"]


@pytest.mark.timeout(240)
def test_01_the_event_face_trades_on_the_paper_exchange(home: Path) -> None:
    with exchange(home):
        (home / "grid.py").write_text(GRID)
        done = qmtl("trade", "grid.py", "--for", "8", "--json", home=home, timeout_s=120)
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout.splitlines()[-1])
        assert body["orders"] > 0
    intents = [event.intent for event in read(home) if isinstance(event, IntentRecorded)]
    assert {str(intent.role) for intent in intents} >= {"entry"}
    replayed = qmtl("replay", str(journal_of(home)), "--json", home=home)
    assert json.loads(replayed.stdout)["state_hash"] == body["state_hash"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.py"], "none.py: no such strategy file"),
        (["band_break.py", "-p", "windw=3"], "band_break.py: BandBreak has no parameter windw"),
        (["band_break.py:Other"], "band_break.py: no Strategy class Other (strategies there: BandBreak)"),
        (["qmtl.nowhere:Thing"], "qmtl.nowhere:Thing: No module named 'qmtl.nowhere'"),
        (["band_break.py", "--symbol", "BTC/"], "--symbol: found 'BTC/'; symbol 'BTC/' is not known"),
        (["-p", "window=3"], "--param, --params and several symbols need a strategy"),
    ],
)
def test_06_bad_input_starts_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(home)
    run_command("new", "band_break.py")
    answer = run_command("trade", *words)
    assert answer.code == 2
    assert message in answer.error
    assert "\n" not in answer.error
    assert not (home / ".qmtl" / "binanceusdm.db").exists()
