"""The published face of every broker client: plain methods and their `*_async` twins."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from qmtl.core.account import Balance
from qmtl.core.fill import Fill
from qmtl.core.order import BrokerageError
from qmtl.core.position import Position
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage import execution
from qmtl.runtime.sdk.brokerage.order_road import OrderRoad
from qmtl.runtime.sdk.brokerage.result import OrderResult

T = TypeVar("T")
OrderLike = Mapping[str, Any]
OrderPair = tuple[OrderResult, OrderResult]


class BrokerageClient(OrderRoad):
    """Sends orders of one account to one broker; an order becomes one durable intent, one venue order.

    A concrete client names its `capabilities` and `reach` and writes the hooks of OrderRoad: `_send`,
    `_find`, `_poll`, `_cancel`, `_fetch_*`, one request each; domain, risk, journal, ids and resends are
    done here. Constructors do no network I/O.
    """

    def post_order(self, order: OrderLike) -> OrderResult:
        """Send one order; returns the broker's answer. Raises as connectors §1 lists."""
        execution.check_reach(order, self.reach)
        return BACKGROUND.run(self._place(order))

    async def post_order_async(self, order: OrderLike) -> OrderResult:
        """See post_order; cancelling the await recalls nothing."""
        execution.check_reach(order, self.reach)
        return await run_async(self._place(order))

    def poll_order_status(self, order: OrderLike) -> OrderResult | None:
        """Return where an order stands by its `id`, else its client id; None for an unknown order."""
        return BACKGROUND.run(self._status(order))

    async def poll_order_status_async(self, order: OrderLike) -> OrderResult | None:
        """See poll_order_status."""
        return await run_async(self._status(order))

    def cancel_order(self, order_id: str, symbol: str | None = None) -> OrderResult:
        """Cancel; returns the order's true state. OrderNotFound, CancelFailed, VenueUnavailable."""
        return BACKGROUND.run(self._recall(order_id, symbol))

    async def cancel_order_async(self, order_id: str, symbol: str | None = None) -> OrderResult:
        """See cancel_order."""
        return await run_async(self._recall(order_id, symbol))

    def reconcile(self) -> list[OrderResult]:
        """Look up every unsettled order and return those settled; nothing is ever sent again by this.

        Proven absence is REJECTED, `absent`; an intent that never became durable is REJECTED, `not_sent`.
        """
        return BACKGROUND.run(self._reconcile())

    async def reconcile_async(self) -> list[OrderResult]:
        """See reconcile."""
        return await run_async(self._reconcile())

    def find_order(self, client_order_id: str, symbol: str | None = None) -> OrderResult | None:
        """Return an order by its client id; None when its absence is proven."""
        return BACKGROUND.run(self._ask("find_order", lambda: self._find(client_order_id, symbol)))

    async def find_order_async(self, client_order_id: str, symbol: str | None = None) -> OrderResult | None:
        """See find_order."""
        return await run_async(self._ask("find_order", lambda: self._find(client_order_id, symbol)))

    def fetch_open_orders(self, symbol: str | None = None) -> list[OrderResult]:
        """Return the open orders, of `symbol` or all."""
        return BACKGROUND.run(self._ask("fetch_open_orders", lambda: self._fetch_open_orders(symbol)))

    async def fetch_open_orders_async(self, symbol: str | None = None) -> list[OrderResult]:
        """See fetch_open_orders."""
        return await run_async(self._ask("fetch_open_orders", lambda: self._fetch_open_orders(symbol)))

    def fetch_fills(self, since_ms: int, symbol: str | None = None) -> list[Fill]:
        """Return fills since `since_ms` (UTC), oldest first."""
        return BACKGROUND.run(self._ask("fetch_fills", lambda: self._fetch_fills(since_ms, symbol)))

    async def fetch_fills_async(self, since_ms: int, symbol: str | None = None) -> list[Fill]:
        """See fetch_fills."""
        return await run_async(self._ask("fetch_fills", lambda: self._fetch_fills(since_ms, symbol)))

    def fetch_positions(self) -> list[Position]:
        """Return the open positions, signed base units."""
        return BACKGROUND.run(self._ask("fetch_positions", self._fetch_positions))

    async def fetch_positions_async(self) -> list[Position]:
        """See fetch_positions."""
        return await run_async(self._ask("fetch_positions", self._fetch_positions))

    def fetch_balances(self) -> list[Balance]:
        """Return what is held of each asset."""
        return BACKGROUND.run(self._ask("fetch_balances", self._fetch_balances))

    async def fetch_balances_async(self) -> list[Balance]:
        """See fetch_balances."""
        return await run_async(self._ask("fetch_balances", self._fetch_balances))

    def post_oco(self, first: OrderLike, second: OrderLike) -> OrderPair:
        """Send two orders of which the broker cancels one when the other trades."""
        self._check_pair(first, second)
        return BACKGROUND.run(self._post_oco(first, second))

    async def post_oco_async(self, first: OrderLike, second: OrderLike) -> OrderPair:
        """See post_oco."""
        self._check_pair(first, second)
        return await run_async(self._post_oco(first, second))

    def close(self) -> None:
        """Stop settling and close what the client opened; its journal stays open for others."""
        BACKGROUND.run(self.shut())

    def _check_pair(self, first: OrderLike, second: OrderLike) -> None:
        self._need("post_oco")
        for order in (first, second):
            execution.check_reach(order, self.reach)

    def _need(self, capability: str) -> None:
        if capability not in self.capabilities:
            raise BrokerageError(f"{type(self).__name__} cannot {capability}")

    async def _ask(self, capability: str, question: Callable[[], Awaitable[T]]) -> T:
        self._need(capability)
        return await self.policy.ask(question)


async def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await `coroutine` on the background loop; cancelling the await lets it run on."""
    return await asyncio.shield(asyncio.wrap_future(BACKGROUND.start(coroutine)))
