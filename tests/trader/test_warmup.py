"""The trader's warm-up comes from the provider: stored once, emptied by the demo, never of another market."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from qmtl.core.bar import Bar
from qmtl.engine.clock import SeededRandom
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.sdk import runtime
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig
from qmtl.settings import AccountSection, Settings
from qmtl.trader.warmup import StoredWarmup
from tests.runtime.fast_clock import FastClock

NOW_MS = 1_700_000_045_000
"""Five seconds into a minute: the candle before it has closed for everybody."""


class Market:
    """A running paper exchange, its clock, and how often its candles were asked for."""

    def __init__(self, server: PaperExchange, url: str, clock: FastClock) -> None:
        self.url = url
        self.clock = clock
        self.klines = FaultRule(kind=FaultKind.STATUS, route="GET /fapi/v1/klines", times=0)
        server.exchange.faults.rules.insert(0, self.klines)

    def warmup(self, **options: Any) -> StoredWarmup:
        settings = Settings(account=AccountSection(base_url=self.url))
        return StoredWarmup(settings, self.clock, rng=SeededRandom(1), **options)

    async def direct(self, count: int) -> list[Bar]:
        client = BinanceFuturesClient(base_url=self.url, clock=self.clock, random=SeededRandom(2))
        found = await client.klines("BTCUSDT", "1m", limit=count)
        await client.aclose()
        return found


@asynccontextmanager
async def market(port: int = 0, **fields: Any) -> AsyncIterator[Market]:
    clock = FastClock(pace=1.0, now_ms=NOW_MS)
    settings = MarketSettings(**{"seed": 3, "history": 200, **fields})
    server = PaperExchange(PaperExchangeConfig(is_manual=True, port=port, markets=(settings,)), clock)
    urls = await server.start()
    try:
        yield Market(server, urls["rest"], clock)
    finally:
        await server.stop()


@pytest.fixture(autouse=True)
def fresh_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    runtime._loaded.clear()


async def test_bars_are_the_venues_and_are_stored(home: Path) -> None:
    async with market() as venue:
        bars = await venue.warmup().bars("BTCUSDT", 30)
        assert bars == await venue.direct(30)
        assert venue.klines.seen == 2
        # What is stored is compared with the paper exchange, and not fetched again.
        assert await venue.warmup().bars("BTCUSDT", 30) == bars
        assert venue.klines.seen == 3
        place = home / ".qmtl_seamless_store" / "test" / venue.url.removeprefix("http://").replace(":", "_")
        assert place.is_dir()


async def test_another_market_at_the_same_port_is_found_out(free_port: int) -> None:
    async with market(free_port) as venue:
        old = await venue.warmup().bars("BTCUSDT", 30)
    async with market(free_port, seed=4) as venue:
        with capture_logs() as logs:
            new = await venue.warmup().bars("BTCUSDT", 30)
        assert new == await venue.direct(30)
        assert new != old
    assert "the paper exchange has another market than the one stored" in [one["event"] for one in logs]


async def test_the_demo_begins_with_an_empty_store(free_port: int) -> None:
    async with market(free_port) as venue:
        await venue.warmup(is_fresh=True).bars("BTCUSDT", 30)
        before = venue.klines.seen
        await venue.warmup(is_fresh=True).bars("BTCUSDT", 30)
        assert venue.klines.seen == before + 1


async def test_a_young_market_gives_what_it_has() -> None:
    async with market(history=12) as venue:
        assert await venue.warmup().bars("BTCUSDT", 30) == await venue.direct(30)
