"""The account over REST: balances, settings, funding, warnings and liquidation."""

from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.interval import FUNDING_MS
from qmtl.engine.clock import VirtualClock
from qmtl.services.paper_exchange.settings import MarketSettings
from tests.services.paper_exchange.listening import drained

CALM = (50_000.0, 50_010.0, 49_990.0, 50_000.0)


async def test_balance_account_and_position_agree(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv((50_000.0, 50_600.0, 50_000.0, 50_500.0)))
    await trader.order(side="BUY", type="MARKET", quantity="1")
    while await trader.server.step():
        pass
    [balance] = (await trader.speak("GET", "/fapi/v3/balance")).body
    account = (await trader.speak("GET", "/fapi/v2/account")).body
    lean = (await trader.speak("GET", "/fapi/v3/account")).body
    [risk] = (await trader.speak("GET", "/fapi/v2/positionRisk", symbol="BTCUSDT")).body
    assert balance["balance"] == account["totalWalletBalance"] == "99980.00000000"
    assert account["totalUnrealizedProfit"] == risk["unRealizedProfit"] == "500.00000000"
    assert (risk["entryPrice"], risk["leverage"], risk["marginType"]) == ("50000", "20", "cross")
    assert lean["positions"] == [p for p in account["positions"] if p["positionAmt"] == "1"]
    assert Decimal(account["totalPositionInitialMargin"]) == Decimal(50_500) / 20


