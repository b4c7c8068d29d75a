"""Whatever the sockets do: bars without gap or repeat, fills without loss, silence noticed."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from qmtl.core.event import (
    AccountReconciled,
    BarClosed,
    ClockChecked,
    FeedStateChanged,
    MarkPriceUpdated,
    OrderFilled,
    PriceUpdated,
)
from qmtl.core.money import parse_decimal
from qmtl.core.order import OrderType, Side
from qmtl.engine.clock import ScaledClock, SeededRandom
from qmtl.runtime.io.binance_feed import USER_STREAM, BinanceFuturesFeed, FeedSettings
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig
from tests.runtime.io.conftest import MINUTE_MS, START_MS, Room

KLINE = "btcusdt@kline_1m"
MARK = "btcusdt@markPrice@1s"


def assert_whole(room: Room) -> None:
    """Every bar once, in order, and as the exchange states it."""
    bars = room.bars()
    opens = [bar.open_ms for bar in bars]
    assert opens == list(range(opens[0], opens[-1] + 1, MINUTE_MS))
    market = room.paper.exchange.markets["BTCUSDT"]
    stated = {bar.open_ms: bar for bar in market.candles("1m", opens[0], opens[-1], len(opens))}
    for bar in bars:
        want = stated[bar.open_ms]
        assert (bar.open, bar.high, bar.low, bar.close) == (want.open, want.high, want.low, want.close)


async def test_warm_up_then_live_without_a_seam(room: Room) -> None:
    feed = await room.listen(warmup=50)
    await room.step_until(lambda: sum(not bar.warmup for bar in room.bars()) >= 3)
    bars = room.bars()
    assert [bar.warmup for bar in bars[:50]] == [True] * 50
    assert not any(bar.warmup or bar.refilled for bar in bars[50:])
    assert_whole(room)
    assert room.of(PriceUpdated)
    assert room.of(MarkPriceUpdated)
    assert room.stale(feed) == []
    assert feed.mapper.unknown == {}


@pytest.mark.parametrize("gap", [1, 2, 59, 500])
async def test_a_gap_is_refilled_before_newer_bars(room: Room, gap: int) -> None:
    await room.listen(warmup=5)
    await room.step_until(lambda: sum(not bar.warmup for bar in room.bars()) >= 2)
    room.paper.exchange.hub.disconnect()
    for _ in range(gap * 4):
        room.paper.exchange.publish_next()
    seen = len(room.bars())
    await room.step_until(lambda: len(room.bars()) >= seen + gap + 2)
    assert_whole(room)
    refilled = [bar for bar in room.bars() if bar.refilled]
    assert gap - 1 <= len(refilled) <= gap + 4
    stale = [event for event in room.of(FeedStateChanged) if event.stream == KLINE]
    assert [event.is_fresh for event in stale] == [False, True, False, True]
    # Entries come back only after the catch-up.
    assert room.events.index(stale[-1]) > room.events.index(refilled[-1])


async def test_a_restart_brings_what_the_journal_missed(room: Room) -> None:
    await room.step(400)
    now_ms = room.clock.now_ms()
    last = now_ms // MINUTE_MS * MINUTE_MS - 60 * MINUTE_MS
    await room.listen(warmup=5, last_open_ms={"BTCUSDT": last})
    await room.step_until(lambda: len(room.bars()) >= 62)
    bars = room.bars()
    assert bars[0].open_ms == last + MINUTE_MS
    assert bars[0].refilled
    assert not any(bar.warmup for bar in bars)
    assert_whole(room)


@pytest.mark.parametrize("kind", [FaultKind.OMIT, FaultKind.DUPLICATE, FaultKind.REORDER, FaultKind.CLOSE])
async def test_a_faulty_stream_tells_whole_bars(room: Room, kind: FaultKind) -> None:
    await room.listen(warmup=5)
    await room.step_until(lambda: sum(not bar.warmup for bar in room.bars()) >= 1)
    rule = room.fault(kind, f"ws {KLINE}", chance=0.1)
    await room.step_until(lambda: len(room.bars()) >= 45 and rule.hits >= 3, limit=2000)
    assert_whole(room)


def silences(room: Room) -> list[FeedStateChanged]:
    return [event for event in room.of(FeedStateChanged) if "no data" in event.reason]


async def test_silence_with_pongs_alive_is_noticed(room: Room) -> None:
    feed = await room.listen(warmup=2, mark_every_s=10.0)
    await room.step_until(lambda: room.stale(feed) == [])
    # Manual time: nothing more comes until the next step, while pings are answered.
    # Wait for the event itself: on a slow machine a first reconnect may come before the stream was fresh.
    await room.until(lambda: silences(room))
    first = silences(room)[0]
    assert (first.stream, first.is_fresh) == (MARK, False)
    await room.until(lambda: feed.reconnects["market"] >= 1)
    await room.step_until(lambda: room.stale(feed) == [])
    assert_whole(room)


async def test_an_expired_listen_key_loses_no_fill(room: Room) -> None:
    feed = await room.listen()
    await room.step_until(lambda: room.stale(feed) == [])
    key = room.paper.exchange.listen_keys.find("paper", "futures")
    assert key is not None
    await room.venue.submit(room.make_order("q-before"))
    await room.until(lambda: len(room.of(OrderFilled)) == 1)
    room.paper.exchange.expire_key(key.name)
    # The stream is dead and the trade happens before the new one stands.
    await room.venue.submit(room.make_order("q-between"))
    await room.until(
        lambda: {fill.client_order_id for fill in room.of(OrderFilled)} == {"q-before", "q-between"}
    )
    await room.until(lambda: USER_STREAM not in room.stale(feed))
    changes = [event.is_fresh for event in room.of(FeedStateChanged) if event.stream == USER_STREAM]
    assert changes == [False, True, False, True]
    reconciled = room.of(AccountReconciled)
    assert reconciled[-1].positions[0].quantity == 2 * room.orders[0].intent.quantity
    last = max(room.events.index(fill) for fill in room.of(OrderFilled))
    assert last < room.events.index(reconciled[-1])


async def test_listen_keys_are_renewed_and_made_anew_when_gone(room: Room) -> None:
    rule = room.fault(FaultKind.DELAY, "PUT /fapi/v1/listenKey", seconds=0.0)
    feed = await room.listen(renew_key_s=5.0)
    await room.until(lambda: rule.hits >= 3)
    key = room.paper.exchange.listen_keys.find("paper", "futures")
    assert key is not None
    room.paper.exchange.listen_keys.pop(key.name)
    await room.until(lambda: feed.reconnects[USER_STREAM] >= 1)
    await room.until(lambda: USER_STREAM not in room.stale(feed))
    await room.venue.submit(room.make_order("q-after"))
    await room.step_until(lambda: room.of(OrderFilled))


async def test_the_stream_and_the_answer_agree_on_a_triggered_stop(room: Room) -> None:
    await room.listen()
    await room.step(2)
    await room.venue.submit(room.make_order("q-entry"))
    price = room.paper.exchange.markets["BTCUSDT"].last_price
    stop = parse_decimal(round(price * 0.9995, 1), "stop_price")
    kind = OrderType.STOP_MARKET
    await room.venue.submit(
        room.make_order("q-stop", Side.SELL, "0.01", type=kind, stop_price=stop, close_position=True)
    )
    await room.step_until(
        lambda: {fill.client_order_id for fill in room.of(OrderFilled)} == {"q-entry", "q-stop"}, limit=3000
    )


async def test_backlogged_prices_are_conflated_and_counted(room: Room) -> None:
    feed = await room.listen(warmup=2)
    await room.step_until(lambda: room.stale(feed) == [])
    room.events.clear()
    for _ in range(400):
        room.paper.exchange.publish_next()
    await room.until(lambda: len(room.bars()) >= 99)
    assert feed.conflated > 100
    assert_whole(room)


async def test_old_hosts_serve_every_stream_under_one_roof(room: Room) -> None:
    def make(*, is_split: bool) -> BinanceFuturesFeed:
        settings = FeedSettings(symbols=("BTCUSDT", "ETHUSDT"), has_marks=is_split, is_split=is_split)
        return BinanceFuturesFeed(room.client, settings, ws_url="wss://venue.example/")

    old, new = make(is_split=False), make(is_split=True)
    assert await old._market_url() == "wss://venue.example/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m"
    assert await new._market_url() == (
        "wss://venue.example/market/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m"
        "/btcusdt@markPrice@1s/ethusdt@markPrice@1s"
    )
    key = await room.client.new_listen_key()
    assert await old._user_url() == f"wss://venue.example/ws/{key}"
    assert await new._user_url() == f"wss://venue.example/private/ws?listenKey={key}"


async def test_a_wrong_clock_is_told_until_it_is_right(room: Room) -> None:
    await room.listen(clock_every_s=2.0)
    await room.until(lambda: room.of(ClockChecked))
    assert abs(room.of(ClockChecked)[0].offset_ms) < 1000
    room.fault(FaultKind.SKEW, "*", seconds=60.0)
    await room.until(lambda: room.of(ClockChecked)[-1].offset_ms == pytest.approx(-60_000, abs=100))
    # Signed calls go on: their stamps follow the venue's clock.
    assert await room.client.balances()
    room.paper.exchange.faults.clear()
    await room.until(lambda: abs(room.of(ClockChecked)[-1].offset_ms) < 1000)


async def test_closing_ends_the_iterator(room: Room) -> None:
    feed = await room.listen()
    await feed.aclose()
    before = len(room.events)
    await room.step(8)
    await asyncio.sleep(0.02)
    assert len(room.events) == before


@pytest.mark.soak
async def test_listen_keys_are_renewed_all_day(count: Callable[[int, int], int]) -> None:
    # A key lives three seconds of the machine's: it must not lose one by being busy for half of one.
    hours, speed = count(2, 24), 1200.0
    clock = ScaledClock(START_MS, speed)
    paper = PaperExchange(PaperExchangeConfig(), clock)
    urls = await paper.start()
    renewals = FaultRule(kind=FaultKind.DELAY, route="PUT /fapi/v1/listenKey")
    paper.exchange.faults.add(renewals)
    client = BinanceFuturesClient("paper", "paper", urls["rest"], clock=clock, random=SeededRandom(1))
    venue = BinanceFuturesVenue(client, ["BTCUSDT"])
    feed = BinanceFuturesFeed(
        client,
        FeedSettings(symbols=("BTCUSDT",)),
        ws_url=urls["ws"],
        venue=venue,
        reconcile=lambda since_ms: venue.reconcile(since_ms, ()),
    )
    end_ms = START_MS + hours * 3_600_000
    bars = []
    async for event in feed.events():
        if isinstance(event, BarClosed):
            bars.append(event.open_ms)
        if event.ts_ms >= end_ms:
            break
    await feed.aclose()
    await venue.aclose()
    await paper.stop()
    # A key lives an hour: three renewals in each keep it, and it never had to be made anew.
    assert renewals.hits >= 3 * hours - 2
    assert feed.reconnects[USER_STREAM] == 0
    assert bars == list(range(bars[0], bars[-1] + 1, MINUTE_MS))


@pytest.mark.recorded
async def test_refilled_bars_are_the_recorded_bars(recorded_file: Callable[[str], Path]) -> None:
    path = recorded_file("candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather")
    place = Room()
    first_ms = 1_746_403_200_000
    place.exchange_clock.set_now_ms(first_ms)
    await place.open(markets=(MarketSettings(candles=path, history=100),))
    try:
        await place.listen(warmup=20)
        await place.step_until(lambda: len(place.bars()) >= 25)
        place.paper.exchange.hub.disconnect()
        for _ in range(31 * 4):
            place.paper.exchange.publish_next()
        await place.step_until(lambda: len(place.bars()) >= 60)
        recorded = pl.read_ipc(path)
        opens = recorded["date"].dt.epoch("ms").to_list()
        rows = dict(zip(opens, recorded.select("open", "high", "low", "close", "volume").rows(), strict=True))
        for bar in place.bars():
            assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == pytest.approx(rows[bar.open_ms])
        assert_whole(place)
    finally:
        await place.close()
