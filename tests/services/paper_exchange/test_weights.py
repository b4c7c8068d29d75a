"""Weights are counted, told in headers, and refused beyond the limit: 429, then 418."""

from typing import Any

import pytest

from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.settings import WeightLimits
from qmtl.services.paper_exchange.weights import WeightMeter


async def test_weights_are_told_and_refused(start: Any) -> None:
    trader = await start(limits=WeightLimits(weight_1m=20, ban_after=2, ban_s=7))
    first = await trader.ask("/fapi/v1/time")
    heavy = await trader.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=1_500)
    assert (first.headers["X-MBX-USED-WEIGHT-1M"], heavy.headers["X-MBX-USED-WEIGHT-1M"]) == ("1", "11")
    assert (await trader.ask("/fapi/v1/ticker/24hr", symbol="BTCUSDT")).headers[
        "X-MBX-USED-WEIGHT-1M"
    ] == "12"
    refused = await trader.ask("/fapi/v1/aggTrades", symbol="BTCUSDT")
    assert (refused.status, refused.body["code"], refused.headers["Retry-After"]) == (429, -1003, "60")
    await trader.ask("/fapi/v1/time")
    banned = await trader.ask("/fapi/v1/time")
    assert (banned.status, banned.headers["Retry-After"]) == (418, "7")
    assert (await trader.ask("/fapi/v1/time")).status == 418


async def test_orders_are_counted_apart(start: Any) -> None:
    trader = await start(limits=WeightLimits(orders_10s=2))
    replies = [await trader.limit("BUY", 40_000, "0.1") for _ in range(3)]
    assert [r.headers.get("X-MBX-ORDER-COUNT-10S") for r in replies] == ["1", "2", None]
    assert (replies[2].status, replies[2].body["code"]) == (429, -1015)
    assert len((await trader.speak("GET", "/fapi/v1/openOrders")).body) == 2


def test_a_minute_later_all_is_forgiven() -> None:
    meter = WeightMeter(WeightLimits(weight_1m=10, ban_after=1, ban_s=30))
    assert meter.charge("x", 10, 0.0) == 10
    with pytest.raises(VenueError) as soft:
        meter.charge("x", 1, 1_000.0)
    assert (soft.value.status, soft.value.retry_after_s) == (429, 59)
    assert meter.charge("y", 1, 1_000.0) == 1
    with pytest.raises(VenueError) as hard:
        meter.charge("x", 1, 50_000.0)
    assert hard.value.status == 418
    with pytest.raises(VenueError):
        meter.charge("x", 1, 79_000.0)
    assert meter.charge("x", 1, 80_001.0) == 1
