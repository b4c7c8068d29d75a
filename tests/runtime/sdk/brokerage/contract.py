"""The suite every broker client passes (connectors.md §10 item 18); a client's tests give `client`."""

import asyncio
from typing import Any

import pytest

from qmtl.core.account import Balance
from qmtl.core.fill import Fill
from qmtl.core.order import BrokerageError, OrderStatus, OrderValidationError
from qmtl.core.position import Position
from qmtl.runtime.sdk.brokerage.client import BrokerageClient
from qmtl.runtime.sdk.brokerage.result import OrderNotFound, OrderResult

OPTIONAL: dict[str, tuple[tuple[Any, ...], type]] = {
    "find_order": (("nobody-knows-this",), type(None)),
    "fetch_open_orders": ((), OrderResult),
    "fetch_fills": ((0,), Fill),
    "fetch_positions": ((), Position),
    "fetch_balances": ((), Balance),
}
TWINS = ("post_order", "poll_order_status", "cancel_order", "reconcile", "post_oco", *OPTIONAL)


class BrokerageContract:
    """`order` is a small resting limit buy that the client's broker takes."""

    order: dict[str, Any]

    def test_18_every_method_has_its_twin(self, client: BrokerageClient) -> None:
        for name in TWINS:
            assert asyncio.iscoroutinefunction(getattr(client, f"{name}_async"))
            assert not asyncio.iscoroutinefunction(getattr(client, name))

    def test_18_capabilities_name_exactly_what_works(self, client: BrokerageClient) -> None:
        assert client.capabilities <= set(OPTIONAL) | {"post_oco"}
        client.post_order(self.order)
        for name, (arguments, kind) in OPTIONAL.items():
            if name not in client.capabilities:
                with pytest.raises(BrokerageError, match=name):
                    getattr(client, name)(*arguments)
                continue
            symbol = {"symbol": self.order["symbol"]} if name == "find_order" else {}
            answer = getattr(client, name)(*arguments, **symbol)
            rows = answer if isinstance(answer, list) else [answer]
            assert all(isinstance(row, kind) for row in rows)
        if "post_oco" not in client.capabilities:
            with pytest.raises(BrokerageError, match="post_oco"):
                client.post_oco(self.order, self.order)

    def test_18_post_poll_cancel(self, client: BrokerageClient) -> None:
        posted = client.post_order(self.order)
        assert posted.id
        assert posted.client_order_id
        symbol = self.order["symbol"]
        polled = client.poll_order_status({"id": posted.id, "symbol": symbol})
        assert polled is not None
        assert polled.id == posted.id
        ended = client.cancel_order(posted.id)
        assert ended.id == posted.id
        last = client.poll_order_status({"id": posted.id, "symbol": symbol})
        assert last is not None
        assert last.done
        with pytest.raises(OrderNotFound):
            client.cancel_order("999999999", symbol)
        assert client.poll_order_status({"id": "999999999", "symbol": symbol}) is None

    async def test_18_async_and_sync_are_one(self, client: BrokerageClient) -> None:
        posted = await client.post_order_async({**self.order, "client_order_id": "one-id"})
        assert client.post_order({**self.order, "client_order_id": "one-id"}).id == posted.id
        found = await client.poll_order_status_async({"id": posted.id, "symbol": self.order["symbol"]})
        assert found is not None
        assert found.id == posted.id
        await client.cancel_order_async(posted.id, self.order["symbol"])

    def test_18_find_by_client_id(self, client: BrokerageClient) -> None:
        if "find_order" not in client.capabilities:
            pytest.skip("the client cannot be asked by client id")
        posted = client.post_order({**self.order, "client_order_id": "look-me-up"})
        found = client.find_order("look-me-up", self.order["symbol"])
        assert found is not None
        assert (found.id, found.client_order_id) == (posted.id, "look-me-up")
        assert client.find_order("nobody-knows-this", self.order["symbol"]) is None

    def test_18_wrong_orders_reach_nobody(self, client: BrokerageClient) -> None:
        for wrong in (
            {"quantity": 0},
            {"quantity": float("nan")},
            {"quantity": True},
            {"quantity": -1},
            {"amount": 77, "quantity": 1},
            {"reduce_only": "yes"},
            {"leverage": 2.9},
        ):
            with pytest.raises(OrderValidationError):
                client.post_order({**self.order, **wrong})

    def test_18_without_positions_the_journals_position_counts(self, client: BrokerageClient) -> None:
        from qmtl.runtime.sdk.background import BACKGROUND

        posted = client.post_order(self.order)
        symbol = "BTCUSDT"
        held = BACKGROUND.run(client.position(symbol))
        if "fetch_positions" in client.capabilities:
            stated = [one for one in client.fetch_positions() if one.symbol.startswith("BTC")]
            assert held == sum(one.quantity for one in stated)
        else:
            assert held == (posted.filled or 0)
        if posted.status is not OrderStatus.FILLED:
            client.cancel_order(posted.id)
