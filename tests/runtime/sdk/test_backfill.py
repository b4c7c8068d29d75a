"""The coordinator's client against a real coordinator process (contract, seamless §9)."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from qmtl.engine.clock import SystemClock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.history import CoordinatorRefusedError, SeriesKey, StaleLeaseError, UnknownLeaseError
from qmtl.runtime.sdk.lease_keeper import claim_kept
from tests.coordinator_process import CoordinatorProcess
from tests.runtime.lease_rig import BARS, LeasePlace
from tests.servers import pick_port

TTL_MS = 600_000


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def client(coordinator: CoordinatorProcess) -> AsyncIterator[CoordinatorClient]:
    client = CoordinatorClient(coordinator.url, token=coordinator.token("service"), timeout_s=30)
    yield client
    await client.aclose()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> SeriesKey:
    """A series of the test's own."""
    return SeriesKey(f"relay:{request.node.name}", 60)


Events = list[MutableMapping[str, Any]]


@pytest.fixture
def events() -> Iterator[Events]:
    """What is logged, as fields."""
    with structlog.testing.capture_logs() as events:
        yield events


def said(events: Events) -> Events:
    """Events of the coordinator, oldest first."""
    return [event for event in events if event["event"].startswith("seamless.backfill.coordinator_")]


async def test_answers_as_a_lease_store_does(
    client: CoordinatorClient, coordinator: CoordinatorProcess, key: SeriesKey
) -> None:
    store = LeaseStore(coordinator.dsn)
    first = await client.claim(key, 0, 600, "a", TTL_MS, world_id="w")
    [lease] = first.leases
    assert first.is_reachable
    assert lease.token not in repr(first)
    until = await client.renew(lease.token, TTL_MS, 0.5)
    assert until is not None
    assert until >= lease.lease_until_ms

    for asked in ((0, 600), (300, 900)):
        by_wire = await client.claim(key, *asked, "b", TTL_MS)
        for other in by_wire.leases:
            assert await client.fail(other.token, "compare")
        by_store = await store.claim(key, *asked, "b", TTL_MS)
        for other in by_store.leases:
            await store.fail(other.token, "compare")
        assert by_wire.conflicts == by_store.conflicts
        assert by_wire.completion_ratio == pytest.approx(by_store.completion_ratio)
        assert [(x.start, x.end) for x in by_wire.leases] == [(x.start, x.end) for x in by_store.leases]
        if by_wire.leases:
            assert by_wire.retry_after_ms is not None
            assert by_store.retry_after_ms is not None
            assert by_wire.retry_after_ms == pytest.approx(by_store.retry_after_ms, abs=60_000)
    assert await client.inspect(key.node_id, 60) == await store.inspect(key.node_id, 60)
    await store.aclose()

    assert await client.complete(lease.token)
    assert await client.complete(lease.token)
    assert not await client.fail(lease.token, "late")
    with pytest.raises(StaleLeaseError, match="completed"):
        await client.renew(lease.token, TTL_MS)
    with pytest.raises(UnknownLeaseError):
        await client.renew("00" * 16, TTL_MS)


async def test_every_step_is_logged_with_its_fields(
    client: CoordinatorClient,
    coordinator: CoordinatorProcess,
    key: SeriesKey,
    events: Events,
) -> None:
    [lease] = (await client.claim(key, 0, 600, "a", TTL_MS, world_id="w")).leases
    await client.renew(lease.token, TTL_MS, 0.5)
    for _ in range(3):
        await client.claim(key, 0, 600, "b", TTL_MS)
    await client.complete(lease.token)
    [failed, lost] = [(await client.claim(key, n, n + 1, "a", TTL_MS)).leases[0] for n in (700, 800)]
    await client.fail(failed.token, "no route")
    LeasePlace(coordinator.dsn).pass_time(2 * TTL_MS)
    with pytest.raises(StaleLeaseError):
        await client.renew(lost.token, TTL_MS)

    records = said(events)
    verbs = [record["event"].rpartition("_")[2] for record in records]
    assert verbs == ["claimed", "renewed", "conflict", "completed", "claimed", "claimed", "failed", "expired"]
    fields = {"node_id", "interval", "world_id", "worker", "range", "fence", "completion_ratio"}
    for record in records:
        assert fields <= record.keys()
        assert (record["node_id"], record["interval"]) == key
    renewed = records[1]
    assert [renewed[name] for name in ("world_id", "worker", "range", "fence", "completion_ratio")] == [
        "w",
        "a",
        (0, 600),
        lease.fence,
        0.5,
    ]
    assert records[2]["holders"] == ["a"]
    assert records[6]["reason"] == "no route"
    assert all(token not in repr(records) for token in (lease.token, failed.token))


async def test_25_an_unreachable_coordinator_is_an_answer(events: Events) -> None:
    """Log and gauge 0; a claim says that nobody could be asked, and for a while nobody is asked again."""
    SEAMLESS.coordinator_up.set(1)
    client = CoordinatorClient(f"http://127.0.0.1:{pick_port()}", token="t")
    for _ in range(3):
        claim = await client.claim(BARS, 0, 600, "a", TTL_MS)
        assert not claim.is_reachable
        assert (claim.leases, claim.conflicts) == ([], [])
    assert SEAMLESS.coordinator_up._value.get() == 0
    [record] = said(events)
    assert record["event"] == "seamless.backfill.coordinator_unavailable"
    assert (record["worker"], record["range"]) == ("a", (0, 600))
    assert await client.renew("00" * 16, TTL_MS) is None
    assert not await client.complete("00" * 16)
    assert not await client.fail("00" * 16, "x")
    with pytest.raises(CoordinatorRefusedError, match="Cannot connect"):
        await client.inspect()
    await client.aclose()


