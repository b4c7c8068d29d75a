"""Orders of the spot client: what ccxt is called with, and what a real exchange makes of it."""

import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt.async_support as ccxt
import pytest

from qmtl.core.order import OrderStatus, OrderValidationError
from qmtl.runtime.sdk import (
    BrokerageError,
    CancelFailed,
    CcxtBrokerageClient,
    OrderNotFound,
    OrderNotSent,
    OrderRejected,
    VenueUnavailable,
)
from qmtl.runtime.sdk.brokerage.ccxt_order import Place, classify_ccxt, dump_call
from qmtl.runtime.sdk.brokerage.send_policy import Outcome
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from tests.runtime.sdk.brokerage.through_ccxt.conftest import KEYS, Venue
from tests.runtime.sdk.brokerage.through_ccxt.double import DoubleExchange, double_module

LIMIT = {"symbol": "BTC/USDT", "side": "BUY", "quantity": 0.001, "limit_price": 10_000.0}
Double = Callable[..., Any]


@pytest.fixture
def double(configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Double:
    monkeypatch.setitem(sys.modules, "ccxt", double_module())
    return lambda **given: CcxtBrokerageClient("binance", api_key="k", secret="s", **given)


@pytest.fixture
def spot(paper: Venue) -> Any:
    return CcxtBrokerageClient("binance", **KEYS, sandbox=True, enableRateLimit=False)


def test_17_a_limit_price_without_type_is_a_limit_order(double: Double) -> None:
    client = double()
    client.post_order(LIMIT)
    client.post_order({"symbol": "BTC/USDT", "side": "sell", "amount": -2})
    (first, second) = client.exchange.named("create_order")
    assert first[:5] == ("BTC/USDT", "limit", "buy", 0.001, 10_000.0)
    assert second[:5] == ("BTC/USDT", "market", "sell", 2, None)


def test_21_a_cancel_knows_the_symbol_even_after_a_restart(double: Double, tmp_path: Path) -> None:
    journal = tmp_path / "orders.db"
    client = double(journal=journal)
    assert client.post_order(LIMIT).id == "7"
    assert client.cancel_order("7").status is OrderStatus.CANCELED
    assert client.exchange.named("cancel_order") == [("7", "BTC/USDT")]
    client.close()
    again = double(journal=journal)
    again.cancel_order("7")
    assert again.exchange.named("cancel_order") == [("7", "BTC/USDT")]
    with pytest.raises(OrderNotFound):
        again.cancel_order("8")
    assert len(again.exchange.named("cancel_order")) == 1


def test_24_the_constructor_asks_nobody(double: Double) -> None:
    assert double().exchange.calls == []


def test_25_spot_params_carry_the_client_id(double: Double) -> None:
    client = double()
    result = client.post_order({**LIMIT, "client_order_id": "mine", "tif": "IOC"})
    params = client.exchange.named("create_order")[0][5]
    assert params == {"clientOrderId": "mine", "newClientOrderId": "mine", "timeInForce": "IOC"}
    assert (result.client_order_id, result["status"], result.status) == ("mine", "open", OrderStatus.ACCEPTED)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"time_in_force": "DAY"}, "time_in_force"),
        ({"time_in_force": "GTD", "expire_at": 1}, "time_in_force"),
        ({"stop_loss": 1}, "stop_loss"),
        ({"take_profit": 1}, "take_profit"),
        ({"position_side": "LONG"}, "position_side"),
        ({"reduce_only": True}, "reduce_only"),
        ({"leverage": 2.9}, "leverage"),
        ({"quantity": True}, "quantity"),
    ],
)
def test_what_is_not_native_is_an_error(double: Double, extra: dict[str, Any], told: str) -> None:
    client = double()
    with pytest.raises(OrderValidationError, match=told):
        client.post_order({**LIMIT, **extra})
    assert client.exchange.calls == []


def test_brackets_and_post_only_go_where_ccxt_has_them() -> None:
    order = {
        "type": "limit",
        "side": "BUY",
        "quantity": 1,
        "limit_price": 5,
        "client_order_id": "x",
        "time_in_force": "GTX",
        "stop_loss": 4,
        "take_profit": 6,
    }
    features = {"timeInForce": {"PO": True}, "attachedStopLossTakeProfit": {"triggerPriceType": None}}
    place = Place(symbol="BTC/USDT:USDT", is_contract=True, contract_size=Decimal("0.01"), features=features)
    assert dump_call(order, place) == (
        "BTC/USDT:USDT",
        "limit",
        "buy",
        100.0,
        5,
        {
            "clientOrderId": "x",
            "postOnly": True,
            "stopLoss": {"triggerPrice": 4},
            "takeProfit": {"triggerPrice": 6},
        },
    )


