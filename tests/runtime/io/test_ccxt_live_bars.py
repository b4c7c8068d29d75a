"""Seamless §5: live bars through real ccxt.pro from the paper exchange."""

import asyncio
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from qmtl.core.event import BarClosed
from qmtl.engine.clock import VirtualClock
from qmtl.runtime.io.ccxt_live_feed import CcxtProConfig, CcxtProLiveFeed
from qmtl.runtime.sdk.history import FatalFetchError, InvalidPayloadError
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.history_rig import configure
from tests.runtime.io.live_rig import BARS, KLINES, START_MS, Live, live

__all__ = ["configure", "live"]
FIRST = START_MS // 1000


async def start(place: Live, **fields: Any) -> None:
    """Subscribe, and let the first minute begin."""
    place.listen(place.make(**fields))
    await place.until(place.is_heard)
    await place.pass_time(1.0)


def assert_whole(place: Live) -> None:
    """Every bar from the first on was given once, in order, as the exchange has it."""
    rows = place.closed()
    assert [row[0] for row in rows] == [FIRST + 60 * n for n in range(len(rows))]
    assert rows == place.truth(FIRST, rows[-1][0])


async def test_bars_close_when_a_later_one_arrives_and_only_then_are_given(live: Live) -> None:
    await start(live)
    await live.pass_time(58.0)
    assert live.items == []
    await live.pass_until(lambda: len(live.closed()) >= 3)
    assert_whole(live)
    _, last_ts, frame = live.items[0]
    assert (last_ts, frame.columns, str(frame["closed"].dtype)) == (
        FIRST,
        ["ts", "open", "high", "low", "close", "volume", "closed"],
        "Boolean",
    )


async def test_17_a_stall_with_pongs_is_noticed_and_nothing_is_missing(live: Live) -> None:
    await start(live)
    await live.pass_until(lambda: len(live.closed()) >= 1)
    stalled = live.fault(FaultKind.STALL, KLINES, seconds=60, times=1)
    await live.pass_until(lambda: stalled.hits, step_s=0.5)
    began_s = live.clock.real_ms() / 1000
    await live.pass_until(lambda: live.dropped_s, step_s=0.5)
    assert live.dropped_s[0] - began_s <= 15.0
    await live.pass_until(lambda: len(live.closed()) >= 5)
    assert_whole(live)


@pytest.mark.parametrize("kind", [FaultKind.CLOSE, FaultKind.OMIT])
async def test_a_break_is_filled_before_newer_bars(live: Live, kind: FaultKind) -> None:
    await start(live)
    await live.pass_until(lambda: len(live.closed()) >= 1)
    # Two minutes of messages lost without a word, or the connection with each of the next three.
    live.fault(kind, KLINES, schedule=[1, 2, 3] if kind is FaultKind.CLOSE else list(range(2, 11)))
    await live.pass_until(lambda: len(live.closed()) >= 5)
    assert_whole(live)


async def test_messages_twice_and_out_of_order_change_nothing(live: Live) -> None:
    await start(live)
    live.fault(FaultKind.DUPLICATE, KLINES, chance=0.5)
    live.fault(FaultKind.REORDER, KLINES, chance=0.3)
    await live.pass_until(lambda: len(live.closed()) >= 5)
    # What two messages that changed places left behind is given again as the exchange has it.
    last = {row[0]: row for row in live.closed()}
    rows = [last[ts] for ts in sorted(last)]
    await live.pass_time(10)
    assert rows[:-1] == live.truth(FIRST, rows[-1][0])[:-1]


async def test_a_closed_bar_that_rest_knows_otherwise_is_given_again(live: Live) -> None:
    await start(live)
    await live.pass_until(lambda: len(live.closed()) >= 1)
    bars = live.market.bars
    bars[-1] = msgspec.structs.replace(bars[-1], volume=bars[-1].volume + 5)
    await live.pass_until(lambda: len(live.closed()) >= 3)
    first, second = live.closed()[:2]
    assert (second[0], second[5]) == (first[0], first[5] + 5)
    assert live.closed()[1:] == live.truth(FIRST, live.closed()[-1][0])
    live.items.clear()
    await live.pass_until(lambda: len(live.closed()) >= 3)
    assert [row[0] - live.closed()[0][0] for row in live.closed()] == [0, 60, 120]


