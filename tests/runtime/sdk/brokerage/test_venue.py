"""engine.ports.Venue over a broker client."""

from decimal import Decimal

import pytest

from qmtl.core.event import (
    AccountReconciled,
    CancelRejected,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
)
from qmtl.core.order import (
    BrokerageError,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Role,
    Side,
    WorkingType,
)
from qmtl.engine.ports import Venue
from qmtl.runtime.sdk.brokerage.execution import ExecutionContext, running
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.venue import BrokerageVenue, dump_intent
from tests.runtime.sdk.brokerage.http_broker import BookHandle
from tests.runtime.sdk.brokerage.orders import client_of


def order_of(key: str = "q1", **fields: object) -> Order:
    given: dict[str, object] = {
        "symbol": "BTCUSDT",
        "side": Side.BUY,
        "quantity": Decimal(2),
        "type": OrderType.LIMIT,
        "limit_price": Decimal(100),
    }
    intent = OrderIntent(**(given | fields))  # type: ignore[arg-type]
    return Order(client_order_id=key, intent=intent, ordinal=1, created_ms=0, updated_ms=0)


def venue_of(client: FakeBrokerageClient) -> Venue:
    return BrokerageVenue(client, ["BTCUSDT"])


async def test_submit_tells_acceptance_fills_and_records_nothing() -> None:
    client = FakeBrokerageClient()
    venue = venue_of(client)
    accepted, filled = await venue.submit(order_of())
    assert isinstance(accepted, OrderAccepted)
    assert (accepted.client_order_id, accepted.venue_order_id) == ("q1", "1")
    assert isinstance(filled, OrderFilled)
    assert (filled.symbol, filled.trade_id) == ("BTCUSDT", "1")
    assert (filled.quantity, filled.price) == (Decimal(2), Decimal(100))
    assert client.desk.journal.find("q1") is None
    assert venue.reach == "memory"
    assert len(await venue.submit(order_of())) == 2
    await venue.aclose()


async def test_cancel_settle_and_reconcile() -> None:
    client = FakeBrokerageClient(mode="manual", strict=True)
    venue = venue_of(client)
    orders = [order_of(f"q{n}") for n in range(4)]
    for number, order in enumerate(orders[:3]):
        (news,) = await venue.submit(order)
        assert isinstance(news, OrderAccepted)
        order.venue_order_id, order.status = str(number + 1), OrderStatus.ACCEPTED
    assert [type(one) for one in await venue.cancel(orders[0])] == [OrderAccepted, OrderCanceled]
    client.fill("2", 0.5)
    stated = await venue.account()
    assert [(one.client_order_id, one.filled) for one in stated.orders] == [
        ("q1", Decimal("0.5")),
        ("q2", Decimal(0)),
    ]
    assert [(held.symbol, held.quantity) for held in stated.positions] == [("BTCUSDT", Decimal("0.5"))]
    client.fill("3")
    *told, last = await venue.reconcile(0, orders[:3])
    assert isinstance(last, AccountReconciled)
    assert last.positions[0].quantity == Decimal("2.5")
    fills = [(one.client_order_id, one.quantity) for one in told if isinstance(one, OrderFilled)]
    assert sorted(fills) == [("q1", Decimal("0.5")), ("q2", Decimal(2))]
    assert [one.client_order_id for one in told if isinstance(one, OrderCanceled)] == ["q0"]
    (late,) = [one for one in await venue.cancel(orders[2]) if not isinstance(one, OrderAccepted)]
    assert isinstance(late, OrderFilled)
    client.policy._absence_window_s = 0.0
    (absent,) = await venue.settle(orders[3])
    assert isinstance(absent, OrderRejected)
    assert absent.reason == "absent"
    orders[3].venue_order_id = "77"
    assert [type(one) for one in await venue.cancel(orders[3])] == [OrderRejected]


async def test_refusals_are_events() -> None:
    venue = venue_of(FakeBrokerageClient())
    (trailing,) = await venue.submit(order_of(type=OrderType.TRAILING_STOP_MARKET))
    assert isinstance(trailing, OrderRejected)
    assert "TRAILING_STOP_MARKET" in trailing.reason
    with running(ExecutionContext("shadow")):
        (refused,) = await venue.submit(order_of())
    assert isinstance(refused, OrderRejected)
    assert "shadow" in refused.reason
    assert not isinstance(refused, CancelRejected)


def test_a_client_that_cannot_state_its_account_carries_no_engine(book: BookHandle) -> None:
    with pytest.raises(BrokerageError, match="fetch_positions"):
        BrokerageVenue(client_of(book), ["BTCUSDT"])


def test_an_intent_as_brokers_read_it() -> None:
    stop = order_of(
        type=OrderType.STOP_MARKET,
        limit_price=None,
        stop_price=Decimal("90.5"),
        side=Side.SELL,
        close_position=True,
        working_type=WorkingType.MARK_PRICE,
        role=Role.PROTECTION,
    )
    assert dump_intent(stop.intent) == {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "type": "stop",
        "quantity": 2.0,
        "stop_price": 90.5,
        "params": {"closePosition": True, "workingType": "MARK_PRICE"},
    }
