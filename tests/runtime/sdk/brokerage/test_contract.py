"""The one suite over the clients that need no third party."""

import pytest

from qmtl.runtime.sdk.brokerage.client import BrokerageClient
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.trade_execution_service import TradeExecutionService
from tests.runtime.leap_clock import LeapClock
from tests.runtime.sdk.brokerage.contract import BrokerageContract
from tests.runtime.sdk.brokerage.http_broker import BookHandle
from tests.runtime.sdk.brokerage.orders import buy, client_of


class TestFake(BrokerageContract):
    order = buy()

    @pytest.fixture
    def client(self) -> BrokerageClient:
        return FakeBrokerageClient()


class TestFakeManual(BrokerageContract):
    order = buy()

    @pytest.fixture
    def client(self) -> BrokerageClient:
        return FakeBrokerageClient(mode="manual", strict=True)


class TestHttp(BrokerageContract):
    order = buy()

    @pytest.fixture
    def client(self, book: BookHandle) -> BrokerageClient:
        return client_of(book)

    def test_18_a_fill_told_by_the_broker_is_the_journals_position(self, book: BookHandle) -> None:
        from qmtl.runtime.sdk.background import BACKGROUND

        client = client_of(book)
        book.set(status="filled")
        client.post_order(buy(quantity=3))
        client.post_order(buy(side="SELL", quantity=1))
        assert BACKGROUND.run(client.position("BTCUSDT")) == 2


class TestService(BrokerageContract):
    order = buy()

    @pytest.fixture
    def client(self, book: BookHandle) -> BrokerageClient:
        return TradeExecutionService(book.url, journal="orders.db", clock=LeapClock())

    def test_fields_that_are_absent_are_not_asked_for(self, book: BookHandle) -> None:
        service = TradeExecutionService(book.url, journal="orders.db", clock=LeapClock())
        service.post_order({"side": "buy", "quantity": 1, "timestamp": 60, "reason": "mine"})
        (asked,) = book.asked()
        assert asked["body"] == {
            "side": "BUY",
            "quantity": 1,
            "timestamp": 60,
            "reason": "mine",
            "type": "market",
            "client_order_id": asked["key"],
        }