def test_a_spot_order_lives_at_a_real_exchange(spot: Any) -> None:
    assert spot.capabilities == {"find_order", "fetch_open_orders", "fetch_fills", "fetch_balances"}
    placed = spot.post_order({**LIMIT, "symbol": "BTCUSDT", "time_in_force": "GTC"})
    assert (placed.status, placed.quantity, placed.filled) == (
        OrderStatus.ACCEPTED,
        Decimal("0.001"),
        Decimal("0.0"),
    )
    assert [one.id for one in spot.fetch_open_orders()] == [placed.id]
    assert spot.find_order(placed.client_order_id).id == placed.id
    assert spot.find_order("never-sent", "BTC/USDT") is None
    assert spot.cancel_order(placed.id).status is OrderStatus.CANCELED
    assert spot.cancel_order(placed.id).status is OrderStatus.CANCELED
    assert spot.find_order(placed.client_order_id).status is OrderStatus.CANCELED
    assert spot.poll_order_status({"id": "999", "symbol": "BTC/USDT"}) is None
    with pytest.raises(OrderNotFound):
        spot.cancel_order("999", "BTC/USDT")
    bought = spot.post_order({"symbol": "BTC/USDT", "side": "BUY", "quantity": 0.002})
    assert (bought.status, bought.filled) == (OrderStatus.FILLED, Decimal("0.002"))
    [fill] = spot.fetch_fills(0)
    assert (fill.symbol, fill.quantity, fill.client_order_id) == (
        "BTCUSDT",
        Decimal("0.002"),
        bought.client_order_id,
    )
    held = {balance.asset: balance for balance in spot.fetch_balances()}
    assert held["BTC"].total > Decimal("0.0019")


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"quantity": 0.0000123}, "multiple of 0.00001"),
        ({"limit_price": 10_000.001}, "multiple of 0.01"),
        ({"quantity": 0.0001}, "below 5"),
        ({"symbol": "NOPE/USDT"}, "NOPE/USDT"),
    ],
)
def test_what_the_market_forbids_is_never_sent(
    spot: Any, requests_of: Callable[[Any], list[str]], extra: dict[str, Any], told: str
) -> None:
    seen = requests_of(spot)
    with pytest.raises(OrderValidationError, match=told):
        spot.post_order({**LIMIT, **extra})
    assert [line for line in seen if line.startswith("POST")] == []


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.LOST_ANSWER])
def test_a_lost_answer_makes_one_order(spot: Any, paper: Venue, kind: FaultKind) -> None:
    paper.faults.rules.append(FaultRule(kind=kind, route="POST /api/v3/order", times=1))
    placed = spot.post_order(LIMIT)
    assert placed.status is OrderStatus.ACCEPTED
    assert [one.client_order_id for one in spot.fetch_open_orders()] == [placed.client_order_id]


def test_a_rate_limit_is_waited_for(spot: Any, paper: Venue, requests_of: Callable[[Any], list[str]]) -> None:
    seen = requests_of(spot)
    rule = FaultRule(kind=FaultKind.STATUS, status=429, seconds=1, route="POST /api/v3/order", times=1)
    paper.faults.rules.append(rule)
    spot.clock = spot.policy._clock
    before = spot.clock.real_ms()
    assert spot.post_order(LIMIT).status is OrderStatus.ACCEPTED
    assert spot.clock.real_ms() - before >= 1_000
    posts = [line.split("newClientOrderId=")[1].split("&")[0] for line in seen if line.startswith("POST")]
    assert len(posts) == 2
    assert posts[0] == posts[1]


def test_a_wrong_clock_is_compared_and_the_order_sent_again(spot: Any, paper: Venue) -> None:
    spot.fetch_balances()
    real = spot.exchange.milliseconds
    spot.exchange.milliseconds = lambda: real() - 60_000
    assert spot.post_order(LIMIT).status is OrderStatus.ACCEPTED
    assert spot.exchange.options["timeDifference"] < -50_000


