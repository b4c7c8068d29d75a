"""Leases hold their ranges against everybody else, in every database (contract, seamless §9)."""

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from qmtl.core.ranges import Range, measure_ranges, merge_ranges
from qmtl.engine.clock import SeededRandom
from qmtl.runtime.io.lease_database import Script
from qmtl.runtime.io.leases import KEEP_MS, LeaseStore
from qmtl.runtime.sdk.history import SeriesKey, StaleLeaseError, StoreError, UnknownLeaseError
from qmtl.runtime.sdk.lease import Claim, Lease
from tests.runtime.lease_rig import BARS, OTHER, LeasePlace
from tests.servers import PostgresServer

T = TypeVar("T")
TTL_MS = 10_000_000
STEP_MS = 3_000_000
"""Four steps outlast a lease and three do not, however long the test itself takes."""


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> LeasePlace:
    if request.param == "sqlite":
        return LeasePlace(f"sqlite:///{tmp_path / 'leases.db'}")
    return LeasePlace(request.getfixturevalue("postgres_dsn"))


@pytest.fixture
async def store(place: LeasePlace) -> AsyncIterator[LeaseStore]:
    store = place.open()
    yield store
    await store.aclose()


def ranges(claim: Claim) -> list[Range]:
    return [(lease.start, lease.end) for lease in claim.leases]


async def test_a_claim_takes_every_free_part(store: LeaseStore) -> None:
    first = await store.claim(BARS, 100, 200, "a", TTL_MS)
    assert ranges(first) == [(100, 200)]
    assert first.conflicts == []
    assert first.retry_after_ms is None
    second = await store.claim(BARS, 0, 300, "b", TTL_MS, world_id="w")
    assert ranges(second) == [(0, 100), (200, 300)]
    assert [(c.start, c.end, c.owner) for c in second.conflicts] == [(100, 200, "a")]
    assert second.conflicts[0].lease_until_ms == first.leases[0].lease_until_ms
    assert second.retry_after_ms is not None
    assert 0 < second.retry_after_ms <= TTL_MS
    third = await store.claim(BARS, 150, 250, "c", TTL_MS)
    assert third.leases == []
    assert [(c.start, c.end, c.owner) for c in third.conflicts] == [(150, 200, "a"), (200, 250, "b")]
    assert ranges(await store.claim(OTHER, 0, 300, "c", TTL_MS)) == [(0, 300)]
    assert ranges(await store.claim(SeriesKey(BARS.node_id, 300), 0, 300, "c", TTL_MS)) == [(0, 300)]


async def test_worlds_share_a_series(store: LeaseStore) -> None:
    """History is kept once, so a world is for whom and not a series of its own (decision 0008)."""
    await store.claim(BARS, 0, 60, "a", TTL_MS, world_id="w1")
    assert (await store.claim(BARS, 0, 60, "b", TTL_MS, world_id="w2")).leases == []


async def test_tokens_and_fences(place: LeasePlace, store: LeaseStore) -> None:
    claim = await store.claim(BARS, 0, 10, "a", TTL_MS)
    [lease] = claim.leases
    assert len(bytes.fromhex(lease.token)) == 16
    assert lease.token not in repr(claim)
    assert lease.fence >= await store.now_ms() - TTL_MS
    await store.fail(lease.token, "again")
    fences = [lease.fence]
    for _ in range(3):
        # A database that comes back empty of leases, its clock a little behind, still hands out higher ones.
        place.execute("DELETE FROM qmtl_leases")
        fences += [lease.fence for lease in (await store.claim(BARS, 0, 10, "a", TTL_MS)).leases]
    assert sorted(set(fences)) == fences
    place.execute(f"UPDATE qmtl_lease_fences SET fence = {fences[-1] + TTL_MS}")
    other = place.open()
    [later] = (await other.claim(BARS, 20, 30, "b", TTL_MS)).leases
    assert later.fence == fences[-1] + TTL_MS + 1
    await other.aclose()