async def test_bars_close_by_the_clock_when_nothing_more_comes(live: Live) -> None:
    await start(live, stall_timeout_s=50)
    await live.pass_until(lambda: len(live.closed()) >= 1)
    given = len(live.closed())
    opened = live.closed()[-1][0] + 60
    end_s = (opened + 60) * 1000 - START_MS
    await live.pass_until(lambda: live.clock.real_ms() >= end_s - 3_000, step_s=1.0)
    live.fault(FaultKind.OMIT, KLINES)
    await live.pass_until(lambda: len(live.closed()) > given, step_s=1.0)
    when_s = next(when for when, ts, _ in live.items if ts == opened)
    assert end_s / 1000 + 2 <= when_s <= end_s / 1000 + 12


async def test_forming_bars_come_only_when_asked_for(live: Live) -> None:
    await start(live, emit_building_candle=True)
    await live.pass_until(lambda: len(live.closed()) >= 2)
    rows = [row for _, _, frame in live.items for row in frame.rows()]
    forming = [row for row in rows if not row[6]]
    assert len(forming) >= 4
    assert_whole(live)
    latest: dict[int, bool] = {}
    for row in rows:
        # A closed row replaces a forming one and is never followed by one.
        assert not latest.get(row[0], False)
        latest[row[0]] = row[6]


async def test_a_slow_reader_loses_the_oldest_rows_and_gets_them_by_rest(live: Live) -> None:
    feed = live.make(buffer_rows=3)
    items = feed.subscribe(BARS, 60)
    first = asyncio.ensure_future(anext(items))
    await live.until(live.is_heard)
    await live.pass_until(first.done)
    seen = [row for row in first.result()[1].rows() if row[6]]
    # Nobody reads for ten minutes: forty rows for a buffer of three.
    await live.pass_time(600, 2.0)

    async def drain() -> None:
        async for _, frame in items:
            seen.extend(row for row in frame.rows() if row[6])

    live.tasks.append(asyncio.create_task(drain()))
    await live.pass_until(lambda: len(seen) >= 13)
    rows = [row[:6] for row in seen]
    assert rows == live.truth(FIRST, rows[-1][0])


async def test_18_a_refusing_server_is_dialled_at_most_20_times_in_5_minutes(live: Live) -> None:
    await start(live)
    await live.pass_until(lambda: len(live.closed()) >= 1)
    port = int(live.urls["rest"].rpartition(":")[2])
    await live.server.stop()
    dialled = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        await reader.readline()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", port):
        for _ in range(300):
            await live.clock.advance(1.0)
            await asyncio.sleep(0.01)
        live.raise_failures()
        assert 5 <= dialled <= 20
        await live.feed.aclose()


async def test_a_series_ends_when_it_is_unsubscribed(live: Live) -> None:
    await start(live)
    feed = live.feed
    assert await feed.is_live_available(BARS, 60)
    for node_id, interval in ((BARS, 300), ("ohlcv:okx:BTC/USDT:1m", 60), ("trades:binance:BTC/USDT", 60)):
        assert not await feed.is_live_available(node_id, interval)
        with pytest.raises(NodeIdError):
            feed.subscribe(node_id, interval)
    await feed.unsubscribe(BARS, 60)
    await live.until(live.tasks[0].done)
    assert live.tasks[0].result() is None
    assert (feed.endpoint, feed.environment) == (live.urls["rest"], "test")
    # And it can begin again.
    live.listen(feed)
    await live.pass_until(lambda: len(live.closed()) >= 1)


async def test_a_symbol_that_does_not_exist_is_an_error_of_the_iteration(live: Live) -> None:
    feed = live.make(symbols=None)
    with pytest.raises(FatalFetchError, match="BadSymbol"):
        await asyncio.wait_for(anext(feed.subscribe("ohlcv:binance:NOPE/USDT:1m", 60)), 60)


