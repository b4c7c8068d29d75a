"""Seamless §4 and §16: what fetchers of one exchange share, and what importing them does not load."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmtl.runtime.io.binance_history import BinanceFuturesFetcher
from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig, CcxtOHLCVFetcher
from qmtl.runtime.io.rate_limiter import RateLimiterConfig
from qmtl.runtime.sdk.history import RateLimitedError
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.history_rig import T0, configure, history
from tests.runtime.leap_clock import MidRandom

__all__ = ["configure", "history"]
ROOT = Path(__file__).resolve().parents[3]
NODE = "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m"
LATER_S = T0 + 90 * 86_400


async def test_09_a_penalty_holds_fetchers_of_either_kind(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    place.fault(FaultKind.STATUS, "GET /fapi/v1/klines", status=429, seconds=9, schedule=[1])
    ports: dict[str, Any] = {"clock": place.clock, "rng": MidRandom()}
    config = CcxtBackfillConfig(exchange="binanceusdm", max_retries=0)
    with pytest.raises(RateLimitedError):
        await BinanceFuturesFetcher(config, base_url=place.url, **ports).fetch(
            T0, T0 + 300, node_id=NODE, interval=60
        )
    began_ms = place.clock.real_ms()
    frame = await CcxtOHLCVFetcher(config, **ports).fetch(T0, T0 + 300, node_id=NODE, interval=60)
    assert frame.height == 5
    assert place.clock.real_ms() - began_ms >= 8_900


def test_40_no_module_of_history_loads_ccxt_or_redis() -> None:
    modules = [
        "",
        *(f".{name}" for name in ("ccxt_fetcher", "ccxt_live_feed", "rate_limiter", "binance_history")),
    ]
    code = "\n".join(f"import qmtl.runtime.io{name}" for name in modules)
    code += (
        "\nfrom qmtl.runtime.io import CcxtBackfillConfig, CcxtOHLCVFetcher, CcxtProConfig, CcxtProLiveFeed"
    )
    code += "\nCcxtOHLCVFetcher(CcxtBackfillConfig(exchange='binance'))"
    code += "\nCcxtProLiveFeed(CcxtProConfig(exchange='binance'))"
    code += "\nimport sys; print(sorted({'ccxt', 'redis', 'fastapi'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


async def test_fetches_of_one_fetcher_may_overlap_its_closing(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    config = CcxtBackfillConfig(exchange="binance", rate_limiter=RateLimiterConfig(scope="local"))
    fetcher: Any = CcxtOHLCVFetcher(config, clock=place.clock, rng=MidRandom())

    async def work(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0.001)
        frame = await fetcher.fetch(T0, T0 + 600, node_id="ohlcv:binance:BTC/USDT:1m", interval=60)
        return int(frame.height)

    assert await asyncio.gather(*(work(number) for number in range(0, 120, 3))) == [10] * 40
    assert fetcher._source.api.session is None


async def test_a_local_limit_outlives_the_closing(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    limiter = RateLimiterConfig(scope="local", min_interval_s=3.0)
    config = CcxtBackfillConfig(exchange="binance", rate_limiter=limiter)
    fetcher: Any = CcxtOHLCVFetcher(config, clock=place.clock, rng=MidRandom())
    for _ in range(4):
        await fetcher.fetch(T0, T0 + 600, node_id="ohlcv:binance:BTC/USDT:1m", interval=60)
    assert place.clock.real_ms() >= 9_000
