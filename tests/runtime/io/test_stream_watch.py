"""Staleness counts real time, whatever the exchange's clock runs at (trader.md §3 and §4)."""

import pytest

from qmtl.core.event import FeedStateChanged
from qmtl.engine.clock import VirtualClock
from qmtl.runtime.io.stream_watch import StreamWatch


@pytest.mark.parametrize(
    ("speed", "every_s", "limit_s"),
    [(1.0, 30.0, 90.0), (1.0, 0.25, 3.0), (10.0, 30.0, 9.0), (60.0, 30.0, 3.0), (600.0, 30.0, 3.0)],
)
async def test_three_intervals_of_exchange_time_but_never_under_3_real_seconds(
    speed: float, every_s: float, limit_s: float
) -> None:
    clock = VirtualClock(0, speed)
    told: list[FeedStateChanged] = []
    watch = StreamWatch(clock, told.append, clock.now_ms)
    watch.add("kline", every_s)
    watch.add("user", None)
    watch.start()
    watch.heard("kline")
    watch.heard("user")
    told.clear()
    await clock.advance(limit_s - 0.01)
    assert (watch.find_silent(), told) == ("", [])
    await clock.advance(0.02)
    assert "kline: no data for" in watch.find_silent()
    assert [(news.stream, news.is_fresh) for news in told] == [("kline", False)]
    # A new connection gets its own time before it is given up as well.
    await clock.advance(limit_s - 0.02)
    assert watch.find_silent() == ""
    watch.heard("kline", is_caught_up=False)
    assert len(told) == 1
    watch.heard("kline")
    assert told[-1].is_fresh
