"""connectors.md §10, items 2 and 26: the broker in memory, and one-cancels-other pairs."""

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from qmtl.core.order import OrderStatus
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.result import (
    CancelFailed,
    OCOBothFilled,
    OrderNotFound,
    OrderRejected,
    VenueUnavailable,
)
from qmtl.runtime.sdk.oco import OCOOrder
from tests.processor_time import STANDARD, processor_s
from tests.runtime.sdk.brokerage.http_broker import BookHandle
from tests.runtime.sdk.brokerage.orders import buy, client_of

TARGET = buy(side="SELL", limit_price=110)
STOP = {"symbol": "BTC/USDT", "side": "SELL", "quantity": 1, "type": "stop", "stop_price": 90}


def test_02_an_order_completes_at_once() -> None:
    order = {"symbol": "BTC/USDT", "side": "BUY", "type": "market", "quantity": 0.01}
    result = FakeBrokerageClient().post_order(order)
    assert isinstance(result, dict)
    assert result == {
        "id": "1",
        "client_order_id": result.client_order_id,
        "status": "completed",
        "echo": order,
    }
    assert (result.status, result.done) == (OrderStatus.FILLED, True)
    assert (result.filled, result.remaining) == (Decimal("0.01"), Decimal(0))


def test_02_a_pair_completes_and_cancels() -> None:
    first, second = OCOOrder(TARGET, STOP).execute(FakeBrokerageClient())
    assert (first["status"], second["status"]) == ("completed", "canceled")
    assert second.filled == 0


def test_02_the_import_is_fast_and_light() -> None:
    code = (
        "import sys\n"
        "from qmtl.runtime.sdk import FakeBrokerageClient\n"
        "print(sorted({'ccxt', 'aiohttp', 'pandas', 'polars'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert processor_s(code) < 5 * processor_s(STANDARD)


def test_a_repeated_client_id_is_the_first_record() -> None:
    client = FakeBrokerageClient()
    first = client.post_order(buy(client_order_id="mine"))
    assert client.post_order(buy(client_order_id="mine")) == first
    assert client.post_order(buy()).id == "2"


def test_manual_orders_rest_until_filled() -> None:
    client = FakeBrokerageClient(mode="manual")
    order = client.post_order(buy())
    assert (order["status"], order.status) == ("open", OrderStatus.ACCEPTED)
    part = client.fill(order.id, quantity=0.4, price=99.5)
    assert (part.status, part.filled, part.average_price) == (
        OrderStatus.PARTIALLY_FILLED,
        Decimal("0.4"),
        Decimal("99.5"),
    )
    assert [one.id for one in client.fetch_open_orders("BTCUSDT")] == ["1"]
    assert client.fill(order.id).status is OrderStatus.FILLED
    assert client.fetch_open_orders() == []
    (held,) = client.fetch_positions()
    assert (held.quantity, held.entry_price) == (Decimal(1), Decimal("99.8"))
    assert [fill.quantity for fill in client.fetch_fills(0)] == [Decimal("0.4"), Decimal("0.6")]
    with pytest.raises(OrderNotFound):
        client.fill(order.id)


def test_loose_and_strict_answers() -> None:
    loose, strict = FakeBrokerageClient(), FakeBrokerageClient(strict=True)
    answer = loose.poll_order_status(buy())
    assert answer is not None
    assert (answer["status"], answer["echo"]) == ("completed", buy())
    assert strict.poll_order_status(buy()) is None
    assert loose.cancel_order(loose.post_order(buy()).id)["status"] == "canceled"
    assert strict.cancel_order(strict.post_order(buy()).id)["status"] == "completed"
    for client in (loose, strict):
        assert client.poll_order_status({"id": "77"}) is None
        with pytest.raises(OrderNotFound):
            client.cancel_order("77")
    with pytest.raises(ValueError, match="mode"):
        FakeBrokerageClient(mode="slow")  # type: ignore[arg-type]


@pytest.mark.parametrize("leg", [0, 1])
def test_26_any_fill_of_a_manual_pair_cancels_the_sibling(leg: int) -> None:
    client = FakeBrokerageClient(mode="manual")
    pair = OCOOrder(TARGET, STOP)
    legs = pair.execute(client)
    assert [one.status for one in legs] == [OrderStatus.ACCEPTED] * 2
    client.fill(legs[leg].id, quantity=0.4)
    sibling = client.poll_order_status({"id": legs[1 - leg].id})
    assert sibling is not None
    assert (sibling.status, sibling.filled) == (OrderStatus.CANCELED, Decimal(0))
    client.fill(legs[leg].id)
    assert [one.done for one in pair.monitor(client)] == [True, True]


def test_26_a_rejected_second_leg_cancels_the_first(book: BookHandle) -> None:
    client = client_of(book)
    book.set(plan={"POST": ["ok", "400"]})
    with pytest.raises(OrderRejected):
        OCOOrder(TARGET, STOP).execute(client)
    assert [order["status"] for order in book.orders] == ["canceled"]


def answers(book: BookHandle, *orders: dict[str, Any]) -> None:
    """Let the broker's two orders stand as `orders` say."""
    book.set(orders=[{**known, **order} for known, order in zip(book.orders, orders, strict=True)])


def test_26_manual_pair_over_http_cancels_the_sibling_of_a_leg_with_fills(book: BookHandle) -> None:
    client = client_of(book)
    pair = OCOOrder(TARGET, STOP)
    pair.execute(client)
    assert [order["status"] for order in book.orders] == ["open", "open"]
    answers(book, {"status": "open", "filled": 0.4}, {})
    with pytest.raises(TimeoutError):
        pair.monitor(client, timeout_s=5)
    assert book.orders[1]["status"] == "canceled"
    answers(book, {"status": "filled", "filled": 1}, {})
    done = pair.monitor(client)
    assert [one.status for one in done] == [OrderStatus.FILLED, OrderStatus.CANCELED]


def test_26_both_filled_and_a_failed_cancel_are_told(book: BookHandle) -> None:
    client = client_of(book)
    book.set(status="filled")
    with pytest.raises(OCOBothFilled) as caught:
        OCOOrder(TARGET, STOP).execute(client)
    assert [one.status for one in caught.value.oco] == [OrderStatus.FILLED] * 2
    book.set(status="open", always={"DELETE": "500"})
    pair = OCOOrder({**TARGET, "quantity": 2}, {**STOP, "quantity": 2})
    pair.execute(client)
    book.set(orders=[*book.orders[:2], {**book.orders[2], "filled": 1}, book.orders[3]])
    with pytest.raises(VenueUnavailable):
        pair.monitor(client, timeout_s=5)
    book.set(always={"DELETE": "403"})
    with pytest.raises(CancelFailed):
        pair.monitor(client, timeout_s=5)
