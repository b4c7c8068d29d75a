"""`qmtl why` over a journal with known decisions."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from qmtl.core.event import DecisionMade, IntentRecorded
from qmtl.core.order import OrderIntent, Role, Side
from qmtl.core.reason import Reason
from qmtl.engine.journal import SqliteJournal
from tests.cli.command import qmtl

MINUTE_MS = 60_000
START_MS = 1_700_000_040_000
NUMBERS = {"close": 60_102.1, "upperInter": 60_119.8, "lowerInter": 60_000.0, "distance": 0.0003}


@pytest.fixture
def journal(home: Path) -> Path:
    """Sixty bars: 57 without signal, two refused, one that entered."""
    path = home / "desk.db"
    book = SqliteJournal(path, "epoch")
    for row in range(60):
        opened = START_MS + row * MINUTE_MS
        reason, gate = (Reason.REFUSED, "cooldown") if row in {10, 11} else (Reason.NO_SIGNAL, "")
        reason = Reason.ENTERED if row == 9 else reason
        closed = opened + MINUTE_MS - 1
        if row == 9:
            intent = OrderIntent(symbol="BTCUSDT", side=Side.BUY, quantity=Decimal("0.01"), role=Role.ENTRY,
                                 limit_price=Decimal("60006.1"), bar_ms=opened, why="above band")  # fmt: skip
            book.append(IntentRecorded(closed, "qabc", 1, intent))
        book.append(DecisionMade(closed, "BTCUSDT", opened, reason, gate, NUMBERS))
    book.commit()
    book.close()
    return path


def test_the_last_hour_is_summed_up(home: Path, journal: Path) -> None:
    done = qmtl("why", "--journal", str(journal), "--last", "1h", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    *told, last = done.stdout.splitlines()
    assert last == "60 closes: 57 no signal · 2 refused (cooldown) · 1 entered"
    assert [line.split(" BTCUSDT ")[1] for line in told] == [
        "entered",
        "refused: cooldown",
        "refused: cooldown",
    ]
    few = qmtl("why", "--journal", str(journal), "--last", "3m", home=home).stdout
    assert few.count("no entry: close 60,102.1 ≤ upper 60,119.8 (0.03 % away)") == 3
    body = json.loads(qmtl("why", "--journal", str(journal), "--json", home=home).stdout)
    assert body["reasons"] == {"no_signal": 57, "refused": 2, "entered": 1}


def test_a_moment_and_an_order_lead_to_their_bar(home: Path, journal: Path) -> None:
    moment = str((START_MS + 10 * MINUTE_MS) // 1000 + 30)
    done = qmtl("why", "--journal", str(journal), "--at", moment, "--json", home=home)
    bars = json.loads(done.stdout)["bars"]
    assert [(bar["open_ms"], bar["gate"]) for bar in bars] == [(START_MS + 10 * MINUTE_MS, "cooldown")]
    told = qmtl("why", "--journal", str(journal), "--order", "qabc", home=home).stdout.splitlines()
    assert told[0].endswith("entry BUY 0.01 BTCUSDT @ 60,006.1: above band")
    assert told[1].endswith("BTCUSDT entered")


def test_what_is_not_known_is_said(home: Path, journal: Path) -> None:
    for arguments, code, words in (
        (("--order", "qxyz"), 1, "knows nothing about order qxyz"),
        (("--at", "2030-01-01"), 1, "no closed bar at 2030-01-01"),
        (("--last", "soon"), 2, "--last: found 'soon'"),
        (("--last", "1h", "--at", "2030-01-01"), 2, "give one of"),
    ):
        done = qmtl("why", "--journal", str(journal), *arguments, home=home)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert words in done.stderr
    done = qmtl("why", "--journal", "absent.db", home=home)
    assert (done.returncode, "absent.db" in done.stderr) == (2, True), done.stderr
