"""Memory of a trader that takes messages all day: it must not grow with them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from decimal import Decimal
from pathlib import Path
from bench.recorded import BTCUSDT, kline_frames
from qmtl.core.bar import Bar
from qmtl.core.event import SessionSetup, SessionStarted, Transferred
from qmtl.engine.board import Board
from qmtl.engine.engine import Engine
from qmtl.engine.journal import SqliteJournal
from qmtl.engine.tap import TappedJournal
from qmtl.runtime.io.binance_messages import BinanceMessageMapper
from qmtl.trader.callback import Callback

DAY_MS = 86_400_000


def resident_mb():
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def frames(number):
    price = 60_000 + number % 700
    bar = Bar(1_700_000_040_000 + number * 60_000, price, price + 30.0, price - 30.0, price + 10.0, 5.0)
    return kline_frames([bar])


journal = SqliteJournal(Path(sys.argv[1]), "memory")
tap = TappedJournal(journal)
board = Board()
tap.listeners.append(board.on_event)
engine = Engine(Callback(), tap)
setup = SessionSetup(strategy="qmtl.trader.callback:Callback", instruments=(BTCUSDT,))
engine.process(SessionStarted(0, "memory", "dryrun", setup))
engine.process(Transferred(0, "USDT", Decimal(10_000)))
mapper, messages, total, day = BinanceMessageMapper(), 0, int(sys.argv[2]), 0
warm = 0.0
for number in range(total // 4):
    for frame in frames(number):
        for event in mapper.parse(frame):
            engine.process(event)
        messages += 1
    if number % 25 == 0:
        journal.commit()
    if engine.risk.now_ms // DAY_MS != day:
        day = engine.risk.now_ms // DAY_MS
        journal.store_snapshot(engine.snapshot(), engine.state_hash(), engine.risk.now_ms)
        journal.seal(day)
    if messages >= total // 5 and not warm:
        warm = resident_mb()
journal.close()
print(f"{messages} {warm:.1f} {resident_mb():.1f}")
"""


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_a_million_messages_leave_no_trace(tmp_path: Path, count: Callable[[int, int], int]) -> None:
    messages = count(40_000, 1_000_000)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "journal.db"), str(messages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen, warm, end = done.stdout.split()
    print(f"{seen} messages: {warm} MB after warm-up, {end} MB at the end")
    assert int(seen) == messages
    assert float(end) - float(warm) <= 20.0
