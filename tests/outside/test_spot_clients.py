"""The CCXT spot client, REST and pro, driven through its whole script."""

import pytest

from tests.outside.conftest import RunClient

pytestmark = pytest.mark.outside


async def test_ccxt_spot(run_client: RunClient) -> None:
    steps = (await run_client("ccxt_spot"))["steps"]
    assert (steps["load_markets"]["tick_size"], steps["load_markets"]["lot_size"]) == ("0.01", "1e-05")
    assert (steps["candles"]["count"], steps["candles"]["steps_ms"]) == (100, [60_000])
    assert 0 <= steps["candles"]["age_ms"] < 62_000
    assert steps["tickers"]["bid"] < steps["tickers"]["last"] < steps["tickers"]["ask"]
    assert steps["streams"]["messages"] == 2
    assert steps["streams"]["trade"] == pytest.approx(60_000, rel=0.02)
    assert steps["streams"]["spread"] == pytest.approx(0.2)
    assert steps["streams"]["ticker"] == pytest.approx(60_000, rel=0.02)
    assert steps["streams"]["bids"] >= 20
    assert steps["edit"] == {"open": [0.003], "moved": True}
    assert steps["fees"] == {"taker": 0.0004, "status": "ok"}
    limit = steps["limit_order"]
    assert (limit["status"], limit["open"]) == ("NEW", ["outside-limit"])
    assert limit["used"] == pytest.approx(0.002 * 57_000, rel=0.02)
    assert steps["cancel"] == {"status": "CANCELED", "open": []}
    market = steps["market_order"]
    assert (market["status"], market["traded"]) == ("FILLED", 0.002)
    # A buyer pays the fee in what was bought.
    assert market["fee"] == [["BTC", 8e-07]]
    assert market["base"] == pytest.approx(0.0019992)
    partial = steps["partial_fill"]
    assert (partial["status"], partial["final"]) == ("PARTIALLY_FILLED", "CANCELED")
    assert 0 < partial["executed"] < 1
    told = steps["user_stream"]
    assert told["orders"]["limit"] == ["open", "canceled"]
    assert told["orders"]["market"][-1] == "closed"
    assert told["orders"]["partial"] == ["open", "canceled"]
    assert told["balances"] >= 2
    assert steps["insufficient"] == {"kind": "InsufficientFunds"}
    assert steps["bad_signature"] == {"code": -1022, "kind": "AuthenticationError"}
    assert steps["clock_skew"] == {"code": -1021, "kind": "InvalidNonce"}
