"""Pairs over a client without pairs of its own, and the published snippets as they stand."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.order import OrderStatus, OrderValidationError
from qmtl.runtime.sdk import CcxtBrokerageClient, FuturesCcxtBrokerageClient, OCOOrder, OrderRejected
from tests.runtime.sdk.brokerage.through_ccxt.conftest import KEYS, Venue

BUY = {"symbol": "BTC/USDT", "side": "BUY", "quantity": 0.01}
LOW = {**BUY, "limit_price": 10_000.0}


@pytest.fixture
def spot(paper: Venue) -> Any:
    return CcxtBrokerageClient("binance", **KEYS, sandbox=True, enableRateLimit=False)


def test_26_a_rejected_second_leg_cancels_the_first(spot: Any) -> None:
    with pytest.raises(OrderRejected, match="InsufficientFunds"):
        OCOOrder(LOW, {**LOW, "side": "SELL", "limit_price": 90_000.0}).execute(spot)
    assert spot.fetch_open_orders("BTC/USDT") == []


def test_26_a_partly_filled_leg_cancels_its_sibling(spot: Any, paper: Venue) -> None:
    ticker = spot.fetch_balances() and paper.server.exchange.markets["BTCUSDT"].bars[-1].close
    deep = {**BUY, "quantity": 2, "limit_price": round(ticker * 1.02, 2)}
    create = spot.exchange.create_order

    async def partly(*args: Any) -> Any:
        answer = await create(*args)
        return {**answer, "filled": 0.4, "status": "open"} if args[3] == 2 else answer

    spot.exchange.create_order = partly
    first, second = OCOOrder({**deep, "limit_price": 20_000.0}, LOW).execute(spot)
    assert (first.status, first.filled) == (OrderStatus.PARTIALLY_FILLED, Decimal("0.4"))
    assert (second.status, second.filled) == (OrderStatus.CANCELED, 0)


def test_26_a_filled_leg_cancels_its_sibling(spot: Any) -> None:
    first, second = OCOOrder(BUY, LOW).execute(spot)
    assert (first.status, second.status) == (OrderStatus.FILLED, OrderStatus.CANCELED)


def test_26_contracts_pair_only_to_close(paper: Venue, requests_of: Callable[[Any], list[str]]) -> None:
    client = FuturesCcxtBrokerageClient(**KEYS, sandbox=True, enableRateLimit=False)
    seen = requests_of(client)
    closing = {**BUY, "side": "SELL", "limit_price": 90_000.0, "reduce_only": True}
    with pytest.raises(OrderValidationError, match="closing"):
        OCOOrder(closing, {**LOW}).execute(client)
    assert seen == []
    client.post_order(BUY)
    stop = {**BUY, "side": "SELL", "type": "stop", "stop_price": 30_000, "reduce_only": True}
    first, second = OCOOrder(closing, stop).execute(client)
    assert (first.status, second.status) == (OrderStatus.ACCEPTED, OrderStatus.ACCEPTED)


def snippets(page: Path) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [block for block in blocks if "CcxtBrokerageClient(" in block]


@pytest.mark.parametrize("page", ["connectors.en.md", "connectors.ko.md"])
def test_1_the_published_ccxt_snippets_run(page: str, paper: Venue, recorded_data: Path) -> None:
    path = recorded_data.parent / "seeds" / page
    if not path.is_file():
        pytest.skip(f"no published page: {path} is missing")
    blocks = snippets(path)
    assert len(blocks) == 2
    for block in blocks:
        place: dict[str, Any] = {}
        exec(compile(block, page, "exec"), place)
        answer = place["resp"]
        assert answer.status is OrderStatus.ACCEPTED
        assert place["client"].cancel_order(answer.id).status is OrderStatus.CANCELED
