"""The newest bars: young ones, forming ones, and those only a live feed has."""

import asyncio
from typing import Any

import pytest

from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.history import RetryableFetchError
from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider
from qmtl.runtime.sdk.sla import SLAPolicy
from tests.runtime.sdk.history_rig import (
    KEY,
    NODE,
    SERIES,
    T0,
    MemoryStore,
    ScriptedFeed,
    ScriptedFetcher,
    bars,
    clock_at,
    live,
    times,
)

NOW = T0 + 6002
LAST = T0 + 5940
"""The newest closed bar: [T0 + 5940, T0 + 6000)."""
END = T0 + 6600


class Edge:
    """A provider two seconds after a bar closed."""

    def __init__(self, updates: Any = (), *, emits: bool = False, **options: Any) -> None:
        self.clock = clock_at(NOW)
        self.store = MemoryStore(self.clock)
        self.fetcher = ScriptedFetcher(range(T0, T0 + 6000, 60), clock=self.clock)
        self.feed = ScriptedFeed(self.clock, updates, emits=emits)
        self.provider = SeamlessDataProvider(
            **{
                "store": self.store,
                "fetcher": self.fetcher,
                "live_feed": self.feed,
                "clock": self.clock,
                "sla": SLAPolicy(max_wait_live_ms=5000, on_violation="partial_fill"),  # type: ignore[arg-type]
                **options,
            }
        )

    async def fetch(self, end: int = END) -> Any:
        task = asyncio.ensure_future(self.provider.fetch(T0, end, **SERIES))
        while not task.done():
            await self.clock.advance(0.05)
        return task.result()


async def test_16_a_bar_only_the_feed_has_arrives_in_time() -> None:
    """Acceptance 16: within max_wait_live_ms, from the feed, after everything else."""
    rig = Edge([(1.0, live([LAST - 60])), (1.0, live([LAST], seed=5))])
    rig.fetcher.has.remove(LAST)
    answer = await rig.fetch()
    assert times(answer)[-1] == LAST
    assert answer["close"][-1] == 105.5
    assert answer.metadata.sources == {"backfill": 99, "live": 1}
    assert answer.metadata.missing == []
    assert answer.metadata.stable_until <= LAST
    assert rig.clock.real_ms() <= 5000
    # The store keeps it, provisionally: another provider needs no feed for it.
    other = SeamlessDataProvider(store=rig.store, clock=rig.clock)
    assert times(await other.fetch(T0, END, **SERIES))[-1] == LAST


async def test_16_whoever_listened_before_has_what_came_meanwhile() -> None:
    """A feed tells only what closes from now on: the provider goes on listening between requests."""
    rig = Edge([(1.0, live([LAST])), (60.0, live([LAST + 60])), (60.0, live([LAST + 120]))])
    rig.fetcher.has = [ts for ts in rig.fetcher.has if ts < LAST]
    rig.fetcher.confirms = False
    assert times(await rig.fetch())[-1] == LAST
    await rig.clock.advance(130)
    began = rig.clock.real_ms()
    answer = await rig.fetch()
    assert times(answer)[-2:] == [LAST + 60, LAST + 120]
    assert rig.clock.real_ms() - began < 1000
    assert (rig.feed.subscribed, rig.feed.is_open) == (1, True)
    await rig.provider.aclose()
    assert not rig.feed.is_open


async def test_a_feed_that_fails_is_a_reason_and_no_error() -> None:
    class Broken(ScriptedFeed):
        async def is_live_available(self, node_id: str, interval: int) -> bool:
            raise RetryableFetchError("no route")

    rig = Edge(live_feed=Broken(clock_at(NOW), ()))
    rig.fetcher.has.remove(LAST)
    told = (await rig.fetch()).metadata
    assert told.missing == [(LAST, LAST + 60, "failed")]


async def test_16_a_closed_bar_replaces_a_forming_one() -> None:
    rig = Edge([(1.0, live([LAST], closed=False, seed=1)), (1.0, live([LAST], seed=2))], emits=True)
    rig.fetcher.has.remove(LAST)
    answer = await rig.fetch()
    assert answer["close"][-1] == 102.5
    assert answer.metadata.forming_ts is None