async def test_25_a_coordinator_that_comes_back_is_used_again(tmp_path: Path) -> None:
    coordinator = CoordinatorProcess(tmp_path / "c")
    coordinator.start()
    clock = LateClock()
    client = CoordinatorClient(coordinator.url, token=coordinator.token("service"), timeout_s=30, clock=clock)
    [lease] = (await client.claim(BARS, 0, 600, "a", TTL_MS)).leases
    coordinator.kill()
    assert await client.renew(lease.token, TTL_MS) is None
    assert not (await client.claim(BARS, 600, 1200, "a", TTL_MS)).is_reachable
    assert SEAMLESS.coordinator_up._value.get() == 0
    coordinator.start()
    assert await client.renew(lease.token, TTL_MS) is not None, "leases outlive the process"
    assert SEAMLESS.coordinator_up._value.get() == 1
    [other] = (await client.claim(BARS, 600, 1200, "a", TTL_MS)).leases
    assert other.fence > lease.fence
    assert coordinator.stop() == 0
    assert not (await client.claim(BARS, 1200, 1800, "a", TTL_MS)).is_reachable
    coordinator.start()
    assert not (await client.claim(BARS, 1200, 1800, "a", TTL_MS)).is_reachable
    clock.late_ms += 6_000
    assert len((await client.claim(BARS, 1200, 1800, "a", TTL_MS)).leases) == 1
    await client.aclose()
    coordinator.stop()


class LateClock(SystemClock):
    """The machine's clock, moved on by hand."""

    late_ms = 0.0

    def real_ms(self) -> float:
        return super().real_ms() + self.late_ms


async def test_25_a_replaced_token_file_loses_no_lease(
    coordinator: CoordinatorProcess, key: SeriesKey, tmp_path: Path
) -> None:
    """It runs out in the middle of a backfill; the next one is put into the file late, and badly first."""
    file = tmp_path / "token"
    file.write_text(coordinator.token("service"))
    client = CoordinatorClient(coordinator.url, token=f"file:{file}", timeout_s=30)
    _, [keeper] = await claim_kept(client, key, 0, 600, "a", 12_000)
    file.write_text(coordinator.token("service", ttl_s=2))

    async def work() -> str:
        refused = False
        async with asyncio.timeout(60):
            while not refused:
                await asyncio.sleep(0.2)
                refused = await client.renew(keeper.lease.token, 12_000) is None
            file.write_text("")
            assert await client.renew(keeper.lease.token, 12_000) is None, "half a replacement"
            file.write_text(coordinator.token("service"))
            while await client.renew(keeper.lease.token, 12_000) is None:
                await asyncio.sleep(0.1)
        return "filled"

    assert await keeper.run(work()) == "filled"
    assert not keeper.is_lost
    [done] = (await client.inspect(key.node_id)).completions
    assert done.fence == keeper.lease.fence
    await client.aclose()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"audience": ["gateway"]}, "401: token: for another audience"),
        ({"roles": ["viewer"]}, "403: worker: needs role service"),
    ],
)
async def test_25_a_refused_token_is_an_error_that_names_it(
    coordinator: CoordinatorProcess, key: SeriesKey, changed: dict[str, object], what: str
) -> None:
    token = coordinator.token(**{"roles": ["service"], **changed})  # type: ignore[arg-type]
    client = CoordinatorClient(coordinator.url, token=token, timeout_s=30)
    with pytest.raises(CoordinatorRefusedError, match=what) as refusal:
        await client.claim(key, 0, 600, "a", TTL_MS)
    assert token not in str(refusal.value)
    assert SEAMLESS.coordinator_up._value.get() == 1
    await client.aclose()


async def test_claims_that_make_no_sense_are_not_sent() -> None:
    client = CoordinatorClient("http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"range: expected 0 <= start < end, got \[5, 5\)"):
        await client.claim(BARS, 5, 5, "a", TTL_MS)
    with pytest.raises(ValueError, match="expected an http:// or https:// URL"):
        CoordinatorClient("127.0.0.1:9")
    await client.aclose()


async def test_a_cancelled_claim_is_given_back(client: CoordinatorClient, key: SeriesKey) -> None:
    claiming = asyncio.ensure_future(client.claim(key, 0, 600, "a", TTL_MS))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    async with asyncio.timeout(60):
        while not (await client.claim(key, 0, 600, "b", TTL_MS)).leases:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("content", ["<html>", "[]", '{"leases": 1}', "\xff"])
async def test_25_something_else_at_the_address_is_named(content: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=content.encode("latin-1"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = CoordinatorClient(f"http://127.0.0.1:{runner.addresses[0][1]}")
    with pytest.raises(CoordinatorRefusedError, match="answers as no coordinator does"):
        await client.claim(BARS, 0, 600, "a", TTL_MS)
    await runner.cleanup()


def test_a_client_outlives_an_event_loop(coordinator: CoordinatorProcess, key: SeriesKey) -> None:
    client = CoordinatorClient(coordinator.url, token=coordinator.token("service"), timeout_s=30)

    async def claim() -> int:
        return len((await client.claim(key, 0, 60, "a", TTL_MS)).leases)

    assert [asyncio.run(claim()) for _ in range(2)] == [1, 0]
