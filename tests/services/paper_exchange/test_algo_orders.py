"""Conditional orders live in the Algo service: placed, triggered, filled, cancelled, spared."""

from typing import Any

import pytest

from tests.services.paper_exchange.listening import hear

CALM = (50_000.0, 50_010.0, 49_990.0, 50_000.0)
FALL = (50_000.0, 50_000.0, 48_000.0, 48_500.0)
STOP = {"side": "SELL", "type": "STOP_MARKET", "triggerPrice": "49000"}


async def test_a_stop_waits_triggers_and_closes_the_position(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(FALL, CALM))
    await trader.order(side="BUY", type="MARKET", quantity="0.5")
    key = await trader.listen_key()
    async with trader.session.ws_connect(trader.urls["ws"] + f"/private/ws/{key}") as socket:
        placed = await trader.algo(**STOP, closePosition="true", clientAlgoId="sl")
        assert (placed.body["algoStatus"], placed.body["orderType"]) == ("NEW", "STOP_MARKET")
        assert (await trader.speak("GET", "/fapi/v1/openOrders")).body == []
        await trader.server.step()
        await trader.server.step()
        heard = await hear(socket, 8)
    kinds = [(m["e"], m["o"]["X"]) if isinstance(m.get("o"), dict) else m["e"] for m in heard]
    assert kinds == [
        ("ALGO_UPDATE", "NEW"),
        ("ALGO_UPDATE", "TRIGGERING"),
        ("ALGO_UPDATE", "TRIGGERED"),
        ("ORDER_TRADE_UPDATE", "NEW"),
        "TRADE_LITE",
        ("ORDER_TRADE_UPDATE", "FILLED"),
        "ACCOUNT_UPDATE",
        ("ALGO_UPDATE", "FINISHED"),
    ]
    fill = heard[5]["o"]
    assert (fill["c"], fill["ot"], fill["o"], fill["q"]) == ("sl", "STOP_MARKET", "MARKET", "0.5")
    done = (await trader.speak("GET", "/fapi/v1/algoOrder", clientAlgoId="sl")).body
    assert (done["algoStatus"], done["actualOrderId"]) == ("FINISHED", str(fill["i"]))
    assert (await trader.speak("GET", "/fapi/v3/positionRisk")).body == []


async def test_a_stop_limit_becomes_a_resting_limit(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(FALL))
    await trader.order(side="BUY", type="MARKET", quantity="0.5")
    stop = {**STOP, "type": "STOP", "price": "49500", "quantity": "0.5", "reduceOnly": "true"}
    placed = (await trader.algo(**stop, clientAlgoId="slm")).body
    await trader.server.step()
    await trader.server.step()
    [order] = (await trader.speak("GET", "/fapi/v1/openOrders")).body
    assert (order["type"], order["origType"], order["price"]) == ("LIMIT", "STOP", "49500")
    assert (await trader.speak("GET", "/fapi/v1/openAlgoOrders")).body == []
    await trader.speak("DELETE", "/fapi/v1/order", symbol="BTCUSDT", orderId=order["orderId"])
    done = (await trader.speak("GET", "/fapi/v1/algoOrder", algoId=placed["algoId"])).body
    assert done["algoStatus"] == "FINISHED"


