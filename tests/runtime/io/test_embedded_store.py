"""What only the embedded store promises: its files, its queue of writers, and what damage does."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qmtl.engine.clock import SystemClock, VirtualClock
from qmtl.runtime.io import embedded_store
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.io.writer_lock import WriterLock
from qmtl.runtime.sdk.history import SeriesKey, StoreBusyError, StoreError
from tests.contracts.history_rows import (
    MINUTES,
    MONTH_END,
    SECONDS,
    TRADES,
    bars,
    minutes,
    spans,
    trades,
)

ROOT = Path(__file__).parents[3]
M = MONTH_END
ALL = (0, 2**33)


def files(store: EmbeddedStore) -> list[Path]:
    return sorted(path for path in store.path.glob("segments/**/*") if path.is_file())


async def filled(path: Path) -> EmbeddedStore:
    """A store with ten bars across the end of a month."""
    store = EmbeddedStore(path)
    await store.write(MINUTES, minutes(M - 300, 10), covered=[(M - 300, M + 300)])
    return store


# --- files ----------------------------------------------------------------------------------------


async def test_segments_are_months_days_and_hours(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    await store.write(SECONDS, bars(range(M - 2, M + 86_402)), covered=[])
    hours = [(ms, "a", 1.0) for ms in range((M - 3600) * 1000, (M + 7200) * 1000, 600_000)]
    await store.write(TRADES, trades(hours), covered=[])
    january, february = M - 31 * 86_400, M
    starts: dict[str, list[int]] = {}
    for path in files(store):
        starts.setdefault(path.parts[-3], []).append(int(path.name.split("-")[0]))
    assert starts == {
        "ohlcv%3Abinance%3ABTC%2FUSDT%3A1m": [january, february],
        "ohlcv%3Abinance%3ABTC%2FUSDT%3A1s": [M - 86_400, M, M + 86_400],
        "trades%3Abinance%3ABTC%2FUSDT": [M - 3600, M, M + 3600],
    }
    assert await store.series() == [MINUTES, SECONDS, TRADES]
    await store.aclose()


@pytest.mark.parametrize(
    "symbol", ["..", "../../x", "..\\x", "/etc/passwd", "~", "a" * 300, "é/" * 150, "CON", "."]
)
async def test_36_nothing_is_written_outside_the_folder(tmp_path: Path, symbol: str) -> None:
    store = EmbeddedStore(tmp_path / "deep" / "store")
    key = SeriesKey(f"ohlcv:binance:{symbol}:1m", 60)
    await store.write(key, minutes(M, 3), covered=[(M, M + 180)])
    (file,) = files(store)
    assert file.resolve().relative_to(store.path.resolve()).parts[0] == "segments"
    assert len(file.relative_to(store.path).parts) == 4
    assert max(map(len, file.parts)) <= 100
    outside = {path for path in tmp_path.rglob("*") if not path.is_relative_to(store.path)}
    assert outside == {store.path.parent}
    assert [entry.name for entry in tmp_path.iterdir()] == ["deep"]
    await store.aclose()


async def test_reading_creates_nothing(tmp_path: Path) -> None:
    for is_read_only in (True, False):
        store = EmbeddedStore(tmp_path / "none", read_only=is_read_only)
        assert (await store.read(MINUTES, *ALL)).is_empty()
        assert (await store.coverage(MINUTES), await store.series(), await store.verify()) == ([], [], [])
        await store.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_a_read_only_store_reads_what_others_write_and_writes_nothing(tmp_path: Path) -> None:
    reader = EmbeddedStore(tmp_path, read_only=True)
    assert (await reader.read(MINUTES, *ALL)).is_empty()
    writer = await filled(tmp_path)
    assert (await reader.read(MINUTES, *ALL)).height == 10
    with pytest.raises(StoreError, match="read-only"):
        await reader.write(MINUTES, minutes(M, 1), covered=[])
    with pytest.raises(StoreError, match="read-only"):
        await reader.mark_empty(MINUTES, [(0, 60)], permanent=True)
    await writer.aclose()
    assert (await reader.read(MINUTES, *ALL)).height == 10
    await reader.aclose()


HALF_MADE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=1")
db.execute("PRAGMA cache_spill=1")
db.execute("BEGIN IMMEDIATE")
db.execute("CREATE TABLE half(x)")
for _ in range(200):
    db.execute("INSERT INTO half VALUES (zeroblob(4000))")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("is_read_only", [True, False])
async def test_a_catalogue_whose_maker_was_killed_reads_as_empty(tmp_path: Path, is_read_only: bool) -> None:
    """SQLite must first undo what is half made, whoever comes first."""
    path = tmp_path / "catalogue.sqlite"
    subprocess.run([sys.executable, "-c", HALF_MADE, str(path)], check=False)
    assert path.stat().st_size > 0
    assert path.with_name("catalogue.sqlite-journal").stat().st_size > 0
    reader = EmbeddedStore(tmp_path, read_only=is_read_only)
    assert (await reader.read(MINUTES, *ALL)).is_empty()
    await (await filled(tmp_path)).aclose()
    assert (await reader.read(MINUTES, *ALL)).height == 10
    await reader.aclose()


async def test_the_next_writer_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    named = files(store)
    # The one that was killed held the lock, and had written a file that no commit names.
    lock = WriterLock(tmp_path / "writer.lock", SystemClock()).hold()
    lock.__enter__()
    (named[0].parent / "1-99.arrow").write_bytes(b"half")
    assert not lock.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(files(store)) == 3
    await store.mark_empty(MINUTES, [(M + 600, M + 660)], permanent=True)
    assert files(store) == named
    (named[0].parent / "2-99.arrow").write_bytes(b"left by a power cut")
    await store.aclose()
    again = EmbeddedStore(tmp_path)
    await again.mark_empty(MINUTES, [(M + 660, M + 720)], permanent=True)
    assert files(again) == named
    assert await again.verify() == []
    await again.aclose()


async def test_a_rewritten_segment_leaves_one_file(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    for number in range(5):
        await store.write(MINUTES, minutes(M + 300 + 60 * number, 1), covered=[])
        assert len(files(store)) == 2
    held = await store.read(MINUTES, *ALL)
    await store.write(MINUTES, minutes(M - 300, 15, seed=9.0), covered=[])
    assert held.equals(minutes(M - 300, 15))
    await store.clear()
    assert files(store) == []
    assert await store.series() == []
    assert held.equals(minutes(M - 300, 15))
    store.environment = "test"
    await store.write(MINUTES, minutes(M, 1), covered=[])
    await store.aclose()


# --- faults ----------------------------------------------------------------------------------------


async def test_a_reader_asks_again_when_its_segment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await filled(tmp_path)
    find = store._catalogue.find_segments
    asked: list[int] = []

    def find_late(key: SeriesKey, start: int, end: int) -> object:
        found = find(key, start, end)
        asked.append(len(asked))
        if len(asked) <= 3:
            writer = EmbeddedStore(tmp_path)
            again = writer.write(MINUTES, minutes(M - 300, 10, seed=len(asked)), covered=[])
            asyncio.run(again)
            asyncio.run(writer.aclose())
        return found

    monkeypatch.setattr(store._catalogue, "find_segments", find_late)
    assert (await store.read(MINUTES, *ALL)).equals(minutes(M - 300, 10, seed=3))
    assert len(asked) == 4
    await store.aclose()


async def test_a_catalogue_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    await (await filled(tmp_path)).aclose()
    db = sqlite3.connect(tmp_path / "catalogue.sqlite")
    db.execute("PRAGMA user_version=99")
    db.close()
    store = EmbeddedStore(tmp_path)
    with pytest.raises(StoreError, match="newer program"):
        await store.read(MINUTES, *ALL)
    with pytest.raises(StoreError, match="newer program"):
        await store.write(MINUTES, minutes(M, 1), covered=[])
    await store.aclose()


async def test_a_place_that_cannot_hold_a_store_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = EmbeddedStore(tmp_path / "file")
    with pytest.raises(StoreError, match=r"file.*: (Not a directory|File exists)"):
        await store.write(MINUTES, minutes(M, 1), covered=[])
    await store.aclose()
    monkeypatch.setattr(embedded_store, "find_network_file_system", lambda path: "nfs4")
    store = EmbeddedStore(tmp_path / "far")
    with pytest.raises(StoreError, match="network file system"):
        await store.write(MINUTES, minutes(M, 1), covered=[])
    await store.aclose()


async def test_a_write_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await filled(tmp_path)
    before = files(store)
    sync, calls = os.fsync, []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", "segment")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left on device"):
        await store.write(MINUTES, minutes(M - 600, 20, seed=5.0), covered=[(M - 600, M + 600)])
    assert (await store.read(MINUTES, *ALL)).equals(minutes(M - 300, 10))
    assert await store.coverage(MINUTES) == spans((M - 300, M + 300, "rows"))
    await store.write(MINUTES, minutes(M + 300, 1), covered=[])
    assert len(files(store)) == 2
    assert files(store)[0] == before[0]
    await store.aclose()


# --- writers and readers ----------------------------------------------------------------------------


async def test_writers_queue_and_readers_do_not(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = EmbeddedStore(tmp_path, clock=clock)
    await store.write(MINUTES, minutes(M, 5), covered=[(M, M + 300)])
    taken, release = threading.Event(), threading.Event()

    def occupy() -> None:
        with WriterLock(tmp_path / "writer.lock", SystemClock()).hold():
            taken.set()
            release.wait(60)

    other = threading.Thread(target=occupy)
    other.start()
    try:
        assert await asyncio.to_thread(taken.wait, 30)
        late = asyncio.ensure_future(store.write(MINUTES, minutes(M, 5, 1.0), covered=[]))
        queued = asyncio.ensure_future(store.write(MINUTES, minutes(M, 5, 2.0), covered=[]))
        assert (await store.read(MINUTES, *ALL)).equals(minutes(M, 5))
        assert await store.coverage(MINUTES) == spans((M, M + 300, "rows"))
        await clock.advance(29.9)
        assert not late.done()
        while not late.done():
            await clock.advance(1)
            await asyncio.sleep(0.01)
        with pytest.raises(StoreBusyError, match="30 s"):
            await late
    finally:
        release.set()
        other.join()
    await queued
    assert (await store.read(MINUTES, *ALL)).equals(minutes(M, 5, 2.0))
    await store.aclose()


async def test_leases_live_beside_coverage_and_do_not_wait_for_writers(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")
    leases = LeaseStore(store.lease_dsn)
    claimed = await leases.claim(MINUTES, M, M + 600, "one", 60_000)
    (lease,) = claimed.leases
    assert (await store.read(MINUTES, *ALL)).is_empty()
    await store.write(MINUTES, minutes(M, 10), covered=[(M, M + 600)], fence=lease.fence)
    with WriterLock(store.path / "writer.lock", SystemClock()).hold():
        queued = asyncio.ensure_future(
            store.write(MINUTES, minutes(M, 10, 1.0), covered=[], fence=lease.fence)
        )
        await leases.renew(lease.token, 60_000)
        assert await leases.complete(lease.token)
        assert not queued.done()
    await queued
    assert (await store.read(MINUTES, *ALL)).equals(minutes(M, 10, 1.0))
    await leases.aclose()
    await store.aclose()


async def test_a_cancelled_write_is_whole_or_absent(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    tasks = [
        asyncio.ensure_future(store.write(MINUTES, minutes(M - 300, 10, seed=float(n)), covered=[]))
        for n in range(1, 20)
    ]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.write(MINUTES, minutes(M + 300, 1), covered=[])
    frame = await store.read(MINUTES, M - 300, M + 300)
    assert any(frame.equals(minutes(M - 300, 10, seed=float(n))) for n in range(20))
    assert await store.verify() == []
    assert len(files(store)) == 2
    await store.aclose()


def test_one_store_serves_several_loops(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for number in range(3):
        asyncio.run(store.write(MINUTES, minutes(M + 60 * number, 1), covered=[]))
    assert asyncio.run(store.read(MINUTES, *ALL)).height == 3
    asyncio.run(store.aclose())


def test_30_one_writer_and_seven_readers(tmp_path: Path, count: Callable[[int, int], int]) -> None:
    folder, stop = tmp_path / "store", tmp_path / "stop"
    roles = ["writer", *["reader"] * 7]
    command = [sys.executable, "-m", "tests.runtime.io.store_reader"]
    wanted = str(count(10, 500))
    children = [
        subprocess.Popen(
            [*command, role, str(folder), str(stop), wanted], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for role in roles
    ]
    try:
        answers = [child.communicate(timeout=100)[0].split() for child in children[1:]]
        stop.touch()
        answers.append(children[0].communicate(timeout=60)[0].split())
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert [child.returncode for child in children] == [0] * 8
    for batches, _, reads, _, torn, _ in answers[:-1]:
        assert int(batches) >= int(wanted)
        assert int(reads) >= int(batches)
        assert torn == "0"
    assert int(answers[-1][0]) >= int(wanted)
