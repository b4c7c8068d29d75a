"""ccxt, unchanged but for its addresses, trades here as it does at the venue."""

import re
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from qmtl.engine.clock import SystemClock
from qmtl.services.paper_exchange.settings import MarketSettings
from tests.services.paper_exchange.conftest import Caller

ccxt: Any = pytest.importorskip("ccxt.async_support")
SYMBOL = "BTC/USDT:USDT"


@pytest.fixture
async def trader(start: Any) -> Caller:
    market = MarketSettings(seed=3, history=200)
    caller: Caller = await start(clock=SystemClock(), markets=(market,), balance=Decimal(2_000_000))
    return caller


@pytest.fixture
async def client(trader: Caller) -> AsyncIterator[Any]:
    exchange = ccxt.binanceusdm({"apiKey": "paper", "secret": "paper", "enableRateLimit": False})
    for name, url in exchange.urls["api"].items():
        if isinstance(url, str):
            exchange.urls["api"][name] = re.sub(r"^https://[^/]+", trader.urls["rest"], url)
    yield exchange
    await exchange.close()


async def test_markets_candles_and_book(client: Any, trader: Caller) -> None:
    markets = await client.load_markets()
    market = markets[SYMBOL]
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 0.001)
    assert market["limits"]["cost"]["min"] == 100
    bars = await client.fetch_ohlcv(SYMBOL, "1m", limit=50)
    own = trader.server.exchange.markets["BTCUSDT"].candles("1m", None, None, 50)
    assert bars == [
        [b.open_ms, b.open, b.high, b.low, b.close, pytest.approx(b.volume, abs=6e-4)] for b in own
    ]
    ticker, book = await client.fetch_ticker(SYMBOL), await client.fetch_order_book(SYMBOL)
    assert book["bids"][0][0] < ticker["last"] < book["asks"][0][0]
    assert len(await client.fetch_trades(SYMBOL, limit=20)) == 20
    assert (await client.fetch_funding_rate(SYMBOL))["fundingRate"] == 0


async def test_orders_positions_and_trades(client: Any) -> None:
    bought = await client.create_order(SYMBOL, "market", "buy", 0.05)
    assert (bought["status"], bought["filled"]) == ("closed", 0.05)
    [position] = await client.fetch_positions([SYMBOL])
    assert (position["side"], position["contracts"]) == ("long", 0.05)
    resting = await client.create_order(SYMBOL, "limit", "buy", 0.05, 40_000, {"postOnly": True})
    assert [o["id"] for o in await client.fetch_open_orders(SYMBOL)] == [resting["id"]]
    edited = await client.edit_order(resting["id"], SYMBOL, "limit", "buy", 0.06, 39_000)
    assert (edited["price"], edited["amount"]) == (39_000, 0.06)
    assert (await client.cancel_order(resting["id"], SYMBOL))["status"] == "canceled"
    closed = await client.create_order(SYMBOL, "market", "sell", 0.05, None, {"reduceOnly": True})
    assert closed["status"] == "closed"
    assert [t["side"] for t in await client.fetch_my_trades(SYMBOL)] == ["buy", "sell"]
    assert (await client.fetch_balance())["USDT"]["used"] == 0
    with pytest.raises(ccxt.ExchangeError, match="-2019"):
        await client.create_order(SYMBOL, "limit", "buy", 900, 60_000)
    with pytest.raises(ccxt.ExchangeError, match="-2022"):
        await client.create_order(SYMBOL, "market", "sell", 0.05, None, {"reduceOnly": True})


async def test_a_large_limit_fills_in_parts(client: Any, trader: Caller) -> None:
    exchange = trader.server.exchange
    lot = Decimal("0.001")
    share = exchange.config.liquidity.available(exchange.markets["BTCUSDT"].candle_volume, lot)
    assert share is not None
    await client.load_markets()
    order = await client.create_order(SYMBOL, "limit", "buy", float(share) + 2, 62_500)
    assert (order["status"], order["filled"]) == ("open", float(share))
    await client.cancel_order(order["id"], SYMBOL)
    done = await client.fetch_order(order["id"], SYMBOL)
    assert (done["status"], done["filled"]) == ("canceled", float(share))


async def test_conditional_orders_go_by_the_algo_service(client: Any) -> None:
    await client.create_order(SYMBOL, "market", "buy", 0.05)
    stop = await client.create_order(
        SYMBOL, "market", "sell", 0.05, None, {"stopLossPrice": 50_000, "reduceOnly": True}
    )
    [waiting] = await client.fetch_open_orders(SYMBOL, params={"trigger": True})
    assert (waiting["id"], waiting["triggerPrice"], waiting["reduceOnly"]) == (stop["id"], 50_000, True)
    await client.cancel_order(stop["id"], SYMBOL, {"trigger": True})
    assert await client.fetch_open_orders(SYMBOL, params={"trigger": True}) == []
    trailing = await client.create_order(
        SYMBOL, "market", "sell", 0.05, None, {"trailingPercent": 2, "reduceOnly": True}
    )
    assert trailing["status"] == "open"


async def test_settings(client: Any) -> None:
    await client.set_leverage(7, SYMBOL)
    assert (await client.fetch_leverage(SYMBOL))["longLeverage"] == 7
    await client.set_margin_mode("isolated", SYMBOL)
    await client.set_position_mode(True)
    assert (await client.fetch_position_mode(SYMBOL))["hedged"] is True
    assert (await client.fetch_trading_fee(SYMBOL))["taker"] == 0.0004


async def test_a_wrong_secret_is_refused(client: Any) -> None:
    client.secret = "wrong"
    with pytest.raises(ccxt.AuthenticationError):
        await client.fetch_balance()
