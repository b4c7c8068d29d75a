"""`qmtl trade FILE.py`: the same unchanged file on the same port, journaled so that it replays alone."""

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.event import AnyEvent, DecisionMade, IntentRecorded, SessionStarted
from qmtl.engine.journal import open_journal, read_events
from tests.cli.command import qmtl, run_command, start, wait_for
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


async def trade(home: Path, *words: str, until: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Trade until its status says so, stop as with Ctrl-C, and return what it answered."""
    with start("trade", *words, "--json", home=home) as process:
        try:
            await wait_for(home, until, limit_s=90)
            process.send_signal(signal.SIGINT)
            out, error = await asyncio.to_thread(process.communicate, timeout=60)
            assert process.returncode == 0, error
        finally:
            process.kill()
    body: dict[str, Any] = json.loads(out.splitlines()[-1])
    return body


def has_decided(status: dict[str, Any]) -> bool:
    """A live bar was decided, whatever came of it."""
    return bool({"no_signal", "entered", "holding", "exited"} & set(status["reasons"]))


@pytest.mark.timeout(240)
async def test_01_a_file_trades_unchanged_and_its_journal_replays(home: Path) -> None:
    with exchange(home):
        settings = home / "qmtl.yml"
        settings.write_text(settings.read_text().replace("fills: venue", "fills: simulated"))
        assert qmtl("new", "band_break.py", home=home).returncode == 0
        before = (home / "band_break.py").read_bytes()
        body = await trade(home, "band_break.py", "--size", "5%", until=has_decided)
        assert body["decisions"] > 21
        assert (home / "band_break.py").read_bytes() == before
    events = read(home)
    begun = next(event for event in events if isinstance(event, SessionStarted))
    assert begun.setup.params["strategy"] == f"{home / 'band_break.py'}:BandBreak"
    assert begun.setup.params["plan.size_pct"] == "0.05"
    told = [event.numbers for event in events if isinstance(event, DecisionMade) and event.numbers]
    assert {"close", "upper", "lower", "distance"} <= set(told[0])
    # A journal replays alone: the file may change, its bytes were kept.
    (home / "band_break.py").write_text("nothing = 1\n")
    again = qmtl("replay", str(journal_of(home)), "--json", home=home)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["state_hash"] == body["state_hash"]


@pytest.mark.timeout(240)
async def test_01_the_event_face_trades_on_the_paper_exchange(home: Path) -> None:
    with exchange(home):
        (home / "grid.py").write_text(GRID)
        body = await trade(home, "grid.py", until=lambda status: status["counts"]["orders"])
        assert body["orders"] > 0
    intents = [event.intent for event in read(home) if isinstance(event, IntentRecorded)]
    assert "entry" in {str(intent.role) for intent in intents}
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
