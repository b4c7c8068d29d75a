"""A provider's answers: what they hold, what they say about it, and what each strategy does about holes."""

from typing import Any

import polars as pl
import pytest

from qmtl.runtime.sdk.history import (
    BackfillError,
    RetryableFetchError,
    SeamlessDomainPolicyError,
    SeamlessUnavailableError,
)
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from qmtl.runtime.sdk.seamless_data_provider import (
    BackfillConfig,
    CacheConfig,
    DataAvailabilityStrategy,
    SeamlessDataProvider,
)
from tests.runtime.sdk.history_rig import (
    NODE,
    SERIES,
    T0,
    MemoryStore,
    ScriptedFetcher,
    bars,
    clock_at,
    times,
)

DAY = 86_400
NOW = T0 + 3 * DAY


class Rig:
    """A provider over a store in memory and a scripted exchange, three days after the data."""

    def __init__(self, has: Any = range(T0, T0 + DAY, 60), now_s: int = NOW, **options: Any) -> None:
        self.clock = clock_at(now_s)
        self.store = MemoryStore(self.clock)
        self.fetcher = ScriptedFetcher(has, clock=self.clock)
        self.provider = SeamlessDataProvider(
            **{"store": self.store, "fetcher": self.fetcher, "clock": self.clock, **options}
        )

    async def fetch(self, start: int = T0, end: int = T0 + DAY, **more: Any) -> Any:
        return await self.provider.fetch(start, end, **SERIES, **more)


async def test_a_gap_is_fetched_once_then_stored_then_cached() -> None:
    rig = Rig()
    first = await rig.fetch()
    assert len(first) == 1440
    assert first.metadata.sources == {"backfill": 1440}
    assert (await rig.fetch()).metadata.sources == {"cache": 1440}
    again = SeamlessDataProvider(store=rig.store, fetcher=rig.fetcher, clock=rig.clock)
    second = await again.fetch(T0, T0 + DAY, **SERIES)
    assert second.metadata.sources == {"storage": 1440}
    assert second.frame.equals(first.frame)
    assert second.metadata.dataset_fingerprint == first.metadata.dataset_fingerprint
    assert rig.fetcher.asked == [(T0, T0 + DAY)]
    assert await again.coverage(**SERIES) == [(T0, T0 + DAY)]


async def test_a_result_is_its_frame_with_metadata() -> None:
    answer = await Rig().fetch()
    assert answer.head(2).height == 2
    assert len(answer) == 1440
    assert answer["ts"][0] == T0
    assert [column.name for column in answer] == ["ts", "open", "high", "low", "close", "volume"]
    assert "close" in answer
    assert pl.DataFrame(answer).equals(answer.frame)
    assert repr(answer) == repr(answer.frame)
    with pytest.raises(AttributeError):
        _ = answer.nothing_of_that_name


async def test_a_hole_is_named_with_its_bounds() -> None:
    hole = range(T0 + 600, T0 + 1200, 60)
    rig = Rig([ts for ts in range(T0, T0 + DAY, 60) if ts not in hole])
    told = (await rig.fetch()).metadata
    assert told.confirmed_empty == [(T0 + 600, T0 + 1200)]
    assert told.missing == []
    assert told.coverage_ratio == 1.0
    rig.fetcher.confirms = False
    rig.store.spans.clear()
    rig.provider._cache.clear()  # type: ignore[union-attr]
    told = (await rig.fetch()).metadata
    assert told.missing == [(T0 + 600, T0 + 1200, "pending")]
    assert told.coverage_ratio == pytest.approx(1430 / 1440)


async def test_fail_fast_asks_no_exchange() -> None:
    rig = Rig(strategy="Fail_Fast")
    with pytest.raises(
        SeamlessUnavailableError, match=r"1m: \[1706745600, 1706832000\) is missing"
    ) as caught:
        await rig.fetch()
    assert caught.value.missing == [(T0, T0 + DAY, "no_source")]
    assert rig.fetcher.asked == []
    flagged = Rig(strategy=DataAvailabilityStrategy.FAIL_FAST, partial_ok=True)
    assert (await flagged.fetch()).metadata.missing == [(T0, T0 + DAY, "no_source")]


