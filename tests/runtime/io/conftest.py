"""A paper exchange stepped by hand, and the venue's parts connected to it over loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from qmtl.core.event import AnyEvent, BarClosed
from qmtl.core.order import Order, OrderIntent, Side
from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.runtime.io.binance_feed import BinanceFuturesFeed, FeedSettings
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import PaperExchangeConfig

START_MS = 1_700_000_040_000
MINUTE_MS = 60_000
PACE = 0.01


class FollowClock:
    """The exchange's time, and sleeps that take a hundredth of what they say."""

    speed = 1.0

    def __init__(self, leader: VirtualClock) -> None:
        self._leader = leader
        self._real_ms = 0.0

    def now_ms(self) -> int:
        return self._leader.now_ms()

    def real_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1000 / PACE

    async def sleep(self, real_s: float) -> None:
        await asyncio.sleep(real_s * PACE)


class Room:
    """Exchange, client, venue, feed and what the feed told."""

    def __init__(self) -> None:
        self.exchange_clock = VirtualClock(START_MS)
        self.clock = FollowClock(self.exchange_clock)
        self.random = SeededRandom(11)
        self.events: list[AnyEvent] = []
        self.orders: list[Order] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def open(self, **settings: Any) -> None:
        config = PaperExchangeConfig(is_manual=True, **settings)
        self.paper = PaperExchange(config, self.exchange_clock)
        self.urls = await self.paper.start()
        self.client = BinanceFuturesClient(
            "paper", "paper", self.urls["rest"], clock=self.clock, random=self.random
        )
        self.venue = BinanceFuturesVenue(self.client, ["BTCUSDT"])
        self._closers += [self.paper.stop, self.venue.aclose]

    async def listen(self, **settings: Any) -> BinanceFuturesFeed:
        async def reconcile(since_ms: int) -> Sequence[AnyEvent]:
            return await self.venue.reconcile(since_ms, self.orders)

        settings = {"symbols": ("BTCUSDT",), "kline_every_s": 1e6, "mark_every_s": 1e6, **settings}
        feed = BinanceFuturesFeed(
            self.client,
            FeedSettings(**settings),
            ws_url=self.urls["ws"],
            venue=self.venue,
            reconcile=reconcile,
        )

        async def drain() -> None:
            async for event in feed.events():
                self.events.append(event)

        task = asyncio.create_task(drain())

        async def close() -> None:
            await feed.aclose()
            await task

        self._closers.append(close)
        await self.until(lambda: "user" not in self.stale(feed) and feed._market.connects)
        return feed

    def stale(self, feed: BinanceFuturesFeed) -> list[str]:
        """Streams that are not fresh; before the first step those of the market are."""
        return [name for name, (_, is_fresh) in feed.watch.ages_s().items() if not is_fresh]

    async def until(self, is_so: Callable[[], object], within_s: float = 60.0) -> None:
        end = asyncio.get_running_loop().time() + within_s
        while not is_so():
            assert asyncio.get_running_loop().time() < end, "waited in vain"
            await asyncio.sleep(0.002)

    async def step(self, count: int = 1) -> None:
        for _ in range(count):
            await self.paper.step()

    async def step_until(self, is_so: Callable[[], object], limit: int = 400) -> None:
        """Let the market move, one update at a time, until something is so."""
        for _ in range(limit):
            if is_so():
                return
            await self.step()
            await asyncio.sleep(0.003)
        assert is_so(), "waited in vain"

    def fault(self, kind: FaultKind, route: str, **fields: Any) -> FaultRule:
        rule = FaultRule(kind=kind, route=route, **fields)
        self.paper.exchange.faults.add(rule)
        return rule

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    def bars(self) -> list[BarClosed]:
        return self.of(BarClosed)

    def make_order(self, key: str, side: Side = Side.BUY, quantity: str = "0.01", **fields: Any) -> Order:
        intent = OrderIntent(symbol="BTCUSDT", side=side, quantity=Decimal(quantity), **fields)
        now_ms = self.clock.now_ms()
        order = Order(client_order_id=key, intent=intent, ordinal=1, created_ms=now_ms, updated_ms=now_ms)
        self.orders.append(order)
        return order

    def at_venue(self) -> list[str]:
        """Client ids of every order the exchange ever took, plain and conditional."""
        account = self.paper.exchange.accounts["paper"]
        plain = [order.client_id for order in account.orders.values() if not order.algo_id]
        return plain + [algo.client_id for algo in account.algos.values()]

    async def close(self) -> None:
        for close in reversed(self._closers):
            await close()


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    place = Room()
    await place.open()
    yield place
    await place.close()