async def test_closed_bars_are_events_of_the_engine(live: Live) -> None:
    feed = live.make(timeframe="1m")
    events: list[BarClosed] = []

    async def drain() -> None:
        async for event in feed.events():
            events.append(event)  # noqa: PERF401 - they are looked at while they come

    live.tasks.append(asyncio.create_task(drain()))
    await live.until(live.is_heard)
    await live.pass_until(lambda: len(events) >= 2)
    assert [(event.symbol, event.open_ms, event.ts_ms) for event in events[:2]] == [
        ("BTC/USDT", (FIRST + 60 * n) * 1000, (FIRST + 60 * (n + 1)) * 1000) for n in range(2)
    ]
    with pytest.raises(ValueError, match="events need"):
        await anext(live.make(mode="trades").events())
    live.feed = feed


async def test_a_second_subscription_is_not_given_what_the_first_left(live: Live) -> None:
    await start(live)
    await live.pass_until(lambda: len(live.closed()) >= 2)
    await live.pass_time(20.0, 1.0)
    live.tasks.pop().cancel()
    await live.pass_time(1.0)
    # The connection goes while nobody reads: what ccxt's cache holds of this minute stays half a minute old.
    for hub in live.exchange.hubs:
        hub.disconnect()
    await live.pass_time(150.0, 1.0)
    live.items.clear()
    live.listen(live.feed)
    await live.pass_until(lambda: len(live.closed()) >= 3)
    rows = live.closed()
    assert rows == live.truth(rows[0][0], rows[-1][0])
    assert rows[0][0] >= FIRST + 60 * 4


async def test_an_exchange_without_caches_or_rest_is_taken_at_its_word() -> None:
    clock = VirtualClock(START_MS)
    told: asyncio.Queue[list[list[float]]] = asyncio.Queue()

    class Plain:
        async def watch_ohlcv(self, symbol: str, timeframe: str) -> list[list[float]]:
            return await told.get()

    feed = CcxtProLiveFeed(CcxtProConfig(exchange="binance"), exchange=Plain(), clock=clock)
    assert (feed.endpoint, feed.environment) == (None, None)
    assert await feed.is_live_available(BARS, 60)
    items = feed.subscribe(BARS, 60)
    first_ms = FIRST * 1000
    told.put_nowait([[first_ms, 1.0, 2.0, 0.5, 1.5, 3.0]])
    told.put_nowait([[first_ms, 1.0, 2.5, 0.5, 1.5, 4.0], [first_ms + 60_000, 1.5, 2.0, 1.0, 1.5, 1.0]])
    last_ts, frame = await asyncio.wait_for(anext(items), 60)
    assert (last_ts, frame.rows()) == (FIRST, [(FIRST, 1.0, 2.5, 0.5, 1.5, 4.0, True)])
    await items.aclose()
    await feed.aclose()


async def test_first_reconnects_wait_as_listed(live: Live) -> None:
    live.fault(FaultKind.CLOSE, KLINES, schedule=[1, 2, 3])
    with capture_logs() as logs:
        live.listen(live.make(reconnect_backoff_ms=[150, 250], reconnect_backoff_s=4.0))
        await live.until(live.is_heard)
        await live.pass_until(lambda: len(live.closed()) >= 2)
    delays = [entry["delay_s"] for entry in logs if entry["event"] == "seamless.live.broken"]
    assert delays[:2] == [0.15, 0.25]
    # The third is Reconnect's: 4 s doubled twice, jittered.
    assert 8 <= delays[2] <= 16


@pytest.mark.parametrize("row", [[FIRST * 1000, 1.0, None, 0.5, 1.5, 3.0], [FIRST * 1000, 1.0], ["x"] * 6])
async def test_a_malformed_row_of_the_stream_is_an_invalid_payload(row: list[Any]) -> None:
    class Plain:
        async def watch_ohlcv(self, symbol: str, timeframe: str) -> list[list[Any]]:
            return [row]

    feed = CcxtProLiveFeed(CcxtProConfig(exchange="binance"), exchange=Plain(), clock=VirtualClock(START_MS))
    with pytest.raises(InvalidPayloadError, match="row 0 is malformed"):
        await asyncio.wait_for(anext(feed.subscribe(BARS, 60)), 60)
    await feed.aclose()