async def test_renew_complete_fail(place: LeasePlace, store: LeaseStore) -> None:
    [lease] = (await store.claim(BARS, 0, 100, "a", TTL_MS)).leases
    place.pass_time(3 * STEP_MS)
    until = await store.renew(lease.token, TTL_MS, 0.5)
    assert until > lease.lease_until_ms
    seen = await store.claim(BARS, 0, 200, "b", TTL_MS)
    assert seen.completion_ratio == pytest.approx(0.25)
    assert seen.conflicts[0].completion_ratio == 0.5
    place.pass_time(3 * STEP_MS)
    await store.renew(lease.token, TTL_MS)
    assert await store.complete(lease.token)
    assert await store.complete(lease.token), "an answer that got lost is asked for again"
    with pytest.raises(StaleLeaseError, match="completed"):
        await store.renew(lease.token, TTL_MS)
    assert not await store.fail(lease.token, "too late")
    [again] = (await store.claim(BARS, 0, 100, "b", TTL_MS)).leases
    assert await store.fail(again.token, "no route")
    with pytest.raises(StaleLeaseError, match="given up"):
        await store.complete(again.token)
    assert ranges(await store.claim(BARS, 0, 100, "c", TTL_MS)) == [(0, 100)]


async def test_a_lease_that_ran_out_is_nobody_s(place: LeasePlace, store: LeaseStore) -> None:
    [lease] = (await store.claim(BARS, 0, 100, "a", TTL_MS)).leases
    place.pass_time(4 * STEP_MS)
    with pytest.raises(StaleLeaseError, match="ran out"):
        await store.renew(lease.token, TTL_MS)
    with pytest.raises(StaleLeaseError, match="ran out"):
        await store.complete(lease.token)
    taken = await store.claim(BARS, 50, 100, "b", TTL_MS)
    assert ranges(taken) == [(50, 100)]
    assert taken.leases[0].fence > lease.fence
    for late in (store.renew(lease.token, TTL_MS), store.complete(lease.token)):
        with pytest.raises(StaleLeaseError):
            await late
    assert not await store.fail(lease.token, "late")
    assert (await store.claim(BARS, 50, 100, "c", TTL_MS)).leases == [], "a late fail frees nothing"
    place.pass_time(KEEP_MS + TTL_MS)
    await store.claim(BARS, 0, 10, "d", TTL_MS)
    with pytest.raises(UnknownLeaseError):
        await store.renew(lease.token, TTL_MS)


async def test_unknown_tokens(store: LeaseStore) -> None:
    for late in (store.renew("00" * 16, TTL_MS), store.complete("'; --"), store.fail("", "none")):
        with pytest.raises(UnknownLeaseError, match="no lease has this token"):
            await late


async def test_inspect(place: LeasePlace, store: LeaseStore) -> None:
    [done] = (await store.claim(BARS, 0, 100, "a", TTL_MS, world_id="w")).leases
    await store.complete(done.token)
    [held] = (await store.claim(BARS, 100, 200, "a", TTL_MS)).leases
    await store.renew(held.token, TTL_MS, 0.25)
    await store.claim(OTHER, 0, 1, "b", TTL_MS)
    everything = await store.inspect()
    assert [(row.node_id, row.start, row.end) for row in everything.leases] == [
        (BARS.node_id, 100, 200),
        (OTHER.node_id, 0, 1),
    ]
    one = await store.inspect(BARS.node_id, 60)
    [row], [completion] = one.leases, one.completions
    assert (row.owner, row.fence, row.world_id, row.completion_ratio) == ("a", held.fence, None, 0.25)
    assert (completion.start, completion.end, completion.fence, completion.world_id) == (
        0,
        100,
        done.fence,
        "w",
    )
    assert held.token not in repr(everything)
    assert (await store.inspect(BARS.node_id, 61)).leases == []
    place.pass_time(4 * STEP_MS)
    assert (await store.inspect()).leases == []


