"""A worker that fetches ranges through a provider: `python -m … JSON`, one line of JSON per range.

{"store": dsn, "windows": [[start, end]], "coordinator": url or null, "token": file or null, "bars": window,
"kill_at": n}: at the n-th line that the provider's and the store's modules execute the process sends itself
SIGKILL; 0 lets it finish.
"""

import asyncio
import json
import sys
import threading
from types import FrameType
from typing import Any

import aiohttp

from qmtl.engine.clock import SystemClock
from qmtl.runtime.io.bar_fetcher import BarFetcher
from qmtl.runtime.io.fetch_settings import FetchSettings
from qmtl.runtime.io.request_lane import Fault
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider, open_store
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.history import RetryableFetchError
from qmtl.runtime.sdk.seamless_data_provider import BackfillConfig, CacheConfig
from tests.contracts.backfill_child import Executioner

SERIES: dict[str, Any] = {"node_id": "ohlcv:binance:BTC/USDT:1m", "interval": 60}
_TRACED = ("/qmtl/runtime/io/", "gap_filler.py", "leased_fill.py", "lease_keeper.py", "in_flight.py")


class PaperBars:
    """Bars of the paper exchange over plain HTTP: importing ccxt takes longer than all else a worker does."""

    environment = "test"
    rate_limit_ms = None
    errors: tuple[type[Exception], ...] = (aiohttp.ClientError,)

    def __init__(self) -> None:
        self.endpoint = runtime.settings().connectors.ccxt_base_url
        self._session: aiohttp.ClientSession | None = None

    def judge(self, error: Exception) -> Fault:
        return Fault(RetryableFetchError, str(error))

    async def open(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fetch_time_ms(self) -> int | None:
        return None

    async def fetch_bars(self, symbol: str, timeframe: str, since_ms: int, limit: int) -> list[list[Any]]:
        assert self._session is not None
        query: dict[str, Any] = {"symbol": symbol.replace("/", ""), "interval": timeframe, "limit": limit}
        async with self._session.get(
            f"{self.endpoint}/api/v3/klines", params={**query, "startTime": since_ms}, raise_for_status=True
        ) as answer:
            return [[row[0], *map(float, row[1:6])] for row in await answer.json()]


def make_fetcher() -> BarFetcher:
    settings = FetchSettings(exchange="binance", symbols=["BTC/USDT"], batch_limit=50)
    return BarFetcher(settings, PaperBars(), timeframe="1m", grid_offset_s=None, clock=SystemClock())


class ProviderExecutioner(Executioner):
    """Counts the lines of a backfill, from the claim to the coverage."""

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not any(part in name for part in _TRACED) or "rate_limiter" in name:
            return None
        return super().trace(frame, event, argument) or self.trace


async def main(work: dict[str, Any]) -> None:
    coordinator = None
    if work.get("coordinator"):
        coordinator = CoordinatorClient(work["coordinator"], token=work.get("token"))
    provider = EnhancedQuestDBProvider(
        store=open_store(work["store"], table=work.get("table")),
        fetcher=make_fetcher(),
        strategy="auto_backfill",
        cache=CacheConfig(enable=False),
        backfill_config=BackfillConfig(
            window_bars=work["bars"], max_concurrent_requests=3, lease_ttl_ms=work.get("ttl_ms", 60_000)
        ),
        coordinator=coordinator,
    )
    print("ready", flush=True)
    if work.get("kill_at"):
        executioner = ProviderExecutioner(work["kill_at"])
        threading.settrace(executioner.trace)
        sys.settrace(executioner.trace)

    async def fetch(start: int, end: int) -> None:
        answer = await provider.fetch(start, end, **SERIES)
        told = answer.metadata
        print(json.dumps([start, end, told.rows, told.dataset_fingerprint, told.missing]), flush=True)

    await asyncio.gather(*(fetch(*window) for window in work["windows"]))
    await provider.aclose()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