async def test_a_failed_backfill_is_never_an_empty_success() -> None:
    rig = Rig()
    rig.fetcher.error = RetryableFetchError("binance: timed out", exchange="binance")
    with pytest.raises(BackfillError, match="backfill failed: binance: timed out") as caught:
        await rig.fetch()
    assert caught.value.causes == [rig.fetcher.error]
    flagged = Rig(partial_ok=True)
    flagged.fetcher.error = rig.fetcher.error
    told = (await flagged.fetch()).metadata
    assert told.missing == [(T0, T0 + DAY, "failed")]
    assert told.backfill_error == "binance: timed out"


async def test_auto_backfill_without_an_exchange_raises() -> None:
    rig = Rig(strategy="auto_backfill", fetcher=None)
    with pytest.raises(SeamlessUnavailableError, match="no_source"):
        await rig.fetch()


async def test_partial_fill_answers_at_once_and_fills_behind() -> None:
    rig = Rig(strategy="PARTIAL_FILL")
    rig.fetcher.delay_s = 5
    told = (await rig.fetch()).metadata
    assert told.rows == 0
    assert told.downgraded
    assert told.missing == [(T0, T0 + DAY, "pending")]
    await rig.clock.advance(6)
    told = (await rig.fetch()).metadata
    assert told.rows == 1440
    assert not told.downgraded
    assert rig.fetcher.asked == [(T0, T0 + DAY)]


async def test_a_background_job_runs_again_after_a_minute() -> None:
    rig = Rig(strategy="partial_fill")
    rig.fetcher.error = RetryableFetchError("down")
    await rig.fetch()
    await rig.clock.advance(59)
    assert (await rig.fetch()).metadata.backfill_error == "down"
    await rig.clock.advance(0.5)
    assert len(rig.fetcher.asked) == 1, "asking again does not make it run again"
    rig.fetcher.error = None
    await rig.clock.advance(62)
    assert (await rig.fetch()).metadata.rows == 1440
    await rig.clock.advance(300)
    asked = len(rig.fetcher.asked)
    await rig.clock.advance(300)
    assert len(rig.fetcher.asked) == asked, "covered: the job is over"
    await rig.provider.aclose()


async def test_a_job_that_cannot_go_on_is_told_of() -> None:
    rig = Rig(strategy="partial_fill")
    rig.fetcher.error = RuntimeError("ccxt is required for CcxtOHLCVFetcher")
    await rig.fetch()
    await rig.clock.advance(1)
    told = (await rig.fetch()).metadata
    assert told.backfill_error == "ccxt is required for CcxtOHLCVFetcher"
    await rig.provider.aclose()


async def test_ensure_range_returns_when_nothing_is_missing() -> None:
    rig = Rig()
    await rig.provider.ensure_range(T0, T0 + 600, **SERIES)
    assert rig.fetcher.asked == [(T0, T0 + 600)]
    await rig.provider.fill_missing(T0, T0 + 600, **SERIES)
    assert await rig.provider.ensure_data_available(T0, T0 + 660, **SERIES)
    rig.fetcher.error = RetryableFetchError("down")
    assert not await rig.provider.ensure_data_available(T0, T0 + 6000, **SERIES)
    with pytest.raises(SeamlessUnavailableError, match="down") as caught:
        await rig.provider.ensure_range(T0, T0 + 6000, **SERIES)
    assert caught.value.missing == [(T0 + 660, T0 + 6000, "failed")]


@pytest.mark.parametrize(
    ("node_id", "interval", "words"),
    [
        ("ohlcv:binance:ETH/USDT:1m", 60, "'ETH/USDT' is not among the configured"),
        ("ohlcv:kraken:BTC/USDT:1m", 60, "not the configured 'binance'"),
        (NODE, 300, "interval 300 is not that of 1m"),
        ("ohlcv:binance:BTC/USDT:5m", 300, "not the configured '1m'"),
        ("ohlcv:binance:BTC/USDT:USDT:1m", 60, "write 'ohlcv:binance:BTC/USDT%3AUSDT:1m'"),
    ],
)
async def test_a_name_that_is_not_served_is_refused_before_any_io(
    node_id: str, interval: int, words: str
) -> None:
    rig = Rig()
    with pytest.raises(NodeIdError, match=r"^cannot resolve node_id") as caught:
        await rig.provider.fetch(T0, T0 + 60, node_id=node_id, interval=interval)
    assert words in str(caught.value)
    assert (rig.store.reads, rig.fetcher.asked) == (0, [])


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="strategy 'hope' is not known; known: FAIL_FAST, AUTO_BACKFILL"):
        Rig(strategy="hope")
    with pytest.raises(ValueError, match='mode: expected "background" or "sync"'):
        BackfillConfig(mode="later")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window_bars: expected at least 1"):
        BackfillConfig(window_bars=0)
    with pytest.raises(ValueError, match="stabilization_bars"):
        Rig(stabilization_bars=-1)


