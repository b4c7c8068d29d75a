"""When a connection is given up, to the second (connectors.md §4, §10.38)."""

import asyncio

import pytest

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.sdk.socket_watch import SocketWatch


async def watch_for(
    seconds: int,
    *,
    data_every: int = 0,
    pong_after: float | None = None,
    stall_timeout_s: float | None = None,
) -> tuple[str, float, list[float]]:
    """Run a watch of 30 s; return why and when it gave up, and when it pinged."""
    clock = VirtualClock()
    watch = SocketWatch(clock, timeout_s=30, stall_timeout_s=stall_timeout_s)
    pings: list[float] = []

    async def pong() -> None:
        await clock.sleep(pong_after or 0)
        watch.heard(is_data=False, is_pong=True)

    def ping() -> None:
        pings.append(clock.real_ms() / 1000)
        if pong_after is not None:
            answers.append(asyncio.create_task(pong()))

    answers: list[asyncio.Task[None]] = []
    ended: list[float] = []
    task = asyncio.create_task(watch.run(ping))
    task.add_done_callback(lambda _task: ended.append(clock.real_ms() / 1000))
    for second in range(1, seconds + 1):
        await clock.advance(1)
        if data_every and second % data_every == 0:
            watch.heard(is_data=True, is_pong=False)
    await clock.advance(0)
    why = task.result() if task.done() else ""
    task.cancel()
    return why, ended[0] if ended else 0.0, pings


async def test_38_a_dead_peer_is_noticed_after_twenty_seconds() -> None:
    assert await watch_for(60) == ("no pong within 10 s", 20.0, [10.0])


async def test_data_does_not_stand_for_a_pong() -> None:
    why, at_s, _ = await watch_for(60, data_every=3)
    assert (why, at_s) == ("no pong within 10 s", 20.0)


async def test_38_pongs_without_data_are_a_stall() -> None:
    why, at_s, _ = await watch_for(60, pong_after=0.1, stall_timeout_s=5)
    assert (why, at_s) == ("no data for 5 s", 5.0)
    why, at_s, _ = await watch_for(60, pong_after=0.1, data_every=4, stall_timeout_s=5)
    assert (why, at_s) == ("", 0.0)


@pytest.mark.parametrize("pong_after", [0.0, 3.0, 9.5])
async def test_pings_go_out_every_third_and_pongs_in_time_keep_the_connection(pong_after: float) -> None:
    why, _, pings = await watch_for(65, pong_after=pong_after)
    assert why == ""
    assert pings == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


async def test_a_late_pong_is_no_pong() -> None:
    why, at_s, _ = await watch_for(60, pong_after=10.5)
    assert (why, at_s) == ("no pong within 10 s", 20.0)
