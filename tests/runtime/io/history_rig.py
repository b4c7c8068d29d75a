"""A paper exchange whose history is written by the test, and ccxt pointed at it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from qmtl.runtime.io import rate_limiter
from qmtl.runtime.sdk import runtime
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig
from tests.runtime.leap_clock import LeapClock

T0 = 1_706_745_600
"""2024-02-01 00:00 UTC, in seconds."""
NODE = "ohlcv:binance:BTC/USDT:1m"
KLINES = "GET /api/v3/klines"
TRADES = "GET /api/v3/aggTrades"


def bar(number: int) -> tuple[float, float, float, float, float]:
    """Open, high, low, close and volume of minute `number`: no two minutes agree."""
    base = 40_000 + number
    return base + 0.25, base + 2.5, base - 1.5, base + 0.75, 1 + number % 97


class History:
    """A running exchange with chosen minutes; `clock` is its time and that of the fetchers."""

    def __init__(self, server: PaperExchange, url: str, clock: LeapClock) -> None:
        self.server = server
        self.url = url
        self.clock = clock
        self.klines = self.count(KLINES)
        self.trades = self.count(TRADES)

    def count(self, route: str) -> FaultRule:
        """A rule that never hits; `seen` counts the requests of a route, whatever befalls them."""
        rule = FaultRule(kind=FaultKind.STATUS, route=route, times=0)
        self.server.exchange.faults.rules.insert(0, rule)
        return rule

    def fault(self, kind: FaultKind, route: str = KLINES, **fields: Any) -> FaultRule:
        rule = FaultRule(kind=kind, route=route, **fields)
        self.server.exchange.faults.add(rule)
        return rule


@pytest.fixture
def configure(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`configure(ccxt_base_url=...)`: settings of `connectors`, nothing else in the environment."""
    monkeypatch.chdir(home)

    def put(**connectors: object) -> None:
        for name, value in connectors.items():
            monkeypatch.setenv(f"QMTL_CONNECTORS__{name.upper()}", str(value))
        runtime.reload()

    put()
    yield put
    monkeypatch.undo()
    runtime.reload()
    rate_limiter._buckets.clear()


@pytest.fixture
async def history(configure: Callable[..., None], tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await history(minutes, now_s)`: an exchange with those minutes after T0, ccxt pointed at it."""
    async with AsyncExitStack() as stack:

        async def run(minutes: Iterable[int], now_s: int, **market: Any) -> History:
            lines = ["timestamp,open,high,low,close,volume"]
            lines += [",".join(map(str, ((T0 + 60 * n) * 1000, *bar(n)))) for n in minutes]
            path = tmp_path / f"candles_{now_s}.csv"
            path.write_text("\n".join(lines) + "\n")
            clock = LeapClock(now_s * 1000)
            settings = MarketSettings(candles=path, **market)
            server = PaperExchange(PaperExchangeConfig(is_manual=True, markets=(settings,)), clock)
            urls = await server.start()
            stack.push_async_callback(server.stop)
            configure(ccxt_base_url=urls["rest"])
            return History(server, urls["rest"], clock)

        yield run


async def settle() -> None:
    """Let what is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)
