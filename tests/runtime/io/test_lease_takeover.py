"""A holder that dies or stalls is followed by the next, and cannot come back (contract, seamless §9)."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.sdk.history import StaleFenceError, StaleLeaseError
from qmtl.runtime.sdk.lease import Lease
from tests.conftest import ROOT
from tests.runtime.sdk.history_rig import KEY, T0, bars

TTL_MS = 2_500
END = T0 + 600


@dataclass(frozen=True)
class Place:
    """Rows in an embedded store; leases in its catalogue, or in PostgreSQL."""

    folder: Path
    dsn: str


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    folder = tmp_path / "store"
    if request.param == "postgresql":
        return Place(folder, request.getfixturevalue("postgres_dsn"))
    return Place(folder, EmbeddedStore(folder).lease_dsn)


@contextmanager
def holder(place: Place, pause_s: float) -> Iterator[subprocess.Popen[str]]:
    arguments = [place.dsn, str(place.folder), str(T0), str(END), str(TTL_MS), str(pause_s)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.io.lease_holder", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def read_line(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    said: dict[str, str] = json.loads(process.stdout.readline())
    return said


async def take_over(leases: LeaseStore) -> tuple[Lease, int]:
    """Claim the range until it is ours; return the lease, and how long after now it was still refused, in ms.

    Both times are the database's: a slow machine asks late and is not refused late.
    """
    began_ms = await leases.now_ms()
    refused_ms = began_ms
    async with asyncio.timeout(60):
        while True:
            asked_ms = await leases.now_ms()
            claim = await leases.claim(KEY, T0, END, "next", 600_000)
            if claim.leases:
                [lease] = claim.leases
                return lease, refused_ms - began_ms
            refused_ms = asked_ms
            assert claim.retry_after_ms is not None
            assert claim.retry_after_ms <= TTL_MS
            await asyncio.sleep(min(0.05, claim.retry_after_ms / 1000))


@pytest.mark.chaos
async def test_24_a_killed_holder_is_followed_within_its_time(
    place: Place, count: Callable[[int, int], int]
) -> None:
    leases, store = LeaseStore(place.dsn), EmbeddedStore(place.folder)
    waits = []
    for round_number in range(count(1, 20)):
        with holder(place, 0.05) as process:
            said = read_line(process)
            # Connected before the kill: the time that takes must not run off the dead holder's lease.
            await leases.now_ms()
            # Anywhere between two renewals, and in the middle of a write.
            await asyncio.sleep(0.037 * round_number)
            process.kill()
            lease, refused_ms = await take_over(leases)
        assert refused_ms <= TTL_MS
        waits.append(refused_ms)
        assert lease.fence > int(said["fence"])
        with pytest.raises(StaleLeaseError):
            await leases.complete(said["token"])
        await store.write(KEY, bars([T0]), covered=[(T0, T0 + 60)], fence=lease.fence)
        with pytest.raises(StaleFenceError):
            await store.write(KEY, bars([T0], 9), covered=[(T0, T0 + 60)], fence=int(said["fence"]))
        assert (await store.read(KEY, T0, END)).equals(bars([T0]))
        await leases.complete(lease.token)
    assert max(waits) > TTL_MS / 4, "nobody was ever in the way"
    await leases.aclose()
    await store.aclose()


async def test_24_a_stalled_holder_cannot_come_back(place: Place) -> None:
    """It stops by itself when it wakes; what it does all the same, store and leases refuse.

    It stalls between two writes: inside one it would keep the files themselves locked.
    """
    leases, store = LeaseStore(place.dsn), EmbeddedStore(place.folder)
    with holder(place, 3600) as process:
        read_line(process)
        await leases.now_ms()
        process.send_signal(signal.SIGSTOP)
        lease, refused_ms = await take_over(leases)
        assert refused_ms <= TTL_MS
        await store.write(KEY, bars([T0], 1), covered=[(T0, T0 + 60)], fence=lease.fence)
        process.send_signal(signal.SIGCONT)
        assert read_line(process) == {"write": "StaleFenceError", "complete": "StaleLeaseError"}
        assert process.wait(60) == 0
    assert (await store.read(KEY, T0, END)).equals(bars([T0], 1))
    assert await leases.complete(lease.token)
    await leases.aclose()
    await store.aclose()
