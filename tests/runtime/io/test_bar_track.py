"""Bars in unbroken order and prices no faster than they are taken, whatever comes in."""

from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.bar import Bar
from qmtl.core.event import AnyEvent, BarClosed, FeedStateChanged, MarkPriceUpdated, PriceUpdated
from qmtl.runtime.io.bar_track import BarTrack
from qmtl.runtime.io.conflating_queue import ConflatingQueue

STEP = 60_000


def bar(number: int) -> Bar:
    return Bar(number * STEP, 1.0, 2.0, 0.5, 1.5, number)


def closed(number: int) -> BarClosed:
    return BarClosed(number * STEP + STEP - 1, "BTCUSDT", number * STEP, 1.0, 2.0, 0.5, 1.5, number)


def forming(number: int, volume: float = 0.1) -> PriceUpdated:
    return PriceUpdated(number * STEP + 1, "BTCUSDT", number * STEP, 1.0, 2.0, 0.5, 1.5, volume)


@given(
    stream=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80),
    delays=st.lists(st.integers(0, 5), min_size=1),
)
def test_any_stream_becomes_whole(stream: list[tuple[int, bool]], delays: list[int]) -> None:
    """Lost, repeated and swapped updates, and refills that take their time."""
    told: list[BarClosed | PriceUpdated] = []
    wanted: list[tuple[int, int]] = []
    track = BarTrack("BTCUSDT", STEP, told.append, lambda start, stop: wanted.append((start, stop)))
    track.last_open_ms = -STEP

    def fill() -> None:
        start, stop = wanted.pop(0)
        track.fill([bar(open_ms // STEP) for open_ms in range(start, stop, STEP)], stop_ms=stop)

    for turn, (number, is_closed) in enumerate(stream):
        track.take(closed(number) if is_closed else forming(number))
        if wanted and turn % (delays[turn % len(delays)] + 1) == 0:
            fill()
    while wanted:
        fill()
    opens = [event.open_ms for event in told if isinstance(event, BarClosed)]
    assert opens == list(range(0, len(opens) * STEP, STEP))
    newest = -STEP
    for event in told:
        assert event.open_ms == newest + STEP
        if isinstance(event, BarClosed):
            newest = event.open_ms
    assert not track.is_filling
    assert track.holes == 0
    reached = max((number for number, is_closed in stream if is_closed), default=-1)
    assert len(opens) >= reached + 1


def test_what_the_venue_does_not_have_is_a_counted_hole() -> None:
    told: list[BarClosed | PriceUpdated] = []
    track = BarTrack("BTCUSDT", STEP, told.append, lambda _start, _stop: None, last_open_ms=0)
    track.take(forming(5))
    track.fill([bar(1), bar(3)], stop_ms=5 * STEP)
    assert [event.open_ms // STEP for event in told] == [1, 3, 5]
    assert track.holes == 2


def test_a_newer_price_replaces_the_one_that_waits_and_overtakes_nothing() -> None:
    queue = ConflatingQueue()
    stale = FeedStateChanged(1, "user", False)
    mark = MarkPriceUpdated(1, "BTCUSDT", 1.0)
    for event in (forming(0, 1.0), mark, stale, forming(0, 2.0), closed(0), forming(1), mark):
        queue.put(event)
    taken: list[AnyEvent] = []

    async def drain() -> None:
        async for event in queue.drain():
            taken.append(event)
            if len(taken) == 4:
                queue.close()

    import asyncio

    asyncio.run(drain())
    assert taken == [stale, closed(0), forming(1), mark]
    assert queue.conflated == 3
