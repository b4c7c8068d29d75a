"""One-cancels-other pairs: the broker's own, else the sibling of a leg that trades is cancelled."""

from qmtl.core.order import BrokerageError
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage.client import BrokerageClient, OrderLike, OrderPair
from qmtl.runtime.sdk.brokerage.result import OCOBothFilled, OrderResult


class OCOOrder:
    """Two orders of which one should trade; where the broker has no such pair, a resting one needs `monitor`.

    Between the fill of one leg and the cancel of the other a broker without pairs can fill both:
    OCOBothFilled says so.
    """

    def __init__(self, first: OrderLike, second: OrderLike) -> None:
        """Keep the two orders; nothing is sent yet."""
        self.first = first
        self.second = second
        self.results: OrderPair | None = None

    def execute(self, client: BrokerageClient) -> OrderPair:
        """Post both; when the second fails, cancel the first and raise what it failed with."""
        return BACKGROUND.run(self.execute_async(client))

    async def execute_async(self, client: BrokerageClient) -> OrderPair:
        """See execute."""
        if "post_oco" in client.capabilities:
            self.results = await client.post_oco_async(self.first, self.second)
            return self.results
        for leg in (self.first, self.second):
            client.check_oco_leg(leg)
        first = await client.post_order_async(self.first)
        try:
            second = await client.post_order_async(self.second)
        except BrokerageError:
            if not first.done:
                await client.cancel_order_async(first.id, self.first.get("symbol"))
            raise
        self.results = await self._link(client, first, second)
        return self.results

    def monitor(self, client: BrokerageClient, timeout_s: float | None = None) -> OrderPair:
        """Poll until both legs are done, cancelling the sibling of a leg that trades.

        TimeoutError after `timeout_s`, RuntimeError before `execute`.
        """
        return BACKGROUND.run(self.monitor_async(client, timeout_s))

    async def monitor_async(self, client: BrokerageClient, timeout_s: float | None = None) -> OrderPair:
        """See monitor."""
        if self.results is None:
            raise RuntimeError("monitor: the pair was not executed")
        begun_ms = client.clock.real_ms()
        while not all(leg.done for leg in self.results):
            if timeout_s is not None and client.clock.real_ms() - begun_ms >= timeout_s * 1000:
                raise TimeoutError(f"the pair is not done after {timeout_s} s")
            legs = [await self._poll(client, leg) for leg in self.results]
            self.results = await self._link(client, legs[0], legs[1])
            if not all(leg.done for leg in self.results):
                await client.clock.sleep(runtime.POLL_INTERVAL_SECONDS)
        return self.results

    async def _poll(self, client: BrokerageClient, leg: OrderResult) -> OrderResult:
        if leg.done:
            return leg
        symbol = (self.first if self.results and leg is self.results[0] else self.second).get("symbol")
        latest = await client.poll_order_status_async({"id": leg.id, "symbol": symbol})
        return leg if latest is None else latest

    async def _link(self, client: BrokerageClient, first: OrderResult, second: OrderResult) -> OrderPair:
        """Cancel the sibling of a leg with fills; OCOBothFilled when both have some."""
        if first.filled and not second.done:
            second = await client.cancel_order_async(second.id, self.second.get("symbol"))
        elif second.filled and not first.done:
            first = await client.cancel_order_async(first.id, self.first.get("symbol"))
        if first.filled and second.filled:
            self.results = (first, second)
            raise OCOBothFilled(self.results)
        return first, second
