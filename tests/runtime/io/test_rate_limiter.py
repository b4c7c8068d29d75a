"""Seamless §4: request slots within a fetcher, a process, and a cluster on a real Redis."""

import asyncio
import gc
import json
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from qmtl.engine.clock import SeededRandom, SystemClock, VirtualClock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io import rate_limiter
from qmtl.runtime.io.rate_limiter import Limiter, get_limiter
from tests.runtime.io.history_rig import configure
from tests.runtime.leap_clock import LeapClock, MidRandom
from tests.servers import RedisServer

__all__ = ["configure"]
ROOT = Path(__file__).resolve().parents[3]
CHILD = Path(__file__).with_name("limiter_child.py")


@pytest.fixture(autouse=True)
def _settings(configure: Callable[..., None]) -> None:
    """No configuration of the machine, and no bucket of another test."""


class Redis:
    """Limiters on one Redis; all are closed at the end."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.limiters: list[Limiter] = []

    async def open(self, key: str, **fields: Any) -> Limiter:
        limiter = await get_limiter(key, redis_dsn=self.server.dsn, rng=SeededRandom(5), **fields)
        self.limiters.append(limiter)
        return limiter


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    place = Redis(redis_server)
    yield place
    redis_server.start()
    for limiter in place.limiters:
        await limiter.aclose()


async def take(limiter: Limiter, count: int) -> None:
    for _ in range(count):
        async with limiter:
            pass


# --- within a process -------------------------------------------------------------------------------


async def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = LeapClock()
    limiter = await get_limiter(
        "a", tokens_per_interval=10, interval_ms=1000, clock=clock, rng=MidRandom(), scope="process"
    )
    await take(limiter, 10)
    assert clock.real_ms() == 0
    await take(limiter, 100)
    assert 10_000 <= clock.real_ms() <= 10_000 * 1.06
    assert SEAMLESS.limiter_wait.labels("a")._sum.get() > 0


async def test_scopes_share_what_they_say() -> None:
    clock = LeapClock()

    async def seconds(first: Limiter, second: Limiter) -> float:
        began_ms = clock.real_ms()
        for limiter in (first, second) * 4:
            await take(limiter, 1)
        return (clock.real_ms() - began_ms) / 1000

    given: dict[str, Any] = {"min_interval_s": 1.0, "clock": clock, "rng": MidRandom()}
    process = [await get_limiter("b", scope="process", **given) for _ in range(2)]
    assert 6.9 <= await seconds(*process) <= 7.5
    local = [await get_limiter("b", scope="local", **given) for _ in range(2)]
    assert await seconds(*local) <= 3.3
    apart = [await get_limiter("b", scope="process", key_suffix=name, **given) for name in ("x", "y")]
    assert await seconds(*apart) <= 3.3


async def test_a_semaphore_bounds_how_many_are_in_flight() -> None:
    first = await get_limiter("c", scope="process", max_concurrency=2)
    second = await get_limiter("c", scope="process", max_concurrency=2)
    running = most = 0

    async def work(limiter: Limiter) -> None:
        nonlocal running, most
        async with limiter:
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(work(limiter) for limiter in (first, second) * 10))
    assert most == 2


async def test_a_penalty_holds_every_sharer_and_a_longer_one_stays() -> None:
    clock = LeapClock()
    given: dict[str, Any] = {"scope": "process", "clock": clock, "rng": MidRandom()}
    first, second = [await get_limiter("d", **given) for _ in range(2)]
    await first.penalise(7.0)
    await first.penalise(2.0)
    await take(second, 1)
    assert 7_000 <= clock.real_ms() <= 7_700
    alone = await get_limiter("d", scope="local", clock=clock)
    began_ms = clock.real_ms()
    await first.penalise(5.0)
    await take(alone, 1)
    assert clock.real_ms() == began_ms


async def test_errors_give_the_slot_back() -> None:
    limiter = await get_limiter("e", scope="process")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with limiter:
                raise ZeroDivisionError
    await asyncio.wait_for(take(limiter, 1), 5)


@pytest.mark.chaos
async def test_12_cancelled_acquisitions_leak_nothing(count: Callable[[int, int], int]) -> None:
    clock = VirtualClock(1_000)
    limiter = await get_limiter(
        "f", scope="process", clock=clock, max_concurrency=3, min_interval_s=1.0, rng=SeededRandom(3)
    )
    random = SeededRandom(4)
    granted = 0

    async def work() -> None:
        nonlocal granted
        async with limiter:
            granted += 1
            await clock.sleep(random.uniform(0.0, 2.0))

    total = count(1_000, 10_000)
    for _ in range(total // 50):
        tasks = [asyncio.create_task(work()) for _ in range(50)]
        await clock.advance(random.uniform(0.0, 3.0))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert granted > 0
    assert limiter._semaphore._value == 3
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    # And it still gives: three at once, as many tokens as time allows.
    before = granted
    tasks = [asyncio.create_task(work()) for _ in range(5)]
    for _ in range(40):
        await clock.advance(1.0)
    await asyncio.gather(*tasks)
    assert granted == before + 5


async def test_buckets_of_a_clock_that_is_gone_are_forgotten() -> None:
    clock = LeapClock()
    gone = weakref.ref(clock)
    await take(await get_limiter("g", scope="process", clock=clock), 1)
    del clock
    gc.collect()
    assert gone() is None
    assert len(rate_limiter._buckets) == 0


async def test_a_cluster_without_redis_is_refused(configure: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="connectors"):
        await get_limiter("h", scope="cluster")
    configure(ccxt_rate_limiter_redis="redis://127.0.0.1:1/0")
    limiter = await get_limiter("h")
    assert type(limiter._bucket).__name__ == "RedisBucket"
    assert type((await get_limiter("h", scope="process"))._bucket).__name__ == "_LocalBucket"


# --- through Redis ----------------------------------------------------------------------------------


@pytest.mark.chaos
def test_11_processes_share_one_rate(redis_server: RedisServer, count: Callable[[int, int], int]) -> None:
    rate, burst, span_s = 50.0, 10.0, float(count(3, 10))
    command = [sys.executable, str(CHILD), redis_server.dsn, "shared", str(rate), str(burst)]
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True) for _ in range(count(3, 8))
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    begin = time.time() + 0.5
    grants: list[float] = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write(f"{begin} {begin + span_s}\n")
        child.stdin.flush()
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        grants += json.loads(out)
    in_time = sorted(grant for grant in grants if begin <= grant <= begin + span_s)
    assert len(in_time) <= 1.02 * rate * span_s + burst
    # While a busy machine runs nobody the bucket fills and then runs over: that is not the limiter's loss.
    gaps = [later - sooner for sooner, later in pairwise([begin, *in_time, begin + span_s])]
    lost_s = sum(max(0.0, gap - burst / rate) for gap in gaps)
    assert lost_s < span_s / 2
    assert len(in_time) >= 0.9 * rate * (span_s - lost_s)


async def test_the_state_in_redis_is_as_published(redis: Redis) -> None:
    limiter = await redis.open("ccxt:binance", key_suffix="eu", tokens_per_interval=5, interval_ms=1000)
    await take(limiter, 1)
    answer = redis.server.ask(b"HGETALL rl:ccxt:binance:eu")
    assert b"tokens" in answer
    assert b"ts" in answer
    await limiter.penalise(0.05)
    assert b"block_until" in redis.server.ask(b"HGETALL rl:ccxt:binance:eu")
    left_ms = int(redis.server.ask(b"PTTL rl:ccxt:binance:eu")[1:])
    assert 590_000 < left_ms <= 600_000
    assert limiter._bucket.is_degraded is False


async def test_a_penalty_holds_the_cluster(redis: Redis) -> None:
    first, second = await redis.open("p"), await redis.open("p")
    await take(second, 1)
    began = time.monotonic()
    await first.penalise(0.4)
    await take(second, 1)
    assert time.monotonic() - began >= 0.39


async def test_a_forgotten_script_is_loaded_again(redis: Redis) -> None:
    limiter = await redis.open("s", min_interval_s=0.01)
    await take(limiter, 1)
    redis.server.ask(b"SCRIPT FLUSH")
    await take(limiter, 2)
    assert limiter._bucket.is_degraded is False


async def test_13_without_redis_half_the_rate_and_back_when_it_returns(redis: Redis) -> None:
    rate = 40.0
    limiter = await redis.open("k", tokens_per_interval=rate, interval_ms=1000, burst_tokens=1)
    await take(limiter, 5)
    gauge = SEAMLESS.limiter_degraded.labels("k")
    redis.server.kill()
    with capture_logs() as logs:
        began = time.monotonic()
        taken = 0
        while time.monotonic() - began < 2.0:
            await take(limiter, 1)
            taken += 1
        spent_s = time.monotonic() - began
        assert taken <= rate * spent_s * 0.5 + 1e-9
        assert gauge._value.get() == 1
        redis.server.start()
        began = time.monotonic()
        while gauge._value.get() == 1:
            await take(limiter, 1)
            assert time.monotonic() - began < 30
    assert [entry["event"] for entry in logs] == [
        "seamless.rate_limiter.degraded",
        "seamless.rate_limiter.recovered",
    ]


async def test_a_redis_that_hangs_is_left_after_a_quarter_of_a_second(redis: Redis) -> None:
    limiter = await redis.open("hang", tokens_per_interval=1000, interval_ms=1000)
    await take(limiter, 1)
    assert redis.server.process is not None
    redis.server.process.send_signal(19)
    try:
        began = time.monotonic()
        await take(limiter, 1)
        assert 0.25 <= time.monotonic() - began < 30
        assert limiter._bucket.is_degraded is True
    finally:
        redis.server.process.send_signal(18)


async def test_limiters_of_the_system_clock_share_a_bucket() -> None:
    first = await get_limiter("sys", scope="process", clock=SystemClock(), min_interval_s=0.05)
    second = await get_limiter("sys", scope="process", min_interval_s=0.05)
    began = time.monotonic()
    for limiter in (first, second, first, second):
        await take(limiter, 1)
    assert time.monotonic() - began >= 0.14
