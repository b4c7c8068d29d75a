"""Several workers and one exchange: no cell is asked for twice; whoever is killed leaves nothing wrong."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from qmtl.core.bar import Bar
from qmtl.core.ranges import measure_ranges
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider, open_store
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.fetch_plan import runs_of
from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.history import SeriesKey
from qmtl.runtime.sdk.lease import Leases
from qmtl.services.paper_exchange.market import Market
from tests.coordinator_process import CoordinatorProcess
from tests.runtime.io.fetch_child import SERIES, make_fetcher
from tests.runtime.io.history_rig import NODE, T0, bar, configure, history
from tests.runtime.sdk.history_rig import KEY
from tests.runtime.sdk.history_rig import bars as plain_bars
from tests.servers import QuestDBServer

__all__ = ["configure", "history"]
ROOT = Path(__file__).parents[3]
LATER_S = T0 + 90 * 86_400
LINES = 6_000
"""A whole backfill executes about as many lines."""
History = Callable[..., Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often the exchange gave each minute."""
    counts: Counter[int] = Counter()
    candles = Market.candles

    def count(self: Market, *args: Any, **more: Any) -> list[Bar]:
        found = candles(self, *args, **more)
        counts.update((one.open_ms // 1000 - T0) // 60 for one in found)
        return found

    monkeypatch.setattr(Market, "candles", count)
    return counts


async def run_child(work: dict[str, Any]) -> tuple[int, list[list[Any]], str]:
    """Run a worker to its end; return its exit code, what it told of each range, and its log."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.runtime.io.fetch_child", json.dumps(work)),
        cwd=ROOT,
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(child.communicate(), 90)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    lines = out.decode().splitlines()
    assert child.returncode is not None
    return child.returncode, [json.loads(line) for line in lines if line.startswith("[")], err.decode()


def expected(start: int, end: int) -> str:
    rows = [(ts, *bar((ts - T0) // 60)) for ts in range(start, end, 60)]
    frame = plain_bars([]).clear()
    frame = type(frame)(rows, schema=frame.schema, orient="row")
    return fingerprint(frame, node_id=NODE, interval=60, start=start, end=end)


@pytest.mark.parametrize(("place", "lessor"), [("embedded", "embedded"), ("questdb", "coordinator")])
async def test_23_four_processes_ask_for_each_cell_once(
    place: str,
    lessor: str,
    history: History,
    served: Counter[int],
    home: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Acceptance 23: overlapping windows in four processes, leases in the catalogue or at a coordinator."""
    await history(range(1_500), LATER_S)
    work: dict[str, Any] = {"store": f"embedded:{home / 'store'}", "bars": 250}
    if place == "questdb":
        server: QuestDBServer = request.getfixturevalue("questdb_server")
        monkeypatch.setenv("QMTL_SEAMLESS__QUESTDB_HTTP", server.http)
        work |= {"store": server.dsn, "table": f"w{server.port}"}
    coordinator = CoordinatorProcess(tmp_path)
    if lessor == "coordinator":
        await asyncio.to_thread(coordinator.start)
        token = tmp_path / "token"
        token.write_text(coordinator.headers("service")["Authorization"].removeprefix("Bearer "))
        work |= {"coordinator": coordinator.url, "token": f"file:{token}"}
    try:
        dice = random.Random(23)
        windows = []
        for _ in range(4):
            first = dice.randrange(0, 500)
            windows.append([T0 + 60 * first, T0 + 60 * dice.randrange(first + 500, 1_500)])
        ended = await asyncio.gather(*(run_child({**work, "windows": [window]}) for window in windows))
    finally:
        await asyncio.to_thread(coordinator.stop)
    for (start, end), (code, told, log) in zip(windows, ended, strict=True):
        assert code == 0, log
        assert told == [[start, end, (end - start) // 60, expected(start, end), []]]
    wanted = {(ts - T0) // 60 for start, end in windows for ts in range(start, end, 60)}
    assert served.keys() == wanted
    assert set(served.values()) == {1}


@pytest.mark.chaos
@pytest.mark.timeout(3_600)
async def test_26_a_killed_worker_is_resumed(
    history: History, home: Path, count: Callable[[int, int], int]
) -> None:
    """Acceptance 26 through the provider: killed anywhere between claim and coverage, then gone on with."""
    await history(range(600), LATER_S)
    dice = random.Random(26)
    kills = lives = 0
    while kills < count(3, 200):
        lives += 1
        place = home / f"store{lives}"
        whole = (T0, T0 + 60 * 600)
        done = 0.0
        while True:
            work = {"store": f"embedded:{place}", "bars": 100, "windows": [whole], "ttl_ms": 800}
            code, told, log = await run_child({**work, "kill_at": dice.randrange(1, LINES)})
            assert code in {0, -signal.SIGKILL}, log
            covered = await check(place)
            assert covered >= done, "coverage was lost"
            done = covered
            if code == 0:
                assert told == [[*whole, 600, expected(*whole), []]]
                break
            kills += 1
            assert lives + kills < 3 * count(3, 200) + 20
            if kills >= count(3, 200):
                code, told, log = await run_child(work)
                assert (code, told) == (0, [[*whole, 600, expected(*whole), []]]), log
                break


async def check(place: Path) -> int:
    """Compare coverage with rows; return how many seconds are covered."""
    async with EnhancedQuestDBProvider(store=open_store(f"embedded:{place}")) as provider:
        coverage = await provider.coverage(**SERIES)
        rows = await provider.store.read(KEY, 0, 2**33)
    stored = runs_of(rows["ts"], 60)
    for start, end in coverage:
        assert any(first <= start and end <= last for first, last in stored), (start, end, stored)
    for row in rows.rows():
        assert row == (row[0], *bar((row[0] - T0) // 60))
    return measure_ranges(coverage)


@pytest.mark.parametrize("kind", ["coordinator", "database"])
async def test_25_a_fetch_succeeds_while_nobody_can_be_asked_for_leases(
    kind: str, history: History, free_port: int, home: Path
) -> None:
    """Acceptance 25: log and gauge say it, and the fetch goes on under the local guard."""
    await history(range(300), LATER_S)
    leases: Leases = (
        CoordinatorClient(f"http://127.0.0.1:{free_port}")
        if kind == "coordinator"
        else LeaseStore(f"postgresql://127.0.0.1:{free_port}/leases")
    )
    SEAMLESS.coordinator_up.set(1)
    with capture_logs() as logs:
        async with EnhancedQuestDBProvider(fetcher=make_fetcher(), coordinator=leases) as provider:
            answer = await provider.fetch(T0, T0 + 6_000, **SERIES)
    assert len(answer) == 100
    assert SEAMLESS.coordinator_up._value.get() == 0
    (entry,) = [one for one in logs if one["event"] == "seamless.backfill.coordinator_unavailable"]
    assert (entry["node_id"], entry["interval"], entry["range"]) == (NODE, 60, (T0, T0 + 6_000))
    assert {"world_id", "worker", "fence", "completion_ratio"} <= entry.keys()


def test_the_key_is_that_of_the_series() -> None:
    assert SeriesKey(*SERIES.values()) == KEY
