"""Streams and the Runner over a provider: which series is meant, warm-up, and answers that are held."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.io import CcxtBackfillConfig, CcxtOHLCVFetcher, EnhancedQuestDBProvider
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.history import (
    RetryableFetchError,
    SeamlessDomainPolicyError,
    SeamlessSLAExceeded,
)
from qmtl.runtime.sdk.nodes.base import Node, View
from qmtl.runtime.sdk.nodes.processing import ProcessingNode
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from qmtl.runtime.sdk.runner import Runner
from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider
from qmtl.runtime.sdk.sla import SLAPolicy
from qmtl.runtime.sdk.strategy import Strategy
from tests.runtime.io.history_rig import configure, history
from tests.runtime.leap_clock import LeapClock
from tests.runtime.sdk.history_rig import (
    NODE,
    T0,
    MemoryStore,
    ScriptedFeed,
    ScriptedFetcher,
    clock_at,
    live,
)

__all__ = ["configure", "history"]
NOW = T0 + 86_400 + 30


def provide(clock: Any = None, has: Any = None, **options: Any) -> SeamlessDataProvider:
    clock = clock or clock_at(NOW)
    given = range(T0 - 86_400, T0 + 86_400, 60) if has is None else has
    config = options.pop("config", {})
    fetcher = ScriptedFetcher(given, clock=clock, **config)
    return SeamlessDataProvider(store=MemoryStore(clock), fetcher=fetcher, clock=clock, **options)


def guide_stream(provider: Any, **more: Any) -> StreamInput:
    return StreamInput(tags=["btc", "spot"], interval="60s", period=3600, history_provider=provider, **more)


def read(stream: StreamInput, period: int) -> Node:
    return ProcessingNode(stream, lambda view: None, name="reader", interval=60, period=period)


async def test_37_the_guides_stream_warms_3600_rows() -> None:
    """Acceptance 37."""
    provider = provide()
    stream = guide_stream(provider)
    node = read(stream, 3600)
    end = T0 + 86_400
    stream_end = end - 3600 * 60
    provider.fetcher.has = list(range(stream_end - 600, end, 60))
    assert await stream.load_history() == 3600
    rows = node.view[stream]["60s"]
    assert [ts for ts, _ in rows] == list(range(stream_end, end, 60))
    assert rows[0][1] == {
        "ts": stream_end,
        "open": 100.0,
        "high": 101.0,
        "low": 99.0,
        "close": 100.5,
        "volume": 1.0,
    }
    assert stream.series == NODE
    assert stream.symbol == "BTCUSDT"
    assert await stream.load_history(T0, T0 + 600) == 10


def test_37_two_series_need_a_data_key() -> None:
    two = {"symbols": ("BTC/USDT", "ETH/USDT")}
    with pytest.raises(NodeIdError, match="has 2 series; name one with data_key"):
        guide_stream(provide(config=two))
    assert guide_stream(provide(config=two), data_key=NODE).series == NODE
    assert guide_stream(provide(config=two, default_node_id=NODE)).series == NODE
    with pytest.raises(NodeIdError, match="no series of 300 s"):
        StreamInput(interval="5m", period=1, history_provider=provide())
    with pytest.raises(NodeIdError, match="no list of series"):
        guide_stream(provide(config={"symbols": None}))
    with pytest.raises(NodeIdError, match="not that of 1m"):
        StreamInput(interval="5m", period=1, history_provider=provide(), data_key=NODE)


def test_a_perpetuals_only_series_is_spelled_for_it() -> None:
    config = {"symbols": ("BTC/USDT:USDT",), "exchange": "binanceusdm", "timeframe": None}
    stream = StreamInput(interval="1h", period=1, history_provider=provide(config=config))
    assert stream.series == "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1h"


async def test_a_strict_stream_wants_every_cell() -> None:
    gap = [ts for ts in range(T0, T0 + 86_400, 60) if ts != T0 + 600]
    provider = provide(has=gap)
    provider.fetcher.confirms = False
    strict = guide_stream(provider, strict=True)
    with pytest.raises(RuntimeError, match=r"^history gap in strict mode: .*\[1706746200, 1706746260\)"):
        await strict.load_history(T0, T0 + 6000)
    assert await guide_stream(provider).load_history(T0, T0 + 6000) == 99
    sure = provide(has=gap)
    strict = guide_stream(sure, strict=True)
    assert await strict.load_history(T0, T0 + 6000) == 99, "confirmed empty is not missing"


async def test_weeks_warm_up_on_their_own_grid() -> None:
    stream = StreamInput(interval="1w", period=2, history_provider=None, data_key="ohlcv:binance:BTC/USDT:1w")
    start, end = stream.warmup_range()
    assert (start % 604_800, end - start) == (345_600, 1_209_600)


class Noting(Strategy):
    """Keeps what its one node saw."""

    provider: Any = None
    period = 3

    def setup(self) -> None:
        self.seen: list[list[int]] = []
        self.price = StreamInput(interval="1m", period=self.period, history_provider=self.provider)

        def note(view: View) -> Mapping[str, Any] | None:
            self.seen.append([ts for ts, _ in view[self.price][60]])
            return None

        self.add_nodes([self.price, ProcessingNode(self.price, note, name="n", interval=60, period=3)])


def test_21_a_held_answer_reaches_no_node(runner: type[Runner]) -> None:
    """Acceptance 21: the Runner asks again after retry_backoff_ms until the answer may be used."""
    clock = LeapClock(now_ms=NOW * 1000)
    end = T0 + 86_400
    policy = SLAPolicy(min_coverage=1.0, max_lag_seconds=45, retry_backoff_ms=700)
    provider = provide(clock, has=range(T0, end - 60, 60), sla=policy)
    provider.fetcher.confirms = False
    asked: list[Any] = []
    fetch = provider.fetch

    async def spied(*args: Any, **more: Any) -> Any:
        answer = await fetch(*args, **more)
        asked.append((answer.metadata.hold, answer.metadata.downgrade_reason, more["execution_domain"]))
        if len(asked) == 3:
            provider.fetcher.has.append(end - 60)
        return answer

    provider.fetch = spied  # type: ignore[method-assign]
    Noting.provider = provider
    result = runner.submit(Noting, domain="shadow")
    assert asked == [(True, "coverage_breach", "shadow")] * 3 + [(False, None, "shadow")]
    assert clock.slept.count(0.7) == 3
    assert isinstance(result.strategy, Noting)
    assert result.strategy.seen == [[end - 180, end - 120, end - 60]]


def test_going_back_in_time_is_refused_not_awaited(runner: type[Runner]) -> None:
    class Regressing:
        clock = VirtualClock(NOW * 1000)

        def bind_stream(self, stream: StreamInput) -> None:
            stream.series = NODE

        async def fetch(self, start: int, end: int, **series: Any) -> Any:
            class Answer:
                class metadata:
                    hold = True
                    downgrade_reason = "as_of_regression"

            return Answer()

    Noting.provider = Regressing()
    with pytest.raises(SeamlessDomainPolicyError, match="as_of_regression"):
        runner.submit(Noting, domain="dryrun", start=T0, end=T0 + 600)


def test_a_history_run_reads_the_provider(runner: type[Runner]) -> None:
    Noting.provider = provide()
    result = runner.submit(Noting, domain="backtest", start=T0, end=T0 + 600)
    assert isinstance(result.strategy, Noting)
    assert len(result.strategy.seen) == 8


async def test_a_strategy_runs_on_an_exchanges_history(
    runner: type[Runner], history: Callable[..., Any]
) -> None:
    """Through real ccxt, the paper exchange and the embedded store."""
    place = await history(range(200), T0 + 90 * 86_400)
    config = CcxtBackfillConfig(exchange="binance", symbols=["BTC/USDT"], timeframe="1m")
    async with EnhancedQuestDBProvider(fetcher=CcxtOHLCVFetcher(config)) as provider:
        Noting.provider = provider
        for _ in range(2):
            result = await runner.submit_async(Noting, domain="backtest", start=T0, end=T0 + 6_000)
            assert isinstance(result.strategy, Noting)
            assert result.strategy.price.series == NODE
            assert [seen[-1] for seen in result.strategy.seen] == list(range(T0 + 120, T0 + 6_000, 60))
    assert place.klines.seen == 1


def test_what_the_feed_skipped_is_refilled_and_never_trades(runner: type[Runner]) -> None:
    end = T0 + 86_400
    clock = LeapClock(now_ms=NOW * 1000)
    provider = provide(clock, has=range(T0, end + 180, 60))
    clock_feed = VirtualClock()
    feed = ScriptedFeed(clock_feed, [(1.0, live([end + 180]))])
    provider.live_feed = feed
    Noting.provider = provider
    result = runner.submit(Noting, domain="shadow")
    strategy = result.strategy
    assert isinstance(strategy, Noting)
    assert strategy.seen[-1][-1] == end - 60
    clock._real_ms += 240_000

    async def go_on() -> None:
        for _ in range(6_000):
            await clock_feed.advance(1.0)
            if strategy.seen[-1][-1] == end + 180:
                return
            await asyncio.sleep(0.01)

    BACKGROUND.run(go_on())
    assert [seen[-1] for seen in strategy.seen[1:]] == [end, end + 60, end + 120, end + 180]


def test_closing_reaches_the_runners_loop(runner: type[Runner]) -> None:
    clock = LeapClock(now_ms=NOW * 1000)
    provider = provide(clock, has=range(T0, T0 + 86_400 - 60, 60), sla=SLAPolicy(max_wait_live_ms=1))
    provider.fetcher.confirms = False
    feed = provider.live_feed = ScriptedFeed(VirtualClock(), [])
    Noting.provider = provider
    with pytest.raises(SeamlessSLAExceeded):
        runner.submit(Noting, domain="shadow")
    assert feed.is_open
    asyncio.run(provider.aclose())
    assert not feed.is_open


def test_a_failing_exchange_ends_the_warm_up_with_its_reason(runner: type[Runner]) -> None:
    provider = provide()
    provider.fetcher.error = RetryableFetchError("binance: timed out")
    Noting.provider = provider
    with pytest.raises(RuntimeError, match="backfill failed: binance: timed out"):
        runner.submit(Noting, domain="shadow")
