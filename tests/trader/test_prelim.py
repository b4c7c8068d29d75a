"""Prelim against the paper exchange, by both its faces."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from qmtl.core.bar import find_fault
from qmtl.engine.clock import SeededRandom, SystemClock
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_orders import OrderRequest
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import PaperExchangeConfig
from qmtl.trader.prelim import ClockOffsetError, Prelim, SetupRefusedError
from tests.trader.candles import MINUTE_MS


@asynccontextmanager
async def venue(symbol: str = "BTCUSDT", **config: Any) -> AsyncIterator[tuple[PaperExchange, Prelim]]:
    clock = SystemClock()
    exchange = PaperExchange(PaperExchangeConfig(**config), clock)
    urls = await exchange.start()
    client = BinanceFuturesClient("paper", "paper", urls["rest"], clock=clock, random=SeededRandom(1))
    try:
        yield exchange, Prelim(client, symbol, ws_url=urls["ws"])
    finally:
        await client.aclose()
        await exchange.stop()


async def buy(prelim: Prelim, quantity: str) -> None:
    params = {"symbol": prelim.symbol, "side": "BUY", "type": "MARKET", "quantity": quantity}
    await prelim.client.post(OrderRequest("/fapi/v1/order", "order.place", params))


async def test_account_is_wallet_available_position_and_entry() -> None:
    async with venue() as (_, prelim):
        assert await prelim.getInfo_account_async() == (10_000.0, 10_000.0, 0.0, 0.0)
        await buy(prelim, "0.010")
        wallet, available, amount, entry = await prelim.getInfo_account_async()
        assert wallet < 10_000.0
        assert available < wallet
        assert amount == 0.01
        assert 30_000 < entry < 120_000


async def test_candles_are_closed_contiguous_and_paged() -> None:
    async with venue() as (_, prelim):
        frame = await prelim.getData_OHLCV_async("1m", limit=2_000)
        assert list(frame.columns[:7]) == [
            *("startTime", "closeTime", "open", "high", "low", "close", "volume"),
        ]
        assert len(frame) == 2_000
        assert (frame["startTime"].diff().dropna() == MINUTE_MS).all()
        assert (frame["closeTime"] - frame["startTime"] == MINUTE_MS - 1).all()
        assert frame["closeTime"].iloc[-1] < prelim.client.now_ms()
        bars = await prelim.load_bars("1m", 2_000)
        assert find_fault(bars, MINUTE_MS) is None
        first, last = int(frame["startTime"][100]), int(frame["startTime"][109])
        part = await prelim.getData_OHLCV_async("1m", startTime=first, endTime=last)
        assert list(part["startTime"]) == list(range(first, last + 1, MINUTE_MS))


async def test_streams_are_named_as_the_venue_names_them() -> None:
    async with venue() as (_, prelim):
        keys = (
            "markPrice1s",
            "markPrice3s",
            "kline1m",
            "kline3m",
            "kline5m",
            "kline15m",
            "kline30m",
            "kline1h",
        )
        streams = await prelim.getInfo_streams_async("BTC/USDT", *keys, "aggTrade", "userData")
        key = streams.pop("userData")
        assert streams == {
            "markPrice1s": "btcusdt@markPrice@1s",
            "markPrice3s": "btcusdt@markPrice",
            **{f"kline{i}": f"btcusdt@kline_{i}" for i in ("1m", "3m", "5m", "15m", "30m", "1h")},
            "aggTrade": "btcusdt@aggTrade",
        }
        assert len(key) > 10
        assert (await prelim.getInfo_streams_async("BTCUSDT", "userData"))["userData"] == key
        root = prelim.getInfo_streamURL().partition("/market")[0]
        url = prelim.getInfo_streamURL("btcusdt@kline_1m", "btcusdt@markPrice@1s")
        assert url == f"{root}/market/stream?streams=btcusdt@kline_1m/btcusdt@markPrice@1s"
        assert prelim.getInfo_streamURL(key) == f"{root}/private/stream?streams={key}"
        assert prelim.getInfo_streamURL(key, "a@b") == f"{root}/stream?streams={key}/a@b"
        with pytest.raises(ValueError, match=r"'kline2m' is not known; allowed: markPrice1s, .*, userData$"):
            await prelim.getInfo_streams_async("BTCUSDT", "kline1m", "kline2m")


async def test_the_url_of_a_stream_serves_it() -> None:
    async with venue(is_manual=True) as (exchange, prelim):
        streams = await prelim.getInfo_streams_async("BTCUSDT", "kline1m")
        async with prelim.client.session.ws_connect(prelim.getInfo_streamURL(*streams.values())) as socket:
            await exchange.step()
            message = await asyncio.wait_for(socket.receive_json(), 60)
    assert message["stream"] == "btcusdt@kline_1m"
    assert message["data"]["e"] == "kline"


async def test_listen_keys_are_opened_renewed_and_closed() -> None:
    async with venue() as (_, prelim):
        key = await prelim.new_listenKey_async()
        assert prelim.listenKey == key
        await prelim.renew_listenKey_async()
        await prelim.close_listenKey_async()
        assert prelim.listenKey is None


async def test_the_synchronous_face_gives_the_same() -> None:
    async with venue() as (_, other):
        base = str(other.client.base_url)

        def speak() -> tuple[Any, ...]:
            client = BinanceFuturesClient("paper", "paper", base, clock=SystemClock(), random=SeededRandom(2))
            prelim = Prelim(client)
            try:
                trade = prelim.getInfo_trade("btcusdt", "kline1m", "userData")
                frame = prelim.getData_OHLCV("1m", limit=50)
                prelim.renew_listenKey()
                key = prelim.new_listenKey()
                streams = prelim.getInfo_streams("btcusdt", "userData")
                checked = prelim.check()
                prelim.close_listenKey()
                return trade, frame, key, streams, checked, prelim.getInfo_account()
            finally:
                prelim.close()

        trade, frame, key, streams, checked, account = await asyncio.to_thread(speak)
        assert trade[:4] == account == (10_000.0, 10_000.0, 0.0, 0.0)
        assert trade[4]["kline1m"] == "btcusdt@kline_1m"
        assert streams == {"userData": key}
        assert len(frame) == 50
        assert (checked.leverage, checked.is_hedge, checked.can_withdraw) == (1, False, False)


async def test_checks_name_what_does_not_fit_and_cancel_nothing() -> None:
    async with venue(can_withdraw=True) as (_, prelim):
        params = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC"}
        params |= {"quantity": "0.010", "price": "20000"}
        await prelim.client.post(OrderRequest("/fapi/v1/order", "order.place", params))
        checked = await prelim.check_market_async()
        assert checked.instrument.tick_size == Decimal("0.1")
        assert abs(checked.clock_offset_ms) < 500
        with pytest.raises(SetupRefusedError, match="the API key may withdraw"):
            await prelim.check_account_async(checked)
        with pytest.raises(
            SetupRefusedError, match=r"position_mode: the venue has one_way, the settings hedge"
        ):
            await prelim.check_account_async(checked, is_hedge=True, refuses_withdrawal=False)
        found = await prelim.check_account_async(checked, refuses_withdrawal=False)
        assert found.can_withdraw
        assert len(await prelim.client.open_orders()) == 1
    async with venue("NOPEUSDT") as (_, prelim):
        with pytest.raises(SetupRefusedError, match=r"symbol NOPEUSDT is not listed at 127\.0\.0\.1"):
            await prelim.check_market_async()


async def test_a_clock_off_by_a_minute_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() - 60_000

    async with venue() as (_, prelim):
        prelim.client.clock = Late()
        with pytest.raises(ClockOffsetError, match=r"^our clock is -60\.0 s off the venue's; .*$"):
            await prelim.check_market_async()