async def test_a_trailing_stop_follows_the_price(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv((50_000.0, 52_000.0, 50_000.0, 51_000.0)))
    await trader.order(side="BUY", type="MARKET", quantity="0.5")
    trail = {"side": "SELL", "type": "TRAILING_STOP_MARKET", "quantity": "0.5", "callbackRate": "1"}
    assert (await trader.algo(**trail, reduceOnly="true")).body["callbackRate"] == "1"
    while await trader.server.step():
        pass
    fills = (await trader.speak("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
    assert [fill["side"] for fill in fills] == ["BUY", "SELL"]
    assert float(fills[1]["price"]) <= 52_000 * 0.99


async def test_cancelling_one_or_all(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    for name in ("a", "b", "c"):
        await trader.algo(**STOP, quantity="0.1", clientAlgoId=name)
    gone = await trader.speak("DELETE", "/fapi/v1/algoOrder", clientAlgoId="b")
    assert (gone.body["code"], gone.body["clientAlgoId"]) == ("200", "b")
    again = await trader.speak("DELETE", "/fapi/v1/algoOrder", clientAlgoId="b")
    assert again.body["code"] == -2011
    open_now = await trader.speak("GET", "/fapi/v1/openAlgoOrders", symbol="BTCUSDT")
    assert [algo["clientAlgoId"] for algo in open_now.body] == ["a", "c"]
    await trader.speak("DELETE", "/fapi/v1/algoOpenOrders", symbol="BTCUSDT")
    every = (await trader.speak("GET", "/fapi/v1/allAlgoOrders", symbol="BTCUSDT")).body
    assert [algo["algoStatus"] for algo in every] == ["CANCELED"] * 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"triggerPrice": "51000"}, -2021),
        ({"triggerPrice": ""}, -1102),
        ({"algoType": "VP"}, -1130),
        ({"type": "LIMIT"}, -1116),
        ({"closePosition": "true"}, -4137),
        ({"quantity": ""}, -1102),
        ({"clientAlgoId": "taken"}, -4116),
        ({"symbol": "NOPEUSDT"}, -1121),
        ({"workingType": "WISH"}, -1102),
        ({"type": "TRAILING_STOP_MARKET"}, -1102),
        ({"type": "TRAILING_STOP_MARKET", "callbackRate": "50"}, -2007),
        ({"type": "STOP"}, -1102),
    ],
)
async def test_refusals(start: Any, candle_csv: Any, change: Any, code: int) -> None:
    trader = await start(markets=candle_csv(CALM))
    await trader.algo(**STOP, quantity="0.1", clientAlgoId="taken")
    reply = await trader.algo(**{**STOP, "quantity": "0.1", "clientAlgoId": "new", **change})
    assert (reply.status, reply.body["code"]) == (400, code)
    assert len((await trader.speak("GET", "/fapi/v1/openAlgoOrders")).body) == 1


async def test_a_position_has_one_closing_stop(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    await trader.order(side="BUY", type="MARKET", quantity="0.5")
    codes = [(await trader.algo(**STOP, closePosition="true")).body.get("code") for _ in range(2)]
    assert codes == [None, -4130]


@pytest.mark.parametrize("spares", [True, False])
async def test_the_countdown_plays_both_behaviours(start: Any, candle_csv: Any, spares: bool) -> None:
    trader = await start(markets=candle_csv(*[CALM] * 5), countdown_spares_algo=spares)
    await trader.limit("BUY", 40_000, "0.1")
    await trader.algo(**STOP, quantity="0.1")
    countdown = {"symbol": "BTCUSDT", "countdownTime": 100_000}
    answer = await trader.speak("POST", "/fapi/v1/countdownCancelAll", **countdown)
    assert answer.body == {"symbol": "BTCUSDT", "countdownTime": "100000"}
    for _ in range(6):
        await trader.server.step()
    assert len((await trader.speak("GET", "/fapi/v1/openOrders")).body) == 1
    await trader.speak("POST", "/fapi/v1/countdownCancelAll", **countdown)
    for _ in range(3):
        await trader.server.step()
    assert len((await trader.speak("GET", "/fapi/v1/openOrders")).body) == 1
    for _ in range(6):
        await trader.server.step()
    assert (await trader.speak("GET", "/fapi/v1/openOrders")).body == []
    assert len((await trader.speak("GET", "/fapi/v1/openAlgoOrders")).body) == spares


async def test_a_countdown_is_called_off_with_zero(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(*[CALM] * 3))
    await trader.limit("BUY", 40_000, "0.1")
    for countdown in (1_000, 0):
        await trader.speak("POST", "/fapi/v1/countdownCancelAll", symbol="BTCUSDT", countdownTime=countdown)
    while await trader.server.step():
        pass
    assert len((await trader.speak("GET", "/fapi/v1/openOrders")).body) == 1
