"""The spot venue over its wires: REST, streams, user events by listenKey and by subscription."""

from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from qmtl.services.paper_exchange.auth import sign
from qmtl.services.paper_exchange.settings import MarketSettings
from tests.services.paper_exchange.conftest import START_MS, Caller, Start
from tests.services.paper_exchange.listening import PATIENCE_S

WHOLE = (50_000.0, 50_500.0, 49_500.0, 50_100.0)


async def open_market(start: Start, candle_csv: Any) -> Caller:
    markets: tuple[MarketSettings, ...] = candle_csv(*([WHOLE] * 20), volume=4.0)
    caller: Caller = await start(markets=markets)
    return caller


async def buy(caller: Caller, **params: Any) -> Any:
    given = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": 0.1, **params}
    return (await caller.speak("POST", "/api/v3/order", **given)).body


async def test_a_buy_moves_both_balances_and_is_remembered(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    placed = await buy(caller, newClientOrderId="mine")
    assert (placed["status"], placed["executedQty"]) == ("FILLED", "0.10000000")
    [fill] = placed["fills"]
    assert (fill["price"], fill["commission"], fill["commissionAsset"]) == (
        "50000.00000000",
        "0.00004000",
        "BTC",
    )
    account = (await caller.speak("GET", "/api/v3/account")).body
    held = {row["asset"]: Decimal(row["free"]) for row in account["balances"]}
    assert held == {"BTC": Decimal("0.09996"), "USDT": Decimal(95_000)}
    trades = (await caller.speak("GET", "/api/v3/myTrades", symbol="BTCUSDT")).body
    assert [(row["qty"], row["quoteQty"]) for row in trades] == [("0.10000000", "5000.00000000")]
    asked = (await caller.speak("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="mine")).body
    assert (asked["orderId"], asked["cummulativeQuoteQty"]) == (placed["orderId"], "5000.00000000")
    everything = (await caller.speak("GET", "/api/v3/allOrders", symbol="BTCUSDT")).body
    assert everything == [asked]


async def test_spending_an_amount_buys_whole_lots_of_it(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    body = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quoteOrderQty": 1234.56}
    placed = (await caller.speak("POST", "/api/v3/order", **body)).body
    assert (placed["status"], placed["executedQty"]) == ("FILLED", "0.02469000")
    assert placed["origQuoteOrderQty"] == "1234.56000000"


async def test_resting_orders_lock_and_cancel_together(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    for price in (40_000, 41_000):
        await buy(caller, type="LIMIT", timeInForce="GTC", price=price)
    account = (await caller.speak("GET", "/api/v3/account")).body
    assert {row["asset"]: row["locked"] for row in account["balances"]}["USDT"] == "8100.00000000"
    assert len((await caller.speak("GET", "/api/v3/openOrders")).body) == 2
    gone = (await caller.speak("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")).body
    assert [row["status"] for row in gone] == ["CANCELED", "CANCELED"]
    none = await caller.speak("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")
    assert (none.status, none.body["code"]) == (400, -2011)


async def test_market_streams_follow_the_candles(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    names = [f"btcusdt@{name}" for name in ("kline_1m", "trade", "aggTrade", "bookTicker", "depth5")]
    combined = await caller.session.ws_connect(f"{caller.urls['ws']}/stream?streams={'/'.join(names)}")
    for _ in range(4):
        await caller.server.step()
    told = [await combined.receive_json(timeout=PATIENCE_S) for _ in range(20)]
    by_name = {name: [row["data"] for row in told if row["stream"] == name] for name in names}
    klines = [row["k"] for row in by_name[names[0]]]
    assert [(row["c"], row["x"]) for row in klines] == [
        ("50000.00", False),
        ("49500.00", False),
        ("50500.00", False),
        ("50100.00", True),
    ]
    assert [float(row["p"]) for row in by_name[names[1]]] == [float(row["c"]) for row in klines]
    assert all(set(row) == set("eEsapqflTmM") for row in by_name[names[2]])
    assert all(set(row) == set("usbBaA") for row in by_name[names[3]])
    assert all(len(row["bids"]) == 5 for row in by_name[names[4]])
    rows = (await caller.ask("/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=1)).body
    assert [float(value) for value in rows[0][1:5]] == list(WHOLE)


async def test_addresses_that_ccxt_and_old_clients_use(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    session, ws = caller.session, caller.urls["ws"]
    by_host = await session.ws_connect(f"{ws}/stream/ws/0")
    await by_host.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1})
    assert await by_host.receive_json(timeout=PATIENCE_S) == {"result": None, "id": 1}
    futures = await session.ws_connect(f"{ws}/ws/{await caller.listen_key()}")
    await caller.server.step()
    assert (await by_host.receive_json(timeout=PATIENCE_S))["e"] == "kline"
    await caller.order(side="BUY", type="MARKET", quantity=0.01)
    assert (await futures.receive_json(timeout=PATIENCE_S))["e"] == "ORDER_TRADE_UPDATE"


async def test_user_events_come_by_listen_key_and_by_subscription(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    url = caller.urls["ws"]
    key = (await caller._send("POST", "/api/v3/userDataStream", "", {})).body["listenKey"]
    stream = await caller.session.ws_connect(f"{url}/ws/{key}")
    api = await caller.session.ws_connect(f"{url}/ws-api/v3")
    text = f"apiKey=paper&timestamp={START_MS}"
    params = {"apiKey": "paper", "timestamp": START_MS, "signature": sign("paper", text)}
    await api.send_json({"id": 1, "method": "userDataStream.subscribe.signature", "params": params})
    assert (await api.receive_json(timeout=PATIENCE_S))["result"] == {"subscriptionId": 0}
    await buy(caller, quantity=1.5, type="LIMIT", timeInForce="GTC", price=50_000)
    await buy(caller, quantity=0.1, side="SELL", type="LIMIT", timeInForce="GTC", price=55_000)
    by_key = [await stream.receive_json(timeout=PATIENCE_S) for _ in range(5)]
    by_subscription = [await api.receive_json(timeout=PATIENCE_S) for _ in range(5)]
    assert [row["event"] for row in by_subscription] == by_key
    assert {row["subscriptionId"] for row in by_subscription} == {0}
    reports = [(row["x"], row["X"]) for row in by_key if row["e"] == "executionReport"]
    assert reports == [("NEW", "NEW"), ("TRADE", "PARTIALLY_FILLED"), ("NEW", "NEW")]
    balances = {row["a"]: row for row in by_key[-1]["B"]}
    assert (balances["BTC"]["f"], balances["BTC"]["l"]) == ("0.89960000", "0.10000000")
    await api.send_json({"id": 2, "method": "userDataStream.unsubscribe", "params": {"subscriptionId": 0}})
    assert (await api.receive_json(timeout=PATIENCE_S))["status"] == 200
    await caller.speak("DELETE", "/api/v3/openOrders", symbol="BTCUSDT")
    with pytest.raises(TimeoutError):
        await api.receive_json(timeout=0.2)


async def test_an_expired_spot_key_says_so_and_falls_silent(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    key = (await caller._send("POST", "/api/v3/userDataStream", "", {})).body["listenKey"]
    stream = await caller.session.ws_connect(f"{caller.urls['ws']}/ws/{key}")
    caller.server.exchange.pass_time(START_MS + 61 * 60_000)
    assert (await stream.receive_json(timeout=PATIENCE_S))["e"] == "listenKeyExpired"
    await buy(caller)
    with pytest.raises(TimeoutError):
        await stream.receive_json(timeout=0.2)
    late = await caller.speak("PUT", "/api/v3/userDataStream", listenKey=key)
    assert late.body["code"] == -1125


async def test_the_spot_socket_places_orders_too(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    api: aiohttp.ClientWebSocketResponse = await caller.session.ws_connect(f"{caller.urls['ws']}/ws-api/v3")
    params = {
        "apiKey": "paper",
        "quantity": "0.1",
        "side": "BUY",
        "symbol": "BTCUSDT",
        "timestamp": START_MS,
        "type": "MARKET",
    }
    text = "&".join(f"{name}={value}" for name, value in params.items())
    params["signature"] = sign("paper", text)
    await api.send_json({"id": "a", "method": "order.place", "params": params})
    answer = await api.receive_json(timeout=PATIENCE_S)
    assert (answer["id"], answer["result"]["status"]) == ("a", "FILLED")


async def test_refusals_are_worded_as_spot_words_them(start: Start, candle_csv: Any) -> None:
    caller = await open_market(start, candle_csv)
    poor = await buy(caller, quantity=500)
    assert poor == {"code": -2010, "msg": "Account has insufficient balance for requested action."}
    assert (await buy(caller, quantity=0.0000001))["msg"] == "Filter failure: LOT_SIZE"
    unknown = await caller.ask("/api/v3/klines", symbol="NOPE", interval="1m")
    assert (unknown.status, unknown.body["code"]) == (400, -1121)
    absent = await caller.speak("GET", "/api/v3/order", symbol="BTCUSDT", orderId=99)
    assert absent.body["code"] == -2013


@pytest.mark.parametrize(
    ("mode", "target", "price", "code", "results", "resting"),
    [
        ("STOP_ON_FAILURE", "old", 41_000, None, ("SUCCESS", "SUCCESS"), [41_000]),
        ("STOP_ON_FAILURE", "other", 41_000, -2022, ("FAILURE", "NOT_ATTEMPTED"), [40_000]),
        ("ALLOW_FAILURE", "other", 41_000, -2021, ("FAILURE", "SUCCESS"), [40_000, 41_000]),
        ("STOP_ON_FAILURE", "old", 4_100_000, -2021, ("SUCCESS", "FAILURE"), []),
    ],
)
async def test_replacing_an_order_tells_what_each_half_came_to(
    *,
    start: Start,
    candle_csv: Any,
    mode: str,
    target: str,
    price: int,
    code: int | None,
    results: tuple[str, str],
    resting: list[int],
) -> None:
    caller = await open_market(start, candle_csv)
    await buy(caller, type="LIMIT", timeInForce="GTC", price=40_000, newClientOrderId="old")
    body = {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": 0.1,
        "price": price,
        "cancelReplaceMode": mode,
        "cancelOrigClientOrderId": target,
        "newClientOrderId": "new",
    }
    reply = await caller.speak("POST", "/api/v3/order/cancelReplace", **body)
    told = reply.body if code is None else reply.body["data"]
    assert reply.body.get("code") == code
    assert (told["cancelResult"], told["newOrderResult"]) == results
    left = (await caller.speak("GET", "/api/v3/openOrders")).body
    assert [float(row["price"]) for row in left] == resting