async def test_the_feed_is_not_asked_for_what_is_there_or_too_old() -> None:
    rig = Edge([(0.0, live([LAST]))])
    await rig.fetch()
    assert rig.feed.subscribed == 0
    rig.fetcher.confirms = False
    rig.fetcher.has.remove(T0 + 600)
    rig.store.spans.clear()
    rig.store.rows.clear()
    rig.provider._cache.clear()  # type: ignore[union-attr]
    answer = await rig.fetch()
    assert rig.feed.subscribed == 0
    assert answer.metadata.missing == [(T0 + 600, T0 + 660, "pending")]


async def test_8_a_forming_bar_needs_to_be_asked_for() -> None:
    """Acceptance 8: only with emit_building_candle, and never into store, cache or fingerprint."""
    forming = T0 + 6000
    rig = Edge([(0.5, live([forming], closed=False, seed=9))])
    assert times(await rig.fetch())[-1] == LAST
    rig = Edge([(0.5, live([forming], closed=False, seed=9))], emits=True)
    answer = await rig.fetch()
    told = answer.metadata
    assert times(answer)[-1] == forming
    assert told.forming_ts == forming
    assert forming not in times(rig.store.rows[KEY])
    cached = rig.provider._cache.find(KEY, T0, END, rig.clock.real_ms())  # type: ignore[union-attr]
    assert forming not in [ts for piece in cached for ts in times(piece.frame)]
    stable = answer.frame.filter(answer["ts"] < told.stable_until)
    assert told.dataset_fingerprint == fingerprint(
        stable, node_id=NODE, interval=60, start=T0, end=told.stable_until
    )
    # Closed, its final value goes everywhere.
    rig.fetcher.has.append(forming)
    rig.fetcher.seed = 3
    await rig.clock.advance(600)
    answer = await rig.fetch(end=forming + 60)
    assert answer["close"][-1] == 103.5
    assert answer.metadata.forming_ts is None
    assert answer.metadata.stable_until == forming + 60
    assert float(rig.store.rows[KEY]["close"][-1]) == 103.5


async def test_8_a_fetcher_that_hands_out_the_forming_bar_is_cut() -> None:
    rig = Edge()
    rig.fetcher.has += [T0 + 6000, T0 + 6060]
    answer = await rig.fetch()
    assert times(answer)[-1] == LAST
    assert times(rig.store.rows[KEY])[-1] == LAST


async def test_young_rows_are_returned_kept_apart_and_read_again() -> None:
    rig = Edge()
    answer = await rig.fetch()
    told = answer.metadata
    # At T0 + 6002 the cells from T0 + 5880 on have not stood for two bars.
    assert told.stable_until == T0 + 5880
    assert [span for span in rig.store.spans.items() if span[0][1] == "young"] == [
        ((KEY, "young"), [(T0 + 5880, T0 + 6000)])
    ]
    rig.fetcher.seed = 7
    await rig.clock.advance(10)
    again = await rig.fetch()
    assert again.metadata.sources == {"cache": 98, "storage": 2}
    assert len(rig.fetcher.asked) == 1, "young rows count as covered until they are old"
    await rig.clock.advance(300)
    old = await rig.fetch(end=T0 + 6000)
    assert rig.fetcher.asked[1:] == [(T0 + 5880, T0 + 6000)]
    assert old["close"].to_list() == [100.5] * 98 + [107.5] * 2
    assert old.metadata.stable_until == T0 + 6000
    assert rig.store.spans[KEY, "young"] == []


async def test_a_row_that_could_not_be_read_again_stays_young() -> None:
    rig = Edge()
    await rig.fetch()
    await rig.clock.advance(600)
    offline = SeamlessDataProvider(store=rig.store, clock=rig.clock)
    answer = await offline.fetch(T0, T0 + 6000, **SERIES)
    assert len(answer) == 100
    assert answer.metadata.stable_until == T0 + 5880


@pytest.mark.parametrize("count", [0, 5])
async def test_the_number_of_young_bars_is_an_option(count: int) -> None:
    rig = Edge(stabilization_bars=count)
    assert (await rig.fetch(end=T0 + 6000)).metadata.stable_until == T0 + 6000 - 60 * count


def test_bars_is_what_a_feed_sends_without_its_flag() -> None:
    assert live([T0]).drop("closed").equals(bars([T0]))
