"""Providers of several processes share a coordinator, and do without when there is none (seamless §9)."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from qmtl.core.ranges import merge_ranges
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider
from tests.conftest import ROOT
from tests.coordinator_process import CoordinatorProcess
from tests.runtime.sdk.fill_worker import DAY_BARS, choose
from tests.runtime.sdk.history_rig import KEY, NODE, SERIES, T0, MemoryStore, ScriptedFetcher, times
from tests.servers import pick_port

WORKERS = 4
DAY = (T0, T0 + 60 * DAY_BARS)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    process.start()
    yield process
    process.stop()


def run_workers(arguments: list[str], windows: int, seed: int) -> None:
    """Start the workers, let them go together, and expect each to have had all it asked for."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.sdk.fill_worker", *arguments, f"{seed + n}", f"{windows}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(WORKERS)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        for worker in workers:
            out, err = worker.communicate(timeout=100)
            assert (worker.returncode, out, err) == (0, "done\n", "")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.chaos
def test_23_four_processes_ask_for_each_cell_once(
    coordinator: CoordinatorProcess, tmp_path: Path, count: Callable[[int, int], int]
) -> None:
    token = tmp_path / "token"
    token.write_text(coordinator.token("service"), "utf-8")
    for number in range(count(1, 10)):
        store, log = tmp_path / f"store{number}", tmp_path / f"asked{number}"
        run_workers([coordinator.url, str(token), str(store), str(log)], windows=12, seed=100 * number)
        asked = [tuple(map(int, line.split())) for line in log.read_text("utf-8").splitlines()]
        cells = [cell for start, end in asked for cell in range(start, end, 60)]
        assert len(cells) == len(set(cells)), "a cell was asked for twice"
        wanted = merge_ranges([w for n in range(WORKERS) for w in choose(100 * number + n, 12)])
        assert set(cells) == {cell for start, end in wanted for cell in range(start, end, 60)}


async def test_23_workers_of_one_machine_share_the_catalogue(tmp_path: Path) -> None:
    """Without a coordinator, leases live in the embedded store."""
    fetchers = [ScriptedFetcher(range(*DAY, 60)) for _ in range(2)]
    providers = []
    for fetcher in fetchers:
        store = EmbeddedStore(tmp_path)
        leases = LeaseStore(store.lease_dsn)
        providers.append(
            SeamlessDataProvider(store=store, fetcher=fetcher, strategy="auto_backfill", coordinator=leases)
        )
    for provider in providers:
        assert times(await provider.fetch(*DAY, **SERIES)) == list(range(*DAY, 60))
    assert len(fetchers[0].cells()) == DAY_BARS
    assert fetchers[1].asked == []
    leases = LeaseStore(EmbeddedStore(tmp_path).lease_dsn)
    inspection = await leases.inspect(*KEY)
    await leases.aclose()
    assert inspection.leases == []
    assert merge_ranges([(one.start, one.end) for one in inspection.completions]) == [DAY]
    for provider in providers:
        await provider.aclose()


async def test_25_without_its_coordinator_a_fetch_succeeds() -> None:
    """It proceeds under the local guard, says so once, and the gauge is 0."""
    SEAMLESS.coordinator_up.set(1)
    fetcher = ScriptedFetcher(range(*DAY, 60))
    provider = SeamlessDataProvider(
        store=MemoryStore(),
        fetcher=fetcher,
        strategy="auto_backfill",
        coordinator=CoordinatorClient(f"http://127.0.0.1:{pick_port()}", token="t"),
    )
    with structlog.testing.capture_logs() as events:
        answer = await provider.fetch(*DAY, **SERIES)
    assert times(answer) == list(range(*DAY, 60))
    assert len(fetcher.cells()) == DAY_BARS
    [event] = [one for one in events if one["event"] == "seamless.backfill.coordinator_unavailable"]
    assert (event["node_id"], event["log_level"]) == (NODE, "warning")
    assert SEAMLESS.coordinator_up._value.get() == 0
    await provider.aclose()