async def test_settings_change_and_refuse_to_change_twice(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    dual = "/fapi/v1/positionSide/dual"
    assert (await trader.speak("GET", dual)).body == {"dualSidePosition": False}
    assert (await trader.speak("POST", dual, dualSidePosition="false")).body["code"] == -4059
    assert (await trader.speak("POST", dual, dualSidePosition="true")).body["code"] == 200
    leverage = await trader.speak("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=10)
    assert (leverage.body["leverage"], leverage.body["symbol"]) == (10, "BTCUSDT")
    too_much = await trader.speak("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=500)
    assert too_much.body["code"] == -4028
    margin = {"symbol": "BTCUSDT", "marginType": "ISOLATED"}
    assert (await trader.speak("POST", "/fapi/v1/marginType", **margin)).body["code"] == 200
    assert (await trader.speak("POST", "/fapi/v1/marginType", **margin)).body["code"] == -4046
    [config] = (await trader.speak("GET", "/fapi/v1/symbolConfig", symbol="BTCUSDT")).body
    assert (config["leverage"], config["marginType"]) == (10, "ISOLATED")
    multi = "/fapi/v1/multiAssetsMargin"
    assert (await trader.speak("POST", multi, multiAssetsMargin="true")).body["code"] == 200
    assert (await trader.speak("GET", multi)).body == {"multiAssetsMargin": True}


async def test_hedge_mode_holds_both_sides(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    await trader.speak("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
    assert (await trader.order(side="BUY", type="MARKET", quantity="0.2")).body["code"] == -4061
    hedged = {"side": "SELL", "type": "MARKET", "quantity": "0.2", "positionSide": "LONG"}
    assert (await trader.order(**hedged, reduceOnly="true")).body["code"] == -1106
    await trader.order(side="BUY", type="MARKET", quantity="0.2", positionSide="LONG")
    await trader.order(side="SELL", type="MARKET", quantity="0.1", positionSide="SHORT")
    rows = (await trader.speak("GET", "/fapi/v2/positionRisk", symbol="BTCUSDT")).body
    assert {row["positionSide"]: row["positionAmt"] for row in rows} == {"LONG": "0.2", "SHORT": "-0.1"}


@pytest.mark.recorded
async def test_funding_is_paid_from_the_recorded_rates(start: Any, recorded_data: Path) -> None:
    market = MarketSettings(
        candles=recorded_data / "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather",
        funding=recorded_data / "candles/BTCUSDT_UM_8h-funding_rate.feather",
    )
    at_ms = 1_747_008_000_000
    assert at_ms % FUNDING_MS == 0
    trader = await start(clock=VirtualClock(at_ms - 60_000), markets=(market,))
    await trader.order(side="BUY", type="MARKET", quantity="1")
    rate = Decimal((await trader.ask("/fapi/v1/premiumIndex", symbol="BTCUSDT")).body["lastFundingRate"])
    key = await trader.listen_key()
    async with trader.session.ws_connect(trader.urls["ws"] + f"/private/ws/{key}") as socket:
        for _ in range(8):
            await trader.server.step()
        [message] = await drained(socket)
    [income] = (await trader.speak("GET", "/fapi/v1/income", incomeType="FUNDING_FEE")).body
    mark = Decimal(
        str(
            next(
                bar for bar in trader.server.exchange.markets["BTCUSDT"].bars[::-1] if bar.open_ms < at_ms
            ).close
        )
    )
    assert rate != 0
    assert abs(Decimal(income["income"]) + rate * mark) < Decimal("1E-7")
    assert message["a"]["m"] == "FUNDING_FEE"
    assert Decimal(message["a"]["B"][0]["bc"]) == Decimal(income["income"])
    [paid] = (await trader.ask("/fapi/v1/fundingRate", symbol="BTCUSDT", startTime=at_ms, limit=1)).body
    assert (Decimal(paid["fundingRate"]), paid["fundingTime"]) == (rate, at_ms)


async def test_a_position_near_its_end_is_warned_of_then_liquidated(start: Any, candle_csv: Any) -> None:
    fall = (50_000.0, 50_000.0, 47_640.0, 47_640.0)
    crash = (47_640.0, 47_640.0, 46_000.0, 46_000.0)
    trader = await start(markets=candle_csv(fall, crash, volume=80.0), balance=Decimal(2_600))
    await trader.order(side="BUY", type="MARKET", quantity="1")
    await trader.limit("BUY", 40_000, "0.003")
    key = await trader.listen_key()
    async with trader.session.ws_connect(trader.urls["ws"] + f"/private/ws/{key}") as socket:
        for _ in range(4):
            await trader.server.step()
        # Once at the candle's low, and again at its close: between them stood its high.
        assert [m["e"] for m in await drained(socket)] == ["MARGIN_CALL"] * 2
        for _ in range(4):
            await trader.server.step()
        heard = await drained(socket)
    executions = [m["o"]["x"] for m in heard if m["e"] == "ORDER_TRADE_UPDATE"]
    assert executions == ["CANCELED", "CALCULATED"]
    [closed] = [m["o"] for m in heard if m["e"] == "ORDER_TRADE_UPDATE" and m["o"]["x"] == "CALCULATED"]
    assert (closed["c"].startswith("autoclose-"), closed["q"], closed["R"]) == (True, "1", True)
    [balance] = (await trader.speak("GET", "/fapi/v3/balance")).body
    forced = (await trader.speak("GET", "/fapi/v1/forceOrders", symbol="BTCUSDT")).body
    assert [order["orderId"] for order in forced] == [closed["i"]]
    updates = [m for m in heard if m["e"] == "ACCOUNT_UPDATE"]
    assert Decimal(updates[-1]["a"]["B"][0]["wb"]) == Decimal(balance["balance"]) >= 0


async def test_brackets_fees_and_permissions(start: Any, candle_csv: Any) -> None:
    trader = await start(markets=candle_csv(CALM))
    [ladder] = (await trader.speak("GET", "/fapi/v1/leverageBracket", symbol="BTCUSDT")).body
    caps = [(row["notionalFloor"], row["notionalCap"]) for row in ladder["brackets"]]
    assert all(below[1] == above[0] for below, above in pairwise(caps))
    fees = (await trader.speak("GET", "/fapi/v1/commissionRate", symbol="BTCUSDT")).body
    assert (fees["makerCommissionRate"], fees["takerCommissionRate"]) == ("0.0002", "0.0004")
    rights = (await trader.speak("GET", "/sapi/v1/account/apiRestrictions")).body
    assert (rights["enableFutures"], rights["enableWithdrawals"]) == (True, False)


async def test_an_unknown_path_says_so(start: Any) -> None:
    trader = await start()
    reply = await trader.ask("/fapi/v9/nonsense")
    assert (reply.status, reply.body["code"], reply.headers["x-qmtl-paper"]) == (404, -5000, "1")
