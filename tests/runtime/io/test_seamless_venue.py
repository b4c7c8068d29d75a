"""The provider on the paper exchange through ccxt: trades, and bars that only its live feed has."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from qmtl.runtime.io import CcxtTradesConfig, CcxtTradesFetcher
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
from qmtl.runtime.sdk.history import SeriesKey
from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider
from qmtl.runtime.sdk.sla import SLAPolicy
from tests.runtime.io.history_rig import T0, TRADES, configure, history
from tests.runtime.io.live_rig import BARS, START_MS, Live
from tests.runtime.sdk.history_rig import MemoryStore, ScriptedFetcher

__all__ = ["configure", "history"]
LATER_S = T0 + 30 * 86_400
HOURS: dict[str, Any] = {"node_id": "trades:binance:BTC/USDT", "interval": 3_600}


async def test_trades_by_the_hour(history: Callable[..., Any], home: Path) -> None:
    place = await history(range(240), LATER_S)

    def provide() -> EnhancedQuestDBProvider:
        config = CcxtTradesConfig(exchange="binance", symbols=["BTC/USDT"])
        return EnhancedQuestDBProvider(fetcher=CcxtTradesFetcher(config))

    async with provide() as provider:
        first = await provider.fetch(T0 + 3_600, T0 + 10_800, **HOURS)
        cached = await provider.fetch(T0 + 3_600, T0 + 7_200, **HOURS)
    told = first.metadata
    assert (told.rows, told.missing, told.conformance_flags) == (480, [], {})
    assert told.sources == {"backfill": 480}
    assert first["id"].n_unique() == 480
    assert first["ts_ms"].is_sorted()
    assert cached.metadata.sources == {"cache": 240}
    asked = place.trades.seen
    async with provide() as provider:
        again = await provider.fetch(T0 + 3_600, T0 + 10_800, **HOURS)
        assert await provider.coverage(**HOURS) == [(T0 + 3_600, T0 + 10_800)]
    assert again.frame.equals(first.frame)
    assert again.metadata.dataset_fingerprint == told.dataset_fingerprint
    assert (place.trades.seen, place.count(TRADES).seen) == (asked, 0)


@pytest.fixture
async def live(configure: Callable[..., None]) -> AsyncIterator[Live]:
    place = Live()
    await place.open(configure)
    yield place
    await place.feed.aclose()
    await place.server.stop()


async def test_16_a_real_feed_brings_what_rest_does_not_list(live: Live) -> None:
    """Acceptance 16 over real sockets: the exchange's history stands still, its stream goes on."""
    now_s = START_MS // 1000
    known = range(now_s - 1_800 - now_s % 60, now_s - now_s % 60, 60)
    store = MemoryStore(live.clock)
    provider = SeamlessDataProvider(
        store=store,
        fetcher=ScriptedFetcher(known, clock=live.clock),
        live_feed=live.make(),
        clock=live.clock,
        sla=SLAPolicy(max_wait_live_ms=3_000_000, on_violation="partial_fill"),  # type: ignore[arg-type]
    )
    provider.fetcher.confirms = False

    async def fetch() -> Any:
        task = asyncio.ensure_future(
            provider.fetch(known.start, known.stop + 86_400, node_id=BARS, interval=60)
        )
        await live.pass_until(task.done, 2_000)
        return task.result()

    await live.pass_time(63.0)
    # The newest closed cell lacks: the feed is asked, begins to listen, and hears of the next ones.
    first = await fetch()
    assert [reason for _, _, reason in first.metadata.missing] == ["pending"]
    tails = provider._desk().live
    assert tails is not None
    tail = tails.of(SeriesKey(BARS, 60))
    await live.pass_until(lambda: len(tail.closed) >= 3, 2_000)
    answer = await fetch()
    assert answer.metadata.sources["live"] >= 1
    heard = answer.frame.filter(answer["ts"] > known.stop)
    (candles,) = [live.market.candles("1m", int(heard["ts"][0]) * 1000, int(heard["ts"][-1]) * 1000, 100)]
    expected = [(c.open_ms // 1000, c.open, c.high, c.low, c.close, c.volume) for c in candles]
    assert heard.rows() == expected
    key = SeriesKey(BARS, 60)
    assert set(heard["ts"]) <= set(store.rows[key]["ts"])
    await provider.aclose()
