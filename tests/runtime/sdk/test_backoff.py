"""The one reconnect policy, second by second (connectors.md §4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.engine.clock import SeededRandom
from qmtl.runtime.sdk.backoff import Reconnect
from tests.runtime.leap_clock import LeapClock, MidRandom


@given(seed=st.integers(0, 2**32), base=st.floats(0.01, 5), factor=st.floats(1, 4), cap=st.floats(0.1, 20))
def test_each_delay_lies_in_its_band(seed: int, base: float, factor: float, cap: float) -> None:
    policy = Reconnect(LeapClock(), SeededRandom(seed), base_delay_s=base, factor=factor, max_delay_s=cap)
    for n in range(12):
        delay = policy.broke()
        assert delay is not None
        if n < 7:
            full = min(cap, base * factor**n)
            assert full / 2 <= delay <= full
        else:
            assert 24 <= delay <= 36


async def test_a_connection_that_lasted_starts_the_count_anew() -> None:
    clock = LeapClock()
    policy = Reconnect(clock, MidRandom())
    assert [policy.broke() for _ in range(3)] == [0.75, 1.5, 3.0]
    policy.opened()
    await clock.sleep(9.9)
    assert policy.broke() == 6.0
    policy.opened()
    await clock.sleep(10)
    assert policy.broke() == 0.75
    assert policy.total_breaks == 5


def test_retries_are_counted() -> None:
    policy = Reconnect(LeapClock(), MidRandom(), max_retries=2)
    assert [policy.broke() for _ in range(3)] == [0.75, 1.5, None]


async def test_total_time_is_counted() -> None:
    clock = LeapClock()
    policy = Reconnect(clock, MidRandom(), max_total_s=3.0)
    delays = []
    while (delay := policy.broke()) is not None:
        delays.append(delay)
        await clock.sleep(delay)
    assert delays == [0.75, 1.5, 0.75]


async def test_a_server_that_refuses_is_asked_at_most_twenty_times_in_five_minutes() -> None:
    clock = LeapClock()
    policy = Reconnect(clock, SeededRandom(7))
    connects = 0
    while clock.real_ms() < 300_000:
        connects += 1
        policy.opened()
        delay = policy.broke()
        assert delay is not None
        await clock.sleep(delay)
    assert connects == pytest.approx(17, abs=3)
