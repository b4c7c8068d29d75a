"""Futures clients that other people wrote, each driven through its whole script."""

from typing import Any

import pytest

from tests.outside.conftest import RunClient

pytestmark = pytest.mark.outside

LIMIT, MARKET = ("NEW", "CANCELED"), ("NEW", "FILLED")
UNIFIED = {"NEW": "open", "PARTIALLY_FILLED": "open", "CANCELED": "canceled", "FILLED": "closed"}


def check_market(steps: dict[str, dict[str, Any]], fields: int) -> None:
    assert steps["load_markets"]["symbols"] >= 1
    assert float(steps["load_markets"]["tick_size"]) == 0.1
    assert float(steps["load_markets"]["lot_size"]) == 0.001
    candles = steps["candles"]
    assert (candles["count"], candles["steps_ms"], candles["fields"]) == (100, [60_000], fields)
    # The last candle is the forming one, or has just closed.
    assert 0 <= candles["age_ms"] < 62_000


def check_stream(steps: dict[str, dict[str, Any]]) -> None:
    stream = steps["kline_stream"]
    assert (stream["symbol"], stream["interval"]) == ("BTCUSDT", "1m")
    assert stream["messages"] >= 2
    assert 59_000 < stream["close"] < 61_000


def check_orders(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["leverage"] == {"leverage": 5}
    assert steps["limit_order"] == {"status": "NEW", "open": ["outside-limit"]}
    assert steps["cancel"] == {"status": "CANCELED", "open": []}
    market = steps["market_order"]
    assert (market["status"], float(market["executed"]), market["traded"]) == ("FILLED", 0.002, 0.002)
    assert 59_000 < market["average"] < 61_000
    partial = steps["partial_fill"]
    assert (partial["status"], partial["final"]) == ("PARTIALLY_FILLED", "CANCELED")
    assert 0 < partial["executed"] < partial["quantity"] == 1
    stop = steps["algo_stop"]
    assert (stop["status"], stop["open"], stop["cancel_code"], stop["left"]) == (
        *("NEW", ["outside-stop"], "200"),
        0,
    )
    position = steps["position"]
    assert position["amount"] == pytest.approx(0.002 + partial["executed"])
    assert position["after"] == 0
    # Fees of 0.04 % a side and a few ticks are all that was lost.
    assert -200 < position["wallet"] - 1_000_000 < 0


def check_user_stream(steps: dict[str, dict[str, Any]], *, is_unified: bool = False) -> None:
    told = steps["user_stream"]
    orders = told["orders"]

    def words(*statuses: str) -> list[str]:
        return [UNIFIED[status] for status in statuses] if is_unified else list(statuses)

    assert orders["limit"] == words(*LIMIT)
    assert orders["market"][-1:] == words("FILLED")
    assert orders["partial"][-1:] == words("CANCELED")
    assert words("PARTIALLY_FILLED")[0] in orders["partial"]
    assert orders["close"][-1:] == words("FILLED")
    assert told["accounts"] >= 2
    turnover = 2 * 60_000 * steps["position"]["amount"]
    # What took paid 0.04 %, what rested 0.02 %.
    assert 0.00019 * turnover < told["fees"] < 0.00041 * turnover


def check_refusals(steps: dict[str, dict[str, Any]], http: int | None = 400) -> None:
    for step, code in (("bad_signature", -1022), ("clock_skew", -1021)):
        assert steps[step]["code"] == code
        assert steps[step].get("http") == http


async def test_ccxt(run_client: RunClient) -> None:
    steps = (await run_client("ccxt_rest"))["steps"]
    check_market(steps, fields=6)
    check_orders(steps)
    check_refusals(steps, http=None)
    # load_markets asks spot, USDT-M and COIN-M venues and the keyed currency list; all of them answered.
    assert steps["load_markets"]["types"] == ["spot", "swap"]
    assert steps["candles"]["since_held"] is True
    assert steps["tickers"]["bid"] < steps["tickers"]["last"] < steps["tickers"]["ask"]
    assert steps["tickers"]["mark"] == pytest.approx(60_000, rel=0.02)
    assert steps["market_order"]["fee"] == pytest.approx(0.0004 * 0.002 * 60_000, rel=0.02)
    assert steps["position"]["side"] == "long"
    assert steps["user_stream"] == {"same": True, "length": 64}
    assert (steps["bad_signature"]["kind"], steps["clock_skew"]["kind"]) == (
        "AuthenticationError",
        "InvalidNonce",
    )


async def test_ccxt_pro(run_client: RunClient) -> None:
    steps = (await run_client("ccxt_pro"))["steps"]
    check_market(steps, fields=6)
    check_stream(steps)
    check_orders(steps)
    check_user_stream(steps, is_unified=True)
    check_refusals(steps, http=None)
    streams = steps["market_streams"]
    assert streams["spread"] == pytest.approx(0.2)
    assert streams["bids"] == 20
    assert {round(streams[name], -4) for name in ("last", "trade", "mark")} == {60_000}


async def test_official_sdk(run_client: RunClient) -> None:
    steps = (await run_client("official_sdk"))["steps"]
    check_market(steps, fields=12)
    check_stream(steps)
    check_orders(steps)
    check_user_stream(steps)
    check_refusals(steps)
    api = steps["ws_api"]
    assert (api["status"], api["seen"], api["final"]) == ("NEW", "NEW", "CANCELED")
    # The answer to an order carries the weight and both order counts.
    assert api["limits"] == 3
    assert (api["modified"], api["again"]) == ("0.003", -2011)
    assert (api["algo"], api["algo_cancel"]) == ("NEW", "200")
    assert (api["amount"], api["assets"]) == (steps["position"]["amount"], ["USDT"])
    assert api["spread"] == pytest.approx(0.2)
    assert (api["listen_key"], api["kept"]) == (64, True)
    assert 999_800 < api["wallet"] < 1_000_000


async def test_binance_futures_connector(run_client: RunClient) -> None:
    steps = (await run_client("futures_connector", "binance-futures-connector"))["steps"]
    check_market(steps, fields=12)
    check_stream(steps)
    check_orders(steps)
    check_user_stream(steps)
    check_refusals(steps)
    # Conditional orders left this endpoint on 2025-12-09.
    assert steps["old_stop_order"] == {"code": -4120}


async def test_python_binance(run_client: RunClient) -> None:
    steps = (await run_client("python_binance", "python-binance"))["steps"]
    check_market(steps, fields=12)
    check_stream(steps)
    check_orders(steps)
    check_user_stream(steps)
    check_refusals(steps)
    continuous = steps["continuous_kline_stream"]
    assert (continuous["event"], continuous["pair"]) == ("continuous_kline", "BTCUSDT")
    assert steps["ws_api"]["amount"] == steps["position"]["amount"]
    assert [steps["ws_api"][name] for name in ("status", "seen", "final")] == ["NEW", "NEW", "CANCELED"]
    spot = steps["spot"]
    assert (spot["candles"], spot["stream"], spot["status"]) == (20, "1m", "FILLED")
    assert spot["base"] == pytest.approx(0.002 * (1 - 0.0004))
