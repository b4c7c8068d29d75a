"""A paper exchange and a live feed on one virtual clock, over real sockets and real ccxt.pro."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import polars as pl
import pytest

from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.runtime.io.ccxt_live_feed import CcxtProConfig, CcxtProLiveFeed
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig

START_MS = 1_700_000_040_000 + 10
"""Ten milliseconds into a minute."""
BARS = "ohlcv:binance:BTC/USDT:1m"
TRADES = "trades:binance:BTC/USDT"
KLINES = "ws btcusdt@kline_1m"
AGGREGATES = "ws btcusdt@aggTrade"


class Live:
    """Exchange, feed, and what the feed gave; `items` are (virtual second, last ts, frame)."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START_MS)
        self.items: list[tuple[float, int, pl.DataFrame]] = []
        self.dropped_s: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, configure: Callable[..., None], **settings: Any) -> None:
        market = MarketSettings(history=30, seed=4)
        self.server = PaperExchange(PaperExchangeConfig(markets=(market,), **settings), self.clock)
        self.urls = await self.server.start()
        configure(ccxt_base_url=self.urls["rest"])

    @property
    def exchange(self) -> Any:
        return self.server.exchange

    @property
    def market(self) -> Any:
        return self.exchange.markets["BTCUSDT"]

    def make(self, **fields: Any) -> CcxtProLiveFeed:
        given = {"exchange": "binance", "symbols": ["BTC/USDT"], **fields}
        feed = CcxtProLiveFeed(CcxtProConfig(**given), clock=self.clock, rng=SeededRandom(7))
        drop = feed._drop_sockets

        async def noted() -> None:
            self.dropped_s.append(self.clock.real_ms() / 1000)
            await drop()

        feed._drop_sockets = noted  # type: ignore[method-assign]
        self.feed = feed
        return feed

    def listen(self, feed: CcxtProLiveFeed, node_id: str = BARS, interval: int = 60) -> None:
        async def drain() -> None:
            async for last_ts, frame in feed.subscribe(node_id, interval):
                self.items.append((self.clock.real_ms() / 1000, last_ts, frame))

        self.tasks.append(asyncio.create_task(drain()))

    def fault(self, kind: FaultKind, route: str, **fields: Any) -> FaultRule:
        rule = FaultRule(kind=kind, route=route, **fields)
        self.exchange.faults.add(rule)
        return rule

    def is_heard(self) -> bool:
        """Tell whether somebody subscribed to a stream; ccxt's address alone names one without a channel."""
        return any("@" in name and held for hub in self.exchange.hubs for name, held in hub._by_name.items())

    async def until(self, is_so: Callable[[], object], within_s: float = 60.0) -> None:
        """Wait in real time, the virtual clock standing still."""
        end = asyncio.get_running_loop().time() + within_s
        while not is_so():
            self.raise_failures()
            assert asyncio.get_running_loop().time() < end, "waited in vain"
            await asyncio.sleep(0.005)

    def raise_failures(self) -> None:
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def pass_time(self, seconds: float, step_s: float = 0.5) -> None:
        """Let virtual time pass, and sockets keep up with it."""
        for _ in range(round(seconds / step_s)):
            await self.clock.advance(step_s)
            # A stalled listener never drains.
            with suppress(TimeoutError):
                await asyncio.wait_for(self.exchange.drain(), 0.05)
            await asyncio.sleep(0.006)
        self.raise_failures()

    async def pass_until(
        self, is_so: Callable[[], object], within_s: float = 600.0, step_s: float = 2.5
    ) -> None:
        """Let virtual time pass until something is so."""
        for _ in range(round(within_s / step_s)):
            if is_so():
                return
            await self.pass_time(step_s, step_s)
        assert is_so(), "waited in vain"

    def closed(self) -> list[tuple[Any, ...]]:
        """Every closed row given, in order."""
        return [row[:6] for _, _, frame in self.items for row in frame.rows() if row[6]]

    def truth(self, first_ts: int, last_ts: int) -> list[tuple[Any, ...]]:
        """The exchange's own closed bars as a client reads them."""
        market = self.market
        return [
            (
                bar.open_ms // 1000,
                *(float(f"{price:.8f}") for price in (bar.open, bar.high, bar.low, bar.close)),
                float(market.quantity(bar.volume)),
            )
            for bar in market.bars
            if first_ts <= bar.open_ms // 1000 <= last_ts
        ]

    async def close(self) -> None:
        if hasattr(self, "feed"):
            await self.feed.aclose()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.server.stop()


@pytest.fixture
async def live(configure: Callable[..., None]) -> AsyncIterator[Live]:
    # Loading every exchange there is takes longer than the waits below allow on a busy machine.
    pytest.importorskip("ccxt.pro")
    async with AsyncExitStack() as stack:
        place = Live()
        await place.open(configure)
        stack.push_async_callback(place.close)
        yield place
