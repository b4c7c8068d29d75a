"""Contracts: settings before the first order, hedge rules, conditional orders of the algo service."""

import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from qmtl.core import event
from qmtl.core.order import Order, OrderIntent, OrderStatus, OrderValidationError, PositionSide, Side
from qmtl.runtime.sdk import FuturesCcxtBrokerageClient, OrderRejected, VenueConfigurationError
from qmtl.runtime.sdk.brokerage.venue import BrokerageVenue
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from tests.runtime.sdk.brokerage.through_ccxt.conftest import KEYS, Venue
from tests.runtime.sdk.brokerage.through_ccxt.double import DoubleError, double_module

LIMIT = {"symbol": "BTC/USDT", "side": "BUY", "quantity": 0.01, "limit_price": 30_000.0}
LONG = {**LIMIT, "position_side": "LONG"}
Make = Callable[..., Any]


@pytest.fixture
def double(configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setitem(sys.modules, "ccxt", double_module())
    return lambda **given: FuturesCcxtBrokerageClient(api_key="k", secret="s", **given)


@pytest.fixture
def futures(paper: Venue) -> Make:
    return lambda **given: FuturesCcxtBrokerageClient(
        "binanceusdm", **KEYS, sandbox=True, enableRateLimit=False, **given
    )


def test_17_stops_are_the_venues_own_types(double: Make) -> None:
    client = double()
    stop = {"symbol": "BTCUSDT", "side": "SELL", "quantity": 1, "stop_price": 5, "reduce_only": True}
    client.post_order({**stop, "type": "stop"})
    client.post_order({**stop, "type": "stop_limit", "limit_price": 4})
    first, second = client.exchange.named("create_order")
    assert first[:5] == ("BTC/USDT:USDT", "STOP_MARKET", "sell", 1, None)
    assert second[:5] == ("BTC/USDT:USDT", "STOP", "sell", 1, 4)
    assert (first[5]["triggerPrice"], first[5]["reduceOnly"]) == (5, True)


def test_23_an_orders_leverage_is_set_last_and_persists(double: Make) -> None:
    client = double(leverage=5)
    client.post_order({**LIMIT, "leverage": 10})
    client.post_order(LIMIT)
    assert client.exchange.named("set_leverage")[-1] == (10, "BTC/USDT:USDT")
    client.post_order({**LIMIT, "leverage": 3})
    assert client.exchange.named("set_leverage")[-1] == (3, "BTC/USDT:USDT")
    client.exchange.fails["set_leverage"] = DoubleError("no")
    with pytest.raises(VenueConfigurationError, match="leverage"):
        client.post_order({**LIMIT, "leverage": 7})
    assert len(client.exchange.named("create_order")) == 3


def test_24_a_failed_setting_is_told_and_applied_anew(double: Make) -> None:
    client = double(leverage=5, hedge_mode=False)
    assert client.exchange.calls == []
    client.exchange.fails["set_margin_mode"] = DoubleError("not now")
    with pytest.raises(VenueConfigurationError, match="margin mode"):
        client.post_order(LIMIT)
    assert client.exchange.named("create_order") == []
    client.post_order(LIMIT)
    assert [name for name, *_ in client.exchange.calls] == [
        "set_position_mode",
        "set_margin_mode",
        "set_position_mode",
        "set_margin_mode",
        "set_leverage",
        "create_order",
    ]
    assert client.exchange.named("set_margin_mode")[-1] == ("CROSS", "BTC/USDT:USDT")


@pytest.mark.parametrize("code", [-4046, -4059])
def test_24_already_so_is_success(double: Make, code: int) -> None:
    client = double(hedge_mode=False)
    for name in ("set_position_mode", "set_margin_mode"):
        client.exchange.fails[name] = DoubleError(f'binance {{"code":{code},"msg":"No need to change."}}')
    assert client.post_order(LIMIT).status is OrderStatus.ACCEPTED


def test_25_sides_need_hedge_mode_and_hedge_mode_needs_sides(double: Make) -> None:
    client = double()
    with pytest.raises(OrderValidationError, match="hedge_mode=True"):
        client.post_order(LONG)
    hedged = double(hedge_mode=True)
    for order in (LIMIT, {**LIMIT, "position_side": "BOTH"}):
        with pytest.raises(OrderValidationError, match="LONG or SHORT"):
            hedged.post_order(order)
    assert client.exchange.calls == hedged.exchange.calls == []


@pytest.mark.parametrize(
    ("side", "position", "sent"),
    [("SELL", "LONG", False), ("BUY", "SHORT", False), ("BUY", "LONG", True), ("SELL", "SHORT", True)],
)
def test_25_hedged_closing_orders_leave_reduce_only_out(
    double: Make, side: str, position: str, sent: bool
) -> None:
    client = double(hedge_mode=True)
    client.post_order({**LIMIT, "side": side, "position_side": position, "reduce_only": True})
    params = client.exchange.named("create_order")[0][5]
    assert params["positionSide"] == position
    assert ("reduceOnly" in params) is sent


@pytest.mark.parametrize("given", [{"margin_mode": "portfolio"}, {"leverage": 0}, {"leverage": True}])
def test_wrong_settings_are_told_by_the_constructor(double: Make, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        double(**given)


def test_25_a_hedged_position_lives_at_a_real_exchange(futures: Make, paper: Venue) -> None:
    client = futures(symbol="BTC/USDT", leverage=5, hedge_mode=True)
    bought = client.post_order({"side": "BUY", "quantity": 0.01, "position_side": "LONG", "leverage": 10})
    assert bought.status is OrderStatus.FILLED
    [held] = client.fetch_positions()
    assert (held.symbol, held.side, held.quantity) == ("BTCUSDT", PositionSide.LONG, Decimal("0.01"))
    stop = {"side": "SELL", "quantity": 0.01, "position_side": "LONG", "type": "stop", "stop_price": 30_000}
    waiting = client.post_order({**stop, "reduce_only": True})
    assert waiting["info"]["orderType"] == "STOP_MARKET"
    assert [one.id for one in client.fetch_open_orders("BTC/USDT")] == [waiting.id]
    assert client.find_order(waiting.client_order_id).id == waiting.id
    seen = client.poll_order_status({"id": waiting.id})
    assert (seen.status, client.cancel_order(waiting.id).status) == (
        OrderStatus.ACCEPTED,
        OrderStatus.CANCELED,
    )
    # Another process knows neither the order nor that it is conditional.
    stranger = futures(hedge_mode=True)
    assert stranger.poll_order_status({"id": waiting.id, "symbol": "BTCUSDT"}).status is OrderStatus.CANCELED
    account = paper.server.exchange.account("paper")
    assert (account.core.margin.leverages["BTCUSDT"], account.core.is_hedged) == (10, True)


def test_23_settings_are_read_back(futures: Make, requests_of: Callable[[Any], list[str]]) -> None:
    client = futures(leverage=5, margin_mode="isolated", hedge_mode=False)
    seen = requests_of(client)
    client.post_order(LIMIT)
    reads = [line.split("?")[0] for line in seen if line.startswith("GET /fapi")]
    assert any("positionSide" in line for line in reads)
    client.exchange.set_leverage = _pretend
    with pytest.raises(VenueConfigurationError, match="is 5, not 9"):
        client.post_order({**LIMIT, "leverage": 9})


async def _pretend(*_: Any) -> dict[str, Any]:
    return {}


def test_24_a_refused_setting_at_a_real_exchange(futures: Make, paper: Venue) -> None:
    client = futures(leverage=5)
    paper.faults.rules.append(
        FaultRule(kind=FaultKind.STATUS, status=503, route="POST /fapi/v1/marginType", times=1)
    )
    with pytest.raises(VenueConfigurationError, match="margin mode"):
        client.post_order(LIMIT)
    assert client.fetch_open_orders() == []
    assert client.post_order(LIMIT).status is OrderStatus.ACCEPTED


def test_a_lost_stop_is_found_among_the_conditional_orders(futures: Make, paper: Venue) -> None:
    client = futures()
    client.post_order({"symbol": "BTC/USDT", "side": "BUY", "quantity": 0.01})
    paper.faults.rules.append(FaultRule(kind=FaultKind.DROP, route="POST /fapi/v1/algoOrder", times=1))
    stop = {"symbol": "BTC/USDT", "side": "SELL", "quantity": 0.01, "type": "stop", "stop_price": 30_000}
    placed = client.post_order({**stop, "reduce_only": True})
    assert [one.client_order_id for one in client.fetch_open_orders()] == [placed.client_order_id]


def test_minimum_notional_binds_openings_alone(futures: Make) -> None:
    client = futures()
    with pytest.raises(OrderValidationError, match="below 5"):
        client.post_order({**LIMIT, "quantity": 0.001, "limit_price": 4_000})
    with pytest.raises(OrderRejected):
        client.post_order(
            {**LIMIT, "side": "SELL", "quantity": 0.001, "limit_price": 90_000, "reduce_only": True}
        )


async def test_an_engines_order_that_waits_is_not_sent_once_it_is_banned(
    futures: Make, paper: Venue, requests_of: Callable[[Any], list[str]]
) -> None:
    client = futures()
    await client.fetch_balances_async()
    seen = requests_of(client)
    bans = iter(["", "halted before it was sent"])
    venue = BrokerageVenue(client, ["BTCUSDT"], find_ban=lambda _: next(bans))
    rule = FaultRule(kind=FaultKind.STATUS, status=429, seconds=1, route="POST /fapi/v1/order", times=1)
    paper.faults.rules.append(rule)
    intent = OrderIntent(symbol="BTCUSDT", side=Side.BUY, quantity=Decimal("0.01"))
    order = Order(client_order_id="q1", intent=intent, ordinal=1, created_ms=0, updated_ms=0)
    [refused] = await venue.submit(order)
    assert isinstance(refused, event.OrderRejected)
    assert refused.reason == "halted before it was sent"
    assert len([line for line in seen if line.startswith("POST /fapi/v1/order")]) == 1
