"""What goes wrong goes wrong as planned, and the books stay right."""

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import msgspec
import pytest

from qmtl.engine.clock import SeededRandom
from qmtl.services.paper_exchange.faults import REQUEST_KINDS, FaultKind, FaultPlan, FaultRule
from tests.services.paper_exchange.listening import PATIENCE_S, drained

ORDER = "POST /fapi/v1/order"


def test_a_seeded_plan_repeats_itself() -> None:
    def run(seed: int) -> list[bool]:
        plan = FaultPlan(SeededRandom(seed), [FaultRule(kind=FaultKind.DROP, route=ORDER, chance=0.3)])
        return [plan.strike(ORDER, REQUEST_KINDS) is not None for _ in range(200)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert 30 <= sum(run(7)) <= 90


def test_a_schedule_hits_exactly() -> None:
    rule = FaultRule(kind=FaultKind.STATUS, route="GET /fapi/*", schedule=[2, 5])
    plan = FaultPlan(SeededRandom(1), [rule])
    assert plan.strike("POST /fapi/v1/order", REQUEST_KINDS) is None
    assert [n for n in range(1, 8) if plan.strike("GET /fapi/v1/time", REQUEST_KINDS)] == [2, 5]
    assert plan.counts == Counter({"status": 2})


async def test_accept_then_drop_takes_the_order_once(start: Any) -> None:
    trader = await start()
    faults = [{"kind": "drop", "route": ORDER, "chance": 0.05}]
    await trader.session.post(trader.urls["rest"] + "/paper/faults", json=faults)
    dropped = 0
    for number in range(300):
        name = f"i{number}"
        try:
            reply = await trader.limit("BUY", 40_000, "0.01", newClientOrderId=name)
        except aiohttp.ClientError:
            dropped += 1
            reply = await trader.speak("GET", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId=name)
        assert reply.status == 200
        if number % 50 == 49:
            await trader.speak("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
    counts = (await trader.ask("/paper/state")).body["accounts"]["paper"]["venue_orders"]
    assert dropped > 3
    assert counts == {f"i{number}": 1 for number in range(300)}


@pytest.mark.parametrize(
    ("kind", "status", "taken"),
    [("status", 503, 0), ("status", 429, 0), ("status", 418, 0), ("lost_answer", 503, 1)],
)
async def test_failures_by_status(start: Any, kind: str, status: int, taken: int) -> None:
    trader = await start()
    faults = [{"kind": kind, "route": ORDER, "times": 1, "status": status, "seconds": 3}]
    await trader.session.post(trader.urls["rest"] + "/paper/faults", json=faults)
    reply = await trader.limit("BUY", 40_000, "0.01", newClientOrderId="x")
    assert (reply.status, reply.headers.get("Retry-After")) == (status, None if status == 503 else "3")
    assert len((await trader.speak("GET", "/fapi/v1/openOrders")).body) == taken
    assert (await trader.limit("BUY", 40_000, "0.01", newClientOrderId="y")).status == 200


async def test_a_refused_connection_takes_nothing(start: Any) -> None:
    trader = await start()
    trader.server.exchange.faults.add(FaultRule(kind=FaultKind.REFUSE, route=ORDER, times=1))
    with pytest.raises(aiohttp.ClientError):
        await trader.limit("BUY", 40_000, "0.01", newClientOrderId="x")
    assert (await trader.speak("GET", "/fapi/v1/openOrders")).body == []


async def test_a_wrong_clock_is_told_to_everyone(start: Any) -> None:
    trader = await start()
    trader.server.exchange.faults.add(FaultRule(kind=FaultKind.SKEW, seconds=60))
    now_ms = trader.server.clock.now_ms()
    assert (await trader.ask("/fapi/v1/time")).body["serverTime"] == now_ms + 60_000
    trader.server.exchange.faults.clear()
    assert (await trader.ask("/fapi/v1/time")).body["serverTime"] == now_ms


async def _listen(trader: Any, *kinds: dict[str, Any], steps: int) -> list[Any]:
    """Closing prices that reach a listener of klines while `kinds` are in force."""
    async with trader.session.ws_connect(trader.urls["ws"] + "/market/ws/btcusdt@kline_1m") as socket:
        for kind in kinds:
            trader.server.exchange.faults.add(msgspec.convert(kind, FaultRule))
        for _ in range(steps):
            await trader.server.step()
        heard = await drained(socket)
    return [m if m == "closed" else m["E"] % 60_000 for m in heard]


STEPS = [0, 15_000, 30_000, 59_999]


@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        ({"kind": "duplicate", "schedule": [2]}, [0, 15_000, 15_000, 30_000, 59_999]),
        ({"kind": "reorder", "schedule": [2]}, [0, 30_000, 15_000, 59_999]),
        ({"kind": "omit", "schedule": [3]}, [0, 15_000, 59_999]),
        ({"kind": "close", "schedule": [3]}, [0, 15_000, "closed"]),
    ],
)
async def test_stream_faults(start: Any, candle_csv: Any, fault: dict[str, Any], heard: list[Any]) -> None:
    trader = await start(markets=candle_csv((100.0, 102.0, 99.0, 101.0)))
    assert await _listen(trader, {"route": "ws btcusdt@kline*", **fault}, steps=4) == heard


async def test_a_stalled_stream_still_answers_pings(start: Any, candle_csv: Any) -> None:
    from qmtl.engine.clock import SystemClock

    class StoppedClock(SystemClock):
        async def sleep(self, real_s: float) -> None:
            await asyncio.Event().wait()

    trader = await start(clock=StoppedClock(), is_manual=True)
    trader.server.exchange.faults.add(FaultRule(kind=FaultKind.STALL, route="ws *", seconds=30))
    async with trader.session.ws_connect(
        trader.urls["ws"] + "/market/ws/btcusdt@kline_1m", autoping=False
    ) as ws:
        trader.server.exchange.publish_next()
        await ws.ping(b"alive")
        answer = await ws.receive(timeout=PATIENCE_S)
        assert (answer.type, answer.data) == (aiohttp.WSMsgType.PONG, b"alive")
        with pytest.raises(TimeoutError):
            await ws.receive(timeout=0.2)


async def test_bad_rules_are_named(start: Any) -> None:
    trader = await start()
    bad = [{"kind": "explode"}]
    async with trader.session.post(trader.urls["rest"] + "/paper/faults", json=bad) as answer:
        assert answer.status == 400
        assert "explode" in (await answer.json())["msg"]
    assert (await trader.ask("/paper/faults")).body["rules"] == []
