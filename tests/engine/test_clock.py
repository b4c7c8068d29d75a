"""One suite for every clock: exchange time, real time, and waiting."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from qmtl.engine.clock import ScaledClock, SeededRandom, SystemClock, VirtualClock
from qmtl.engine.ports import Clock, Random

ORIGIN = 1_700_000_000_000


async def waited(clock: Clock, wait: Coroutine[Any, Any, None]) -> None:
    """Wait on real clocks; let a virtual one pass while waiting."""
    if isinstance(clock, VirtualClock):
        task = asyncio.ensure_future(wait)
        await clock.advance(0.05)
        await task
    else:
        await wait


CLOCKS: dict[str, Callable[[], Clock]] = {
    "system": SystemClock,
    "scaled x1": lambda: ScaledClock(ORIGIN, 1.0),
    "scaled x60": lambda: ScaledClock(ORIGIN, 60.0),
    "scaled x0.5": lambda: ScaledClock(ORIGIN, 0.5),
    "virtual": lambda: VirtualClock(ORIGIN),
    "virtual x60": lambda: VirtualClock(ORIGIN, 60.0),
}


@pytest.fixture(params=list(CLOCKS))
def clock(request: pytest.FixtureRequest) -> Clock:
    return CLOCKS[request.param]()


async def test_both_times_pass_while_sleeping_and_in_proportion(clock: Clock) -> None:
    # This process may lose the processor between two readings: the one lies between two of the other.
    begun, now, begun_late = clock.real_ms(), clock.now_ms(), clock.real_ms()
    await waited(clock, clock.sleep(0.05))
    ended, passed, ended_late = clock.real_ms(), clock.now_ms() - now, clock.real_ms()
    assert ended - begun_late >= 49.9
    assert (ended - begun_late) * clock.speed - 2 <= passed <= (ended_late - begun) * clock.speed + 2


async def test_no_time_runs_backwards(clock: Clock) -> None:
    readings = []
    for _ in range(50):
        readings.append((clock.now_ms(), clock.real_ms()))
        await clock.sleep(0)
    assert readings == sorted(readings)


async def test_sleeping_for_nothing_or_less_returns(clock: Clock) -> None:
    before_ms = clock.real_ms()
    await asyncio.wait_for(clock.sleep(0), 5)
    await asyncio.wait_for(clock.sleep(-1), 5)
    assert clock.real_ms() - before_ms < 5_000


def test_exchange_time_is_whole_milliseconds(clock: Clock) -> None:
    assert isinstance(clock.now_ms(), int)
    assert clock.speed > 0


def test_the_system_clock_is_utc() -> None:
    before, now, after = time.time(), SystemClock().now_ms(), time.time()
    assert before * 1000 - 1 <= now <= after * 1000 + 1


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"^speed: must be greater than 0"):
        ScaledClock(ORIGIN, speed)


async def test_virtual_sleepers_wake_in_order_at_their_own_moments() -> None:
    clock = VirtualClock(ORIGIN, 10.0)
    woken: list[tuple[str, float, int]] = []

    async def sleeper(name: str, *pauses: float) -> None:
        for pause in pauses:
            await clock.sleep(pause)
            woken.append((name, clock.real_ms(), clock.now_ms() - ORIGIN))

    tasks = [asyncio.create_task(sleeper("slow", 2.5)), asyncio.create_task(sleeper("quick", 1, 1, 1))]
    await clock.advance(3)
    assert woken == [
        ("quick", 1000.0, 10_000),
        ("quick", 2000.0, 20_000),
        ("slow", 2500.0, 25_000),
        ("quick", 3000.0, 30_000),
    ]
    await asyncio.gather(*tasks)


async def test_a_virtual_sleeper_that_was_cancelled_hurts_nobody() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await clock.advance(2)
    assert task.cancelled()
    assert clock.real_ms() == 2000.0


async def test_a_task_made_just_before_the_time_passes_still_sleeps_from_its_start() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.advance(1)
    assert task.done()


def test_recorded_events_move_virtual_time_forward_only() -> None:
    clock = VirtualClock(ORIGIN, 60.0)
    clock.set_now_ms(ORIGIN + 60_000)
    assert clock.real_ms() == 1000.0
    clock.set_now_ms(ORIGIN)
    assert clock.now_ms() == ORIGIN + 60_000


def test_seeded_randomness_repeats_and_fits_its_port() -> None:
    first: Random = SeededRandom(7)
    second: Random = SeededRandom(7)
    assert [first.uniform(1, 2) for _ in range(5)] == [second.uniform(1, 2) for _ in range(5)]
    assert first.randbytes(8) == second.randbytes(8)
    assert all(1 <= first.uniform(1, 2) <= 2 for _ in range(100))
