"""What the streams carry: the recorded candles, in the venue's shapes, and the account's own news."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qmtl.core.bar import Bar
from qmtl.engine.clock import ScaledClock, VirtualClock
from qmtl.services.paper_exchange.candles import load_candles
from qmtl.services.paper_exchange.settings import MarketSettings
from tests.services.paper_exchange.conftest import START_MS
from tests.services.paper_exchange.listening import PATIENCE_S, drained, hear

CANDLES = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"
CALM = (50_000.0, 50_010.0, 49_990.0, 50_000.0)


@pytest.mark.recorded
async def test_the_candle_stream_is_the_recorded_candles(start: Any, recorded_data: Path) -> None:
    path = recorded_data / CANDLES
    bars = load_candles(path)[5_000:5_060]
    clock = VirtualClock(bars[0].open_ms - 1)
    trader = await start(clock=clock, markets=(MarketSettings(candles=path),))
    async with trader.session.ws_connect(trader.urls["ws"] + "/market/ws/btcusdt@kline_1m") as socket:
        for _ in range(4 * len(bars)):
            await trader.server.step()
        messages = await hear(socket, 4 * len(bars))
    offsets = [m["E"] - m["k"]["t"] for m in messages]
    assert offsets == [0, 15_000, 30_000, 59_999] * len(bars)
    assert [m["k"]["x"] for m in messages] == [False, False, False, True] * len(bars)
    closed = [m["k"] for m in messages if m["k"]["x"]]
    assert [Bar(k["t"], *(float(k[c]) for c in "ohlcv")) for k in closed] == bars
    rows = (await trader.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=len(bars))).body
    assert [Bar(row[0], *(float(value) for value in row[1:6])) for row in rows] == bars


async def test_the_clock_publishes_at_its_speed(start: Any, candle_csv: Any) -> None:
    # Twenty seconds of candles: however late this listener comes, some are still ahead.
    clock = ScaledClock(START_MS - 1, 1_200)
    trader = await start(clock=clock, is_manual=False, markets=candle_csv(*[CALM] * 400))
    async with trader.session.ws_connect(trader.urls["ws"] + "/market/ws/btcusdt@kline_1m") as socket:
        heard = await hear(socket, 8)
    assert [m["k"]["x"] for m in heard].count(True) == 2
    assert clock.now_ms() >= heard[-1]["E"]


async def test_an_exchange_without_more_candles_keeps_serving(start: Any, candle_csv: Any) -> None:
    clock = ScaledClock(START_MS - 1, 12_000)
    trader = await start(clock=clock, is_manual=False, markets=candle_csv(*[CALM] * 3))
    async with asyncio.timeout(PATIENCE_S):
        while trader.server.exchange.next_ms is not None:
            await asyncio.sleep(0.01)
    assert (await trader.order(side="BUY", type="MARKET", quantity="0.1")).body["status"] == "FILLED"


async def test_longer_candles_are_made_of_minutes(start: Any, candle_csv: Any) -> None:
    candles = [(100.0 + n, 110.0 + n, 90.0 + n, 101.0 + n) for n in range(12)]
    trader = await start(markets=candle_csv(*candles))
    async with trader.session.ws_connect(trader.urls["ws"] + "/market/ws/btcusdt@kline_5m") as socket:
        while await trader.server.step():
            pass
        heard = [m["k"] for m in await hear(socket, 48)]
    closed = [k for k in heard if k["x"]]
    rows = (await trader.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="5m")).body
    assert [(k["t"], k["o"], k["h"], k["l"], k["c"]) for k in closed] == [tuple(r[:5]) for r in rows[:3]]
    assert all(k["T"] - k["t"] == 299_999 and k["t"] % 300_000 == 0 for k in heard)


async def test_combined_streams_and_subscriptions(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM, CALM))
    url = trader.urls["ws"] + "/market/stream?streams=btcusdt@kline_1m/btcusdt@markPrice@1s"
    async with trader.session.ws_connect(url) as socket:
        await trader.server.step()
        assert [m["stream"] for m in await hear(socket, 2)] == ["btcusdt@kline_1m", "btcusdt@markPrice@1s"]
        await socket.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1})
        await socket.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 2})
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 3})
        await socket.send_json({"method": "DANCE", "id": 4})
        await socket.send_str("no json")
        answers = await hear(socket, 5)
        assert answers[:2] == [{"result": None, "id": 1}, {"result": None, "id": 2}]
        assert answers[2] == {"result": ["btcusdt@markPrice@1s", "btcusdt@aggTrade"], "id": 3}
        assert "DANCE" in answers[3]["error"]["msg"]
        assert answers[4]["error"]["code"] == 2
        await trader.server.step()
        kinds = {m["stream"]: m["data"]["e"] for m in await hear(socket, 2)}
        assert kinds == {"btcusdt@aggTrade": "aggTrade", "btcusdt@markPrice@1s": "markPriceUpdate"}


async def test_each_path_carries_its_own_streams_since_2026(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM, CALM))
    names = [
        "btcusdt@kline_1m",
        "btcusdt@bookTicker",
        "btcusdt@depth@100ms",
        "btcusdt@ticker",
        "!miniTicker@arr",
    ]
    for path, expected in (
        ("/public", {"bookTicker", "depthUpdate"}),
        ("/market", {"kline", "24hrTicker", "24hrMiniTicker"}),
    ):
        async with trader.session.ws_connect(trader.urls["ws"] + path + "/ws") as socket:
            await socket.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
            await hear(socket, 1)
            await trader.server.step()
            heard = await drained(socket)
            assert {(m[0] if isinstance(m, list) else m)["e"] for m in heard} == expected


async def test_depth_differences_rebuild_the_book(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv((50_000.0, 50_020.0, 49_980.0, 50_003.0), volume=80.0))
    async with trader.session.ws_connect(trader.urls["ws"] + "/public/ws/btcusdt@depth@100ms") as socket:
        snapshot = (await trader.ask("/fapi/v1/depth", symbol="BTCUSDT", limit=20)).body
        book = {side: dict(snapshot[side]) for side in ("bids", "asks")}
        last = snapshot["lastUpdateId"]
        for _ in range(4):
            await trader.server.step()
        for change in await hear(socket, 4):
            assert change["pu"] == last
            last = change["u"]
            for side, key in (("bids", "b"), ("asks", "a")):
                book[side].update(change[key])
                book[side] = {price: size for price, size in book[side].items() if float(size)}
    now = (await trader.ask("/fapi/v1/depth", symbol="BTCUSDT", limit=20)).body
    assert book == {side: dict(now[side]) for side in ("bids", "asks")}
    assert float(now["bids"][0][0]) < 50_003 < float(now["asks"][0][0])


async def test_user_news_of_an_order_and_its_fills(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM, volume=2.0))
    key = await trader.listen_key()
    async with trader.session.ws_connect(trader.urls["ws"] + f"/private/ws/{key}") as socket:
        await trader.limit("BUY", 50_100, "0.7", newClientOrderId="u1")
        await trader.server.step()
        heard = await hear(socket, 7)
        kinds = [m["e"] for m in heard]
        fill = ["TRADE_LITE", "ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE"]
        assert kinds == ["ORDER_TRADE_UPDATE", *fill, *fill]
        orders = [m["o"] for m in heard if m["e"] == "ORDER_TRADE_UPDATE"]
        assert [(o["x"], o["X"], o["l"], o["z"]) for o in orders] == [
            ("NEW", "NEW", "0", "0"),
            ("TRADE", "PARTIALLY_FILLED", "0.5", "0.5"),
            ("TRADE", "FILLED", "0.2", "0.7"),
        ]
        assert [(o["m"], o["L"]) for o in orders[1:]] == [(False, "50000"), (True, "50100")]
        accounts = [m["a"] for m in heard if m["e"] == "ACCOUNT_UPDATE"]
        assert [a["P"][0]["pa"] for a in accounts] == ["0.5", "0.7"]
        wallet = (await trader.speak("GET", "/fapi/v3/balance")).body[0]["balance"]
        assert float(accounts[-1]["B"][0]["wb"]) == float(wallet)


async def test_only_the_wanted_events_of_a_listen_key(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    key = await trader.listen_key()
    url = trader.urls["ws"] + f"/private/stream?listenKey={key}&events=ACCOUNT_UPDATE"
    async with trader.session.ws_connect(url) as socket:
        await trader.order(side="BUY", type="MARKET", quantity="0.1")
        [message] = await drained(socket)
        assert (message["stream"], message["data"]["e"]) == (key, "ACCOUNT_UPDATE")


async def test_a_listen_key_lives_an_hour_of_exchange_time(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(*[CALM] * 130))
    key = await trader.listen_key()
    assert await trader.listen_key() == key
    async with trader.session.ws_connect(trader.urls["ws"] + f"/private/ws/{key}") as socket:
        for _ in range(4 * 50):
            await trader.server.step()
        assert (await trader._send("PUT", "/fapi/v1/listenKey", "", {})).body == {"listenKey": key}
        for _ in range(4 * 58):
            await trader.server.step()
        assert await drained(socket) == []
        for _ in range(4 * 4):
            await trader.server.step()
        [end] = await drained(socket)
        assert (end["e"], end["listenKey"]) == ("listenKeyExpired", key)
        await trader.order(side="BUY", type="MARKET", quantity="0.1")
        assert await drained(socket) == []
    assert (await trader._send("PUT", "/fapi/v1/listenKey", "", {})).body["code"] == -1125
    assert await trader.listen_key() != key


async def test_the_fault_plan_can_end_a_listen_key(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    key = await trader.listen_key()
    faults = [{"kind": "expire", "route": "ws user", "schedule": [1]}]
    await trader.session.post(trader.urls["rest"] + "/paper/faults", json=faults)
    async with trader.session.ws_connect(trader.urls["ws"] + f"/private/ws/{key}") as socket:
        await trader.limit("BUY", 40_000, "0.1")
        assert [m["e"] for m in await drained(socket)] == ["listenKeyExpired"]


async def test_the_server_pings_and_stops_cleanly(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM), ping_s=0.2)
    url = trader.urls["ws"] + "/market/ws/btcusdt@kline_1m"
    async with trader.session.ws_connect(url, autoping=False) as socket:
        assert (await socket.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.PING
        await socket.pong()
        stopping = asyncio.create_task(trader.server.stop())
        while (message := await socket.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.PING:
            pass
        assert message.type is aiohttp.WSMsgType.CLOSE
        await socket.close()
        await stopping