@pytest.mark.parametrize(
    ("start", "end", "owner", "lease_ms", "key"),
    [
        (5, 5, "a", 1, BARS),
        (6, 5, "a", 1, BARS),
        (-1, 5, "a", 1, BARS),
        (0, 5, "", 1, BARS),
        (0, 5, "a", 0, BARS),
        (0, 5, "a", 1, SeriesKey("", 60)),
        (0, 5, "a", 1, SeriesKey("x", 0)),
    ],
)
async def test_claims_that_make_no_sense(
    tmp_path: Path, start: int, end: int, owner: str, lease_ms: int, key: SeriesKey
) -> None:
    store = LeaseStore(tmp_path / "leases.db")
    with pytest.raises(ValueError, match="expected"):
        await store.claim(key, start, end, owner, lease_ms)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "dsn", ["mysql://u:secret@h/db", "sqlite://", "sqlite:///", "leases.db", "postgresql://"]
)
def test_other_databases_are_refused(dsn: str) -> None:
    with pytest.raises(ValueError, match="expected sqlite:///PATH or postgresql://") as refusal:
        LeaseStore(dsn)
    assert "secret" not in str(refusal.value)


async def test_a_cancelled_claim_holds_nothing(store: LeaseStore) -> None:
    for _ in range(5):
        claiming = asyncio.ensure_future(store.claim(BARS, 0, 10, "a", TTL_MS))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
    async with asyncio.timeout(30):
        while not (await store.claim(BARS, 0, 10, "b", TTL_MS)).leases:
            await asyncio.sleep(0.01)


@pytest.mark.chaos
async def test_24_schedules_never_overlap_live_leases(
    place: LeasePlace, count: Callable[[int, int], int]
) -> None:
    """Several workers with connections of their own claim, renew, end and forget leases at random."""
    async with AsyncExitStack() as stack:
        stores = [place.open() for _ in range(3)]
        for store in stores:
            stack.push_async_callback(store.aclose)
        for seed in range(count(15, 1_000)):
            await _Schedule(SeededRandom(seed), stores, SeriesKey(f"relay:{seed}", 1)).run(20)


def _age(ms: int) -> Script[None]:
    """LeasePlace.pass_time through a connection that is open already."""
    yield "UPDATE qmtl_leases SET lease_until_ms = lease_until_ms - ?", (ms,)


class _Schedule:
    """Random steps against the leases of one key, and what must be true after each."""

    def __init__(self, rng: random.Random, stores: list[LeaseStore], key: SeriesKey) -> None:
        self.rng, self.stores, self.key = rng, stores, key
        self.step = 0
        self.live: dict[str, tuple[Lease, int]] = {}
        """Lease by token, with the step at which it was claimed or renewed."""
        self.ended: list[Lease] = []
        self.fence = 0

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            await self.rng.choice([self.claim, self.claim, self.claim, self.renew, self.end, self.wait])()
            shown = (await self.stores[0].inspect(*self.key)).leases
            held = [(row.start, row.end) for row in shown]
            assert measure_ranges(merge_ranges(held)) == measure_ranges(held), "two live leases overlap"
            mine = sorted((lease.start, lease.end, lease.fence) for lease, _ in self.live.values())
            assert [(row.start, row.end, row.fence) for row in shown] == mine

    async def claim(self) -> None:
        asked = [sorted(self.rng.sample(range(40), 2)) for _ in self.stores]
        claims = await asyncio.gather(
            *(
                store.claim(self.key, start, end, f"w{number}", TTL_MS)
                for number, (store, (start, end)) in enumerate(zip(self.stores, asked, strict=True))
            )
        )
        granted = [lease for claim in claims for lease in claim.leases]
        for (start, end), claim in zip(asked, claims, strict=True):
            parts = ranges(claim) + [(c.start, c.end) for c in claim.conflicts]
            assert merge_ranges(parts) == [(start, end)]
            assert measure_ranges(parts) == end - start
        fences = sorted(lease.fence for lease in granted)
        assert len(set(fences)) == len(fences)
        assert not fences or fences[0] > self.fence
        self.fence = max([self.fence, *fences])
        self.live |= {lease.token: (lease, self.step) for lease in granted}

    async def renew(self) -> None:
        for token in self._some(list(self.live)):
            lease, _ = self.live[token]
            await self.rng.choice(self.stores).renew(token, TTL_MS, self.rng.random())
            self.live[token] = lease, self.step

    async def end(self) -> None:
        for token in self._some(list(self.live)):
            store = self.rng.choice(self.stores)
            assert await (store.complete(token) if self.rng.random() < 0.5 else store.fail(token, "seed"))
            self.ended.append(self.live.pop(token)[0])
        for lease in self._some(self.ended):
            with pytest.raises(StaleLeaseError):
                await self.rng.choice(self.stores).renew(lease.token, TTL_MS)

    async def wait(self) -> None:
        steps = self.rng.randrange(1, 5)
        self.step += steps
        await self.stores[0]._database.run(lambda: _age(steps * STEP_MS))
        for token, (lease, since) in list(self.live.items()):
            if self.step - since >= 4:
                del self.live[token]
                self.ended.append(lease)

    def _some(self, items: list[T]) -> list[T]:
        return self.rng.sample(items, self.rng.randrange(len(items) + 1))


