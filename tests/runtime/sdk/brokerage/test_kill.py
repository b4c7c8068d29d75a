"""connectors.md §10 item 9: kill -9 anywhere; every id that is posted again is at the venue once."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmtl.core.event import IntentRecorded
from qmtl.core.order import OrderStatus
from qmtl.engine.journal import IntentJournal, SqliteJournal
from tests.runtime.sdk.brokerage.http_broker import ROOT, BookHandle
from tests.runtime.sdk.brokerage.kill_child import POINTS

KILLS = 1_000 if os.environ.get("QMTL_CAMPAIGN") == "chaos" else 20
FAULTS = ("ok", "ok", "ok", "503", "accept:503", "reset", "accept:reset", "429", "later")


class Poster:
    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.sdk.brokerage.kill_child"],
            cwd=ROOT,
            env={**os.environ, "HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def post(self, url: str, journal: Path, ids: list[str], point: str, nth: int) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        command = {"url": url, "journal": str(journal), "ids": ids, "point": point, "nth": nth}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture
def poster(home: Path) -> Iterator[Poster]:
    poster = Poster(home)
    yield poster
    assert poster.process.stdin is not None
    assert poster.process.stdout is not None
    poster.process.stdin.close()
    poster.process.wait(60)
    poster.process.stdout.close()


@pytest.mark.chaos
@pytest.mark.timeout(1_800)
def test_09_kill_anywhere(book: BookHandle, poster: Poster, tmp_path: Path) -> None:
    dice = random.Random(9)
    journal = tmp_path / "kill.db"
    kills, round_number, ids_ever = 0, 0, []
    while kills < KILLS:
        round_number += 1
        ids = [f"r{round_number}-{n}" for n in range(3)]
        ids_ever += ids
        book.set(plan={"POST": [dice.choice(FAULTS) for _ in range(4)]})
        code = -signal.SIGKILL
        while code:
            point, nth = dice.choice(POINTS), dice.randint(1, 6)
            code = poster.post(book.url, journal, ids, point, nth)
            assert code in {0, -signal.SIGKILL}, f"round {round_number} {point}: {code}"
            kills += code != 0
    placed = Counter(order["client_order_id"] for order in book.orders)
    assert placed == Counter(ids_ever), {key: n for key, n in placed.items() if n != 1}
    store = SqliteJournal(journal, "check")
    recorded = Counter(e.client_order_id for _, e in store.read() if isinstance(e, IntentRecorded))
    assert recorded == Counter(ids_ever)
    known = IntentJournal(store)
    statuses = {entry.order.status for entry in known.intents.entries.values()}
    known.close()
    assert statuses == {OrderStatus.ACCEPTED}
    print(f"{kills} kills over {len(ids_ever)} orders, {len(book.asked('POST'))} POSTs")
