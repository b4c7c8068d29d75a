"""Orders over REST: what is taken, filled, cancelled and refused, as the venue documents it."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from qmtl.engine.clock import VirtualClock
from tests.services.paper_exchange.conftest import START_MS

LIMIT = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC"}
CALM = (50_000.0, 50_010.0, 49_990.0, 50_000.0)


async def test_a_market_order_fills_at_the_last_price(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    reply = await trader.order(side="BUY", type="MARKET", quantity="0.5", newClientOrderId="m1")
    assert reply.status == 200
    assert reply.headers["x-qmtl-paper"] == "1"
    assert (reply.body["status"], reply.body["avgPrice"], reply.body["executedQty"]) == (
        "FILLED",
        "50000",
        "0.5",
    )
    [trade] = (await trader.speak("GET", "/fapi/v1/userTrades", symbol="BTCUSDT")).body
    assert (trade["orderId"], trade["qty"], trade["maker"]) == (reply.body["orderId"], "0.5", False)
    assert Decimal(trade["commission"]) == Decimal("0.5") * 50_000 * Decimal("0.0004")


async def test_a_large_order_fills_a_quarter_candle_at_a_time(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM, volume=2.0), balance=Decimal(10_000_000))
    reply = await trader.limit("BUY", 50_100, "1.2", newClientOrderId="big")
    assert (reply.body["status"], reply.body["executedQty"]) == ("PARTIALLY_FILLED", "0.5")
    await trader.server.step()
    query = {"symbol": "BTCUSDT", "origClientOrderId": "big"}
    assert (await trader.speak("GET", "/fapi/v1/order", **query)).body["executedQty"] == "1"
    gone = await trader.speak("DELETE", "/fapi/v1/order", **query)
    assert (gone.body["status"], gone.body["executedQty"]) == ("CANCELED", "1")
    [position] = (await trader.speak("GET", "/fapi/v3/positionRisk", symbol="BTCUSDT")).body
    assert position["positionAmt"] == "1"


async def test_an_acknowledgement_comes_before_the_fills(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    reply = await trader.order(side="BUY", type="MARKET", quantity="0.5", newOrderRespType="ACK")
    assert (reply.body["status"], reply.body["executedQty"]) == ("NEW", "0")
    query = {"symbol": "BTCUSDT", "orderId": reply.body["orderId"]}
    assert (await trader.speak("GET", "/fapi/v1/order", **query)).body["status"] == "FILLED"


async def test_at_most_two_hundred_orders_wait(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    codes = [(await trader.limit("BUY", 40_000, "0.003")).body.get("code") for _ in range(201)]
    assert codes == [None] * 200 + [-2025]


async def test_a_market_without_history_has_its_first_price(start: Any, candle_csv: Any) -> None:
    trader = await start(clock=VirtualClock(START_MS - 90_000), markets=candle_csv(CALM))
    assert (await trader.ask("/fapi/v1/ticker/24hr", symbol="BTCUSDT")).body["lastPrice"] == "50000.00"
    assert (await trader.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m")).body == []
    assert (await trader.order(side="BUY", type="MARKET", quantity="0.5")).body["status"] == "FILLED"


async def test_a_resting_limit_fills_when_the_price_comes(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv((50_000.0, 50_010.0, 49_000.0, 49_500.0)))
    reply = await trader.limit("BUY", 49_900, "0.1", newClientOrderId="rest")
    assert reply.body["status"] == "NEW"
    assert [o["clientOrderId"] for o in (await trader.speak("GET", "/fapi/v1/openOrders")).body] == ["rest"]
    await trader.server.step()
    await trader.server.step()
    done = await trader.speak("GET", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="rest")
    assert (done.body["status"], done.body["avgPrice"]) == ("FILLED", "49900")
    assert (await trader.speak("GET", "/fapi/v1/openOrders")).body == []


async def test_one_venue_order_per_client_id_while_it_is_open(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    first = await trader.limit("BUY", 49_000, "0.1", newClientOrderId="same")
    again = await trader.limit("BUY", 49_000, "0.1", newClientOrderId="same")
    assert (first.status, again.status, again.body["code"]) == (200, 400, -4116)
    state = (await trader.ask("/paper/state")).body["accounts"]["paper"]
    assert state["venue_orders"] == {"same": 1}


async def test_amending_moves_a_limit_and_cancelling_all_clears_the_book(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    placed = await trader.limit("BUY", 49_000, "0.1")
    change = {"symbol": "BTCUSDT", "orderId": placed.body["orderId"], "side": "BUY"}
    moved = await trader.speak("PUT", "/fapi/v1/order", **change, price=48_000, quantity="0.2")
    assert (moved.body["price"], moved.body["origQty"], moved.body["status"]) == ("48000", "0.2", "NEW")
    same = await trader.speak("PUT", "/fapi/v1/order", **change, price=48_000, quantity="0.2")
    assert same.body["code"] == -5027
    bad = await trader.speak("PUT", "/fapi/v1/order", **change, price="48000.05", quantity="0.2")
    assert bad.status == 400
    [still] = (await trader.speak("GET", "/fapi/v1/openOrders", symbol="BTCUSDT")).body
    assert (still["price"], still["orderId"]) == ("48000", placed.body["orderId"])
    await trader.speak("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    assert (await trader.speak("GET", "/fapi/v1/openOrders", symbol="BTCUSDT")).body == []


async def test_a_batch_answers_each_member_in_its_place(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    good = msgspec.json.encode({**LIMIT, "price": "49000", "quantity": "0.1"}).decode()
    bad = msgspec.json.encode({**LIMIT, "price": "49000", "quantity": "0"}).decode()
    reply = await trader.speak("POST", "/fapi/v1/batchOrders", batchOrders=f"[{good},{bad}]")
    assert (reply.body[0]["status"], reply.body[1]["code"]) == ("NEW", -4003)
    ids = f"[{reply.body[0]['orderId']},77]"
    gone = await trader.speak("DELETE", "/fapi/v1/batchOrders", symbol="BTCUSDT", orderIdList=ids)
    assert (gone.body[0]["status"], gone.body[1]["code"]) == ("CANCELED", -2011)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"symbol": "NOPEUSDT"}, -1121),
        ({"symbol": ""}, -1102),
        ({"side": "HOLD"}, -1117),
        ({"type": "FANCY"}, -1116),
        ({"type": "STOP_MARKET", "stopPrice": "40000"}, -4120),
        ({"timeInForce": "SOON"}, -1115),
        ({"timeInForce": ""}, -1102),
        ({"timeInForce": "GTD"}, -1102),
        ({"quantity": ""}, -1102),
        ({"quantity": "abc"}, -1100),
        ({"quantity": "0"}, -4003),
        ({"quantity": "-1"}, -4003),
        ({"quantity": "0.1234567"}, -1111),
        ({"quantity": "100000"}, -4005),
        ({"quantity": "0.001", "price": "100"}, -4164),
        ({"price": "49000.01"}, -1111),
        ({"price": ""}, -1102),
        ({"quantity": "900"}, -2019),
        ({"reduceOnly": "true"}, -2022),
        ({"reduceOnly": "maybe"}, -1102),
        ({"positionSide": "LONG"}, -4061),
        ({"newClientOrderId": "with blank"}, -4015),
        ({"newClientOrderId": "x" * 37}, -4015),
        ({"timeInForce": "GTX", "price": "51000"}, -5022),
        ({"timeInForce": "FOK", "price": "49000"}, -5021),
        ({"price": "52600"}, -4016),
        ({"side": "SELL", "price": "47400"}, -4024),
    ],
)
async def test_refusals_carry_the_venues_codes(start: Any, candle_csv: Any, change: Any, code: int) -> None:
    trader = await start(markets=candle_csv(CALM))
    reply = await trader.order(**{**LIMIT, "price": "49000", "quantity": "0.1", **change})
    assert (reply.status, reply.body["code"]) == (400, code)
    assert reply.body["msg"]
    assert (await trader.speak("GET", "/fapi/v1/allOrders", symbol="BTCUSDT")).body == []


async def test_an_unknown_order_is_named_as_such(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    query = {"symbol": "BTCUSDT", "orderId": 5}
    assert (await trader.speak("GET", "/fapi/v1/order", **query)).body["code"] == -2013
    assert (await trader.speak("DELETE", "/fapi/v1/order", **query)).body["code"] == -2011
    done = await trader.order(side="BUY", type="MARKET", quantity="0.1")
    query["orderId"] = done.body["orderId"]
    assert (await trader.speak("DELETE", "/fapi/v1/order", **query)).body["code"] == -2011
    assert (await trader.speak("GET", "/fapi/v1/openOrder", **query)).body["code"] == -2013


async def test_a_test_order_places_nothing(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    reply = await trader.speak("POST", "/fapi/v1/order/test", **LIMIT, price="49000", quantity="0.1")
    assert (reply.status, reply.body) == (200, {})
    assert (await trader.speak("GET", "/fapi/v1/openOrders")).body == []


async def test_a_good_till_date_order_expires_in_exchange_time(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(*[CALM] * 15))
    until = trader.server.clock.now_ms() + 700_000
    placed = await trader.limit("BUY", 40_000, "0.1", timeInForce="GTD", goodTillDate=until)
    assert placed.body["goodTillDate"] == until - until % 1_000
    while (await trader.server.step()) is not None and trader.server.clock.now_ms() < until + 60_000:
        pass
    query = {"symbol": "BTCUSDT", "orderId": placed.body["orderId"]}
    assert (await trader.speak("GET", "/fapi/v1/order", **query)).body["status"] == "EXPIRED"


async def test_history_is_paged_by_id_and_bounded_by_a_week(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    ids = [(await trader.limit("BUY", 40_000, "0.1")).body["orderId"] for _ in range(4)]
    page = await trader.speak("GET", "/fapi/v1/allOrders", symbol="BTCUSDT", orderId=ids[1], limit=2)
    assert [order["orderId"] for order in page.body] == ids[1:3]
    far = await trader.speak("GET", "/fapi/v1/allOrders", symbol="BTCUSDT", startTime=1, endTime=900_000_000)
    assert far.body["code"] == -4166
