"""What a request means on its grid, and which source must bring what."""

import asyncio

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmtl.core.ranges import merge_ranges
from qmtl.runtime.sdk.fetch_plan import (
    RECENT_CELLS,
    covered_ranges,
    explain_missing,
    left_after,
    plan_window,
    runs_of,
    split_gaps,
    split_ranges,
)
from qmtl.runtime.sdk.frame_cache import CachedPiece
from qmtl.runtime.sdk.history import CoverageSpan, SeriesKey
from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider
from tests.runtime.sdk.history_rig import (
    KEY,
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

CELLS = 24


def window(start: int, end: int, now_s: int, bars: int = 2, interval: int = 60) -> tuple[int, ...]:
    key = SeriesKey("ohlcv:binance:BTC/USDT:1m", interval)
    w = plan_window(key, start, end, now_s=now_s, stabilization_bars=bars)
    return w.first, w.last, w.closed_until, w.young_from


def test_a_request_means_the_cells_that_start_in_it() -> None:
    assert window(T0 + 1, T0 + 121, T0 + 3600)[:3] == (T0 + 60, T0 + 180, T0 + 180)
    assert window(T0, T0, T0 + 3600)[:3] == (T0, T0, T0)


def test_a_cell_is_closed_two_seconds_after_its_end() -> None:
    assert window(T0, T0 + 600, T0 + 61)[2] == T0
    assert window(T0, T0 + 600, T0 + 62)[2] == T0 + 60


def test_young_is_what_ends_after_the_last_n_bars_began() -> None:
    # ts + 60 > now - 120: at T0 + 600 the cells from T0 + 480 on, since T0 + 420 ended just then.
    assert window(T0, T0 + 600, T0 + 600)[3] == T0 + 480
    assert window(T0, T0 + 600, T0 + 599)[3] == T0 + 420
    assert window(T0, T0 + 600, T0 + 600, bars=0)[3] == T0 + 600


def test_weeks_begin_on_mondays() -> None:
    first = window(0, 2_000_000, 3_000_000, interval=604_800)[0]
    assert first == 345_600


@pytest.mark.parametrize(
    ("start", "end", "interval"),
    [(2, 1, 60), (-1, 5, 60), (0, 5, 0), (0, 5, -60), (0.5, 5, 60), (True, 5, 60)],
)
def test_bad_ranges_are_named(start: int, end: int, interval: int) -> None:
    with pytest.raises(ValueError, match=r"start|interval"):
        window(start, end, T0, interval=interval)


def test_young_spans_cover_until_they_are_old() -> None:
    spans = [CoverageSpan(0, 60, "rows"), CoverageSpan(60, 300, "young"), CoverageSpan(300, 360, "empty_24h")]
    assert covered_ranges(spans, 180) == [(0, 60), (180, 360)]
    assert covered_ranges(spans, 0) == [(0, 360)]


def test_gaps_are_split() -> None:
    assert split_ranges([(0, 250)], 100) == [(0, 100), (100, 200), (200, 250)]
    assert split_gaps([(0, 60), (120, 600)], 60, 2) == ([(0, 60)], [(120, 600)])
    assert split_gaps([(0, 600)], 60, None) == ([(0, 600)], [])


def test_every_missing_range_gets_the_first_reason_that_names_it() -> None:
    causes = [([(0, 120)], "budget"), ([(60, 300)], "failed")]
    assert explain_missing([(0, 240), (600, 660)], causes, "pending") == [  # type: ignore[arg-type]
        (0, 120, "budget"),
        (120, 240, "failed"),
        (600, 660, "pending"),
    ]


@given(st.sets(st.integers(0, 200)))
def test_runs_are_the_cells_of_the_rows(cells: set[int]) -> None:
    rows = pl.Series("ts", [60 * cell for cell in sorted(cells)], dtype=pl.Int64)
    assert runs_of(rows, 60) == merge_ranges([(60 * cell, 60 * cell + 60) for cell in cells])


SPLIT = st.fixed_dictionaries(
    {
        "start": st.integers(-90, CELLS * 60),
        "length": st.integers(0, CELLS * 60 + 120),
        "now": st.integers(0, CELLS * 60 + 400),
        "cached": st.tuples(st.integers(0, CELLS), st.integers(0, CELLS)),
        "stored": st.sets(st.integers(0, CELLS - 1)),
        "young": st.sets(st.integers(0, CELLS - 1)),
        "fetched": st.sets(st.integers(0, CELLS - 1)),
        "live": st.sets(st.integers(0, CELLS - 1)),
    }
)


NEWER_THAN_ALL = {"start": 0, "length": 841, "now": 1502, "cached": (0, 0), "live": {14}}


@pytest.mark.fuzz
@given(SPLIT)
@example({name: set() for name in ("stored", "young", "fetched")} | NEWER_THAN_ALL)
def test_14_delivered_is_the_closed_grid_that_any_source_has(split: dict[str, set[int]]) -> None:
    """Acceptance 14, through a whole provider: cache, store, exchange, feed; bounds off the grid too."""
    asyncio.run(_deliver(split))


async def _deliver(split: dict[str, set[int]]) -> None:
    base, start = T0, T0 + split["start"]  # type: ignore[operator]
    end, now_s = start + split["length"], T0 + split["now"]  # type: ignore[operator]
    clock = clock_at(now_s)
    store = MemoryStore(clock)
    closed = {cell for cell in range(CELLS) if base + 60 * cell + 62 <= now_s}
    for kind in ("stored", "young"):
        cells = sorted(split[kind] & closed - (split["stored"] if kind == "young" else set()))
        frame = bars(base + 60 * cell for cell in cells)
        await store.write(KEY, frame, covered=runs_of(frame["ts"], 60), provisional=kind == "young")
    fetcher = ScriptedFetcher([base + 60 * cell for cell in split["fetched"]], clock=clock)
    fetcher.confirms = False
    # The newest closed cells of all, beyond those of this test too.
    newest = (now_s - 2 - base) // 60
    recent = sorted(split["live"] & closed & set(range(newest - RECENT_CELLS, newest)))
    updates = [(0.0, live([base + 60 * cell])) for cell in recent]
    # A feed goes on: what is newer than everything asked for ends the wait.
    feed = ScriptedFeed(clock, [*updates, (0.0, live([base + 60 * CELLS + 600]))])
    provider = SeamlessDataProvider(store=store, fetcher=fetcher, live_feed=feed, clock=clock, sla=LENIENT)
    low, high = sorted(split["cached"])
    cached = {cell for cell in range(low, high) if cell in closed}
    if cached and provider._cache is not None:
        piece = bars(base + 60 * cell for cell in sorted(cached))
        first, last = base + 60 * min(cached), base + 60 * max(cached) + 60
        provider._cache.put(KEY, CachedPiece(first, last, piece, []), clock.real_ms())
    answer = await provider.fetch(start, end, **SERIES)
    had = cached | (split["stored"] & closed) | (split["young"] & closed) | (split["fetched"] & closed)
    available = {base + 60 * cell for cell in had | set(recent)}
    grid = {base + 60 * cell for cell in closed if start <= base + 60 * cell < end}
    assert times(answer) == sorted(grid & available)
    told = answer.metadata
    missing = {ts for first, last, _ in told.missing for ts in range(first, last, 60)}
    all_closed = {ts for ts in range(start + (-start) % 60, end, 60) if ts + 62 <= now_s}
    assert missing == all_closed - set(times(answer))
    assert told.coverage_ratio == pytest.approx(1 - len(missing) / len(all_closed) if all_closed else 1.0)
    assert sum(told.sources.values()) == len(answer)
    # Nobody is asked for what somebody before them had.
    assert not set(fetcher.cells()) & {base + 60 * cell for cell in cached | (split["stored"] & closed)}
    assert left_after(plan_window(KEY, start, end, now_s=now_s, stabilization_bars=2), []) == (
        merge_ranges([(ts, ts + 60) for ts in all_closed])
    )
    await provider.aclose()


LENIENT = "tolerant-partial"