async def test_a_backtest_of_a_world_needs_as_of() -> None:
    rig = Rig()
    with pytest.raises(SeamlessDomainPolicyError, match="needs as_of"):
        await rig.fetch(execution_domain="backtest", world_id="w")
    told = (await rig.fetch(execution_domain="backtest")).metadata
    assert not told.reproducible
    with pytest.raises(ValueError, match="execution_domain 'moon' is not known"):
        await rig.fetch(execution_domain="moon")


async def test_thin_or_old_data_holds_a_domain_of_the_present() -> None:
    rig = Rig(range(T0, T0 + 3000, 60))
    rig.fetcher.confirms = False
    for domain in ("live", "shadow", "dryrun", "paper"):
        told = (await rig.fetch(end=T0 + 6000, execution_domain=domain)).metadata
        assert told.hold
        assert told.downgrade_reason == "coverage_breach"
    told = (await rig.fetch(end=T0 + 3060, execution_domain="live", min_coverage=0.9)).metadata
    assert told.downgrade_reason == "freshness_breach"
    told = (await rig.fetch(end=T0 + 3060, min_coverage=0.9, max_lag_seconds=60)).metadata
    assert not told.downgraded
    told = (await rig.fetch(end=T0 + 3000, execution_domain="live")).metadata
    assert (told.hold, told.staleness_ms) == (False, 0)


async def test_local_writes_and_time_end_cached_rows() -> None:
    rig = Rig(cache=CacheConfig(ttl_ms=1000))
    await rig.fetch()
    await rig.clock.advance(2)
    assert (await rig.fetch()).metadata.sources == {"storage": 1440}
    assert (await rig.fetch(T0 + 60, T0 + 600)).metadata.sources == {"cache": 9}
    rig.provider._forget(rig.provider._binding.resolve(NODE, 60), [(T0, T0 + 60)])
    assert (await rig.fetch()).metadata.sources == {"storage": 1440}
    bare = Rig(cache=CacheConfig(enable=False))
    await bare.fetch()
    assert (await bare.fetch()).metadata.sources == {"storage": 1440}


async def test_a_grid_of_its_own_is_no_misalignment() -> None:
    shifted = [ts + 17 for ts in range(T0, T0 + DAY, 60)]
    rig = Rig(shifted)
    fetcher = ScriptedFetcher(shifted, clock=rig.clock, grid_offset_s=17)
    provider = SeamlessDataProvider(store=rig.store, fetcher=fetcher, clock=rig.clock)
    answer = await provider.fetch(T0, T0 + 600, **SERIES)
    assert times(answer) == shifted[:10]
    assert (answer.metadata.missing, answer.metadata.conformance_flags) == ([], {})


async def test_a_fetcher_of_ones_own_may_be_untidy_but_not_off_the_grid() -> None:
    class Untidy:
        def __init__(self, shift: int = 0) -> None:
            self.shift = shift

        async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> pl.DataFrame:
            rows = [ts + self.shift for ts in range(start - 600, end, 60)]
            return bars([*reversed(rows), *rows[:3]])

    rig = Rig(fetcher=Untidy())
    answer = await rig.fetch(T0, T0 + 600)
    assert times(answer) == list(range(T0, T0 + 600, 60))
    assert await rig.provider.coverage(**SERIES) == [(T0, T0 + 600)]
    with pytest.raises(BackfillError, match=r"a bar opens at .*, off the grid"):
        await Rig(fetcher=Untidy(7)).fetch(T0, T0 + 600)


async def test_an_artifact_that_cannot_be_stored_does_not_cost_the_answer() -> None:
    class FullDisk:
        def publish(self, *args: Any, **more: Any) -> Any:
            raise OSError(28, "No space left on device")

    told = (await Rig(registrar=FullDisk()).fetch()).metadata
    assert (told.rows, told.manifest_uri) == (1440, None)
    assert told.dataset_fingerprint


async def test_empty_ranges_keep_the_schema() -> None:
    answer = await Rig().fetch(T0, T0)
    assert answer.columns == ["ts", "open", "high", "low", "close", "volume"]
    assert times(answer) == []
    assert answer.metadata.coverage_ratio == 1.0