async def test_leases_live_beside_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE segments (name TEXT)")
        db.execute("INSERT INTO segments VALUES ('kept')")
    db.close()
    store = LeaseStore(path)
    assert store.backend == "sqlite"
    await store.claim(BARS, 0, 10, "a", TTL_MS)
    await store.aclose()
    await store.aclose()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM segments").fetchall() == [("kept",)]
    db.close()
    assert len((await store.inspect()).leases) == 1, "a closed store opens again when it is asked"
    await store.aclose()


async def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"
    path.write_text("no database" * 1000)
    store = LeaseStore(path)
    with pytest.raises(StoreError, match=r"leases\.db: file is not a database"):
        await store.claim(BARS, 0, 10, "a", TTL_MS)
    await store.aclose()
    store = LeaseStore("postgresql://qmtl:canary-7@127.0.0.1:9/none")
    with pytest.raises(StoreError, match="PostgreSQL of the leases") as refusal:
        await store.now_ms()
    assert "canary-7" not in str(refusal.value)
    await store.aclose()


async def test_a_restarted_postgres_is_asked_again(
    postgres_server: PostgresServer, postgres_dsn: str
) -> None:
    store = LeaseStore(postgres_dsn)
    [lease] = (await store.claim(BARS, 0, 10, "a", TTL_MS)).leases
    postgres_server.kill()
    with pytest.raises(StoreError):
        await store.now_ms()
    postgres_server.start()
    assert await store.renew(lease.token, TTL_MS) >= lease.lease_until_ms
    await store.aclose()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """The switch to WAL is refused, and not queued, when two make it at the same moment."""

    def claim(dsn: Path, gate: threading.Barrier) -> int:
        async def run() -> int:
            store = LeaseStore(dsn)
            gate.wait(100)
            claim = await store.claim(SeriesKey("relay", 1), 0, 1, "w", TTL_MS)
            await store.aclose()
            return len(claim.leases)

        return asyncio.run(run())

    with ThreadPoolExecutor(6) as threads:
        for number in range(60):
            gate = threading.Barrier(6)
            jobs = [threads.submit(claim, tmp_path / f"{number}.db", gate) for _ in range(6)]
            assert sorted(job.result(100) for job in jobs) == [0, 0, 0, 0, 0, 1]


def test_a_store_outlives_an_event_loop(place: LeasePlace) -> None:
    """Scripts run one loop after the other with the same provider."""
    store = place.open()

    async def claim(start: int) -> int:
        return len((await store.claim(BARS, start, start + 60, "a", TTL_MS)).leases)

    assert [asyncio.run(claim(start)) for start in (0, 60, 60)] == [1, 1, 0]
    asyncio.run(store.aclose())
