"""Single flight: overlapping requests ask the exchange for each cell once."""

import asyncio
import random

import pytest

from qmtl.runtime.sdk.history import BackfillError, RetryableFetchError
from qmtl.runtime.sdk.seamless_data_provider import BackfillConfig, CacheConfig
from tests.runtime.sdk.history_rig import SERIES, T0, times
from tests.runtime.sdk.test_seamless_provider import DAY, Rig


async def test_23_a_hundred_overlapping_fetches_ask_for_each_cell_once() -> None:
    """Acceptance 23, in process."""
    rig = Rig(backfill_config=BackfillConfig(window_bars=100), cache=CacheConfig(enable=False))
    rig.fetcher.delay_s = 1
    dice = random.Random(23)
    windows = []
    for _ in range(100):
        first = dice.randrange(0, 1000)
        windows.append((T0 + 60 * first, T0 + 60 * dice.randrange(first + 1, 1441)))
    tasks = [asyncio.ensure_future(rig.fetch(*window)) for window in windows]
    while not all(task.done() for task in tasks):
        await rig.clock.advance(0.5)
    asked = rig.fetcher.cells()
    assert len(asked) == len(set(asked))
    wanted = {ts for start, end in windows for ts in range(start, end, 60)}
    assert set(asked) == wanted
    for (start, end), task in zip(windows, tasks, strict=True):
        assert times(task.result()) == list(range(start, end, 60))


async def test_a_cancelled_waiter_leaves_the_others() -> None:
    rig = Rig()
    rig.fetcher.delay_s = 5
    first = asyncio.ensure_future(rig.fetch())
    second = asyncio.ensure_future(rig.fetch(T0 + 600, T0 + 1200))
    await rig.clock.advance(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await rig.clock.advance(5)
    assert len(await second) == 10
    assert rig.fetcher.asked == [(T0, T0 + DAY)]


async def test_in_sync_mode_the_last_waiter_takes_a_flight_down() -> None:
    rig = Rig(backfill_config=BackfillConfig(mode="sync"))
    rig.fetcher.delay_s = 5
    first = asyncio.ensure_future(rig.fetch())
    second = asyncio.ensure_future(rig.fetch())
    await rig.clock.advance(1)
    first.cancel()
    await rig.clock.advance(1)
    second.cancel()
    await rig.clock.advance(10)
    assert first.cancelled()
    assert second.cancelled()
    assert rig.store.rows == {}


async def test_a_failure_reaches_everybody_who_waits_for_it() -> None:
    rig = Rig()
    rig.fetcher.delay_s = 1
    rig.fetcher.error = RetryableFetchError("down")
    tasks = [asyncio.ensure_future(rig.fetch()) for _ in range(3)]
    await rig.clock.advance(2)
    for task in tasks:
        with pytest.raises(BackfillError, match="down"):
            await task
    assert len(rig.fetcher.asked) == 1
    rig.fetcher.error = None
    task = asyncio.ensure_future(rig.fetch())
    await rig.clock.advance(2)
    assert len(await task) == 1440


async def test_ensure_range_joins_a_running_job() -> None:
    rig = Rig(strategy="partial_fill")
    rig.fetcher.delay_s = 5
    await rig.fetch()
    task = asyncio.ensure_future(rig.provider.ensure_range(T0, T0 + 600, **SERIES))
    await rig.clock.advance(6)
    await task
    assert rig.fetcher.asked == [(T0, T0 + DAY)]


async def test_no_more_than_the_configured_windows_at_a_time() -> None:
    rig = Rig(backfill_config=BackfillConfig(window_bars=60, max_concurrent_requests=3))
    rig.fetcher.delay_s = 1
    task = asyncio.ensure_future(rig.fetch())
    await rig.clock.advance(0.5)
    assert len(rig.fetcher.asked) == 3
    await rig.clock.advance(1)
    assert len(rig.fetcher.asked) == 6
    await rig.clock.advance(10)
    assert len(await task) == 1440