def test_refusals_are_final(spot: Any, requests_of: Callable[[Any], list[str]]) -> None:
    seen = requests_of(spot)
    with pytest.raises(OrderRejected, match="InsufficientFunds"):
        spot.post_order({**LIMIT, "quantity": 500})
    assert len([line for line in seen if line.startswith("POST")]) == 1


def test_a_wrong_secret_is_told(paper: Venue) -> None:
    client = CcxtBrokerageClient("binance", apiKey="paper", secret="wrong", sandbox=True)
    with pytest.raises(OrderRejected, match="AuthenticationError"):
        client.post_order(LIMIT)
    with pytest.raises(CancelFailed, match="AuthenticationError"):
        client.cancel_order("1", "BTC/USDT")
    with pytest.raises(VenueUnavailable, match="AuthenticationError"):
        client.poll_order_status({"id": "1", "symbol": "BTC/USDT"})
    assert "wrong" not in repr(client)


def test_nobody_there_means_not_sent(configure: Callable[..., None], free_port: int) -> None:
    configure(ccxt_base_url=f"http://127.0.0.1:{free_port}", trade_max_retries=1, trade_backoff=0)
    client = CcxtBrokerageClient("binance", **KEYS)
    with pytest.raises(OrderNotSent):
        client.post_order(LIMIT)
    with pytest.raises(VenueUnavailable):
        client.fetch_balances()
    assert issubclass(OrderNotSent, BrokerageError)


@pytest.mark.parametrize(
    ("error", "outcome", "looks_first"),
    [
        (ccxt.RateLimitExceeded("x"), Outcome.NOT_TAKEN, False),
        (ccxt.InvalidNonce("x"), Outcome.NOT_TAKEN, False),
        (ccxt.InsufficientFunds("x"), Outcome.FINAL, False),
        (ccxt.BadRequest("x"), Outcome.FINAL, False),
        (ccxt.DuplicateOrderId("x"), Outcome.FINAL, True),
        (ccxt.InvalidOrder('{"code":-2010,"msg":"Duplicate order sent."}'), Outcome.FINAL, True),
        (ccxt.ExchangeError("x"), Outcome.AMBIGUOUS, False),
        (ccxt.RequestTimeout("x"), Outcome.AMBIGUOUS, False),
        (ccxt.DDoSProtection("x"), Outcome.AMBIGUOUS, False),
        (ccxt.OnMaintenance("x"), Outcome.AMBIGUOUS, False),
        (ccxt.NullResponse("x"), Outcome.AMBIGUOUS, False),
        (KeyError("x"), Outcome.AMBIGUOUS, False),
    ],
)
def test_what_an_error_proves(error: Exception, outcome: Outcome, looks_first: bool) -> None:
    verdict = classify_ccxt(error)
    assert (verdict.outcome, verdict.looks_first) == (outcome, looks_first)


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (ccxt.DDoSProtection("x"), 429, Outcome.NOT_TAKEN),
        (ccxt.DDoSProtection("x"), 418, Outcome.NOT_TAKEN),
        (ccxt.ExchangeError("x"), 400, Outcome.FINAL),
        (ccxt.ExchangeError("x"), 408, Outcome.AMBIGUOUS),
        (ccxt.ExchangeError("x"), 502, Outcome.AMBIGUOUS),
        (ccxt.ExchangeError("x"), 200, Outcome.AMBIGUOUS),
    ],
)
def test_what_a_status_adds(error: Exception, status: int, outcome: Outcome) -> None:
    assert classify_ccxt(error, status).outcome is outcome
    error.__cause__ = TimeoutError()
    assert classify_ccxt(error, status).outcome is classify_ccxt(error).outcome


def test_only_the_params_mapping_is_forwarded(double: Double) -> None:
    client = double()
    client.post_order({**LIMIT, "client_order_id": "x", "note": "mine", "params": {"iceberg": 1}})
    params = client.exchange.named("create_order")[0][5]
    assert params == {"iceberg": 1, "clientOrderId": "x", "newClientOrderId": "x"}
    with pytest.raises(OrderValidationError, match="params"):
        client.post_order({**LIMIT, "params": "iceberg"})


def test_the_double_is_used(double: Double) -> None:
    assert isinstance(double().exchange, DoubleExchange)
