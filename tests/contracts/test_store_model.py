"""Any sequence of writes, marks and reopenings leaves what a dictionary says it leaves."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.core.ranges import Range
from qmtl.engine.clock import VirtualClock
from qmtl.runtime.sdk.history import HistoryStore, SeriesKey, StaleFenceError
from tests.contracts.history_rows import MONTH_END, bars, trades
from tests.contracts.store_places import StorePlace

EIGHTS = SeriesKey("ohlcv:binance:BTC/USDT:8h", 28_800)
TRADES = SeriesKey("trades:binance:BTC/USDT", 1_800)
CELLS = 24
NOW = MONTH_END * 2


@dataclass
class Model:
    """What the store must be: rows by identity, and for each cell why it needs no fetch."""

    step: int
    rows: dict[tuple[int, str], float] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return MONTH_END - CELLS // 2 * self.step

    def cells(self, ranges: list[Range]) -> list[int]:
        return [cell for start, end in ranges for cell in range(start, end, self.step)]

    def cover(self, cells: list[int], kind: str) -> None:
        stays = {"rows": set(), "young": {"rows"}, "empty": {"rows"}, "empty_24h": {"rows", "empty"}}[kind]
        self.kinds |= {cell: kind for cell in cells if self.kinds.get(cell) not in stays}

    def is_stale(self, cells: list[int], fence: int) -> bool:
        return any(self.fences.get(cell, 0) > fence for cell in cells)


RANGES = st.lists(
    st.tuples(st.integers(0, CELLS), st.integers(0, CELLS)).map(lambda pair: (min(pair), max(pair))),
    max_size=3,
)
WRITE = st.tuples(
    st.just("write"),
    st.lists(st.tuples(st.integers(0, CELLS - 1), st.sampled_from("abc"), st.integers(0, 9)), max_size=12),
    RANGES,
    st.booleans(),
    st.none() | st.integers(1, 4),
)
MARK = st.tuples(st.just("mark"), RANGES, st.booleans())
REOPEN = st.tuples(st.just("reopen"))
ACTIONS = st.lists(WRITE | MARK | REOPEN, min_size=1, max_size=8)


@pytest.mark.fuzz
@pytest.mark.parametrize("key", [EIGHTS, TRADES], ids=["bars", "trades"])
@pytest.mark.timeout(3_600)
def test_the_store_is_what_a_dictionary_says(place: StorePlace, key: SeriesKey) -> None:
    # Each case opens stores and syncs files or waits for a server: fewer of them than of other properties.
    @settings(max_examples=settings().max_examples // place.cost)
    @given(actions=ACTIONS)
    def play(actions: list[tuple[object, ...]]) -> None:
        place.renew()
        asyncio.run(run(place, key, actions))

    play()


async def run(place: StorePlace, key: SeriesKey, actions: list[tuple[object, ...]]) -> None:
    clock = VirtualClock(NOW * 1000)
    store, model = place.open(clock), Model(key.interval)
    for action in actions:
        match action:
            case ("write", list() as rows, list() as ranges, bool() as is_young, int() | None as fence):
                await write(store, model, key, rows, ranges, is_young, fence)
            case ("mark", list() as ranges, bool() as permanent):
                spans = scale(model, ranges)
                await store.mark_empty(key, spans, permanent=permanent)
                model.cover(model.cells(spans), "empty" if permanent else "empty_24h")
            case _:
                await store.aclose()
                store = place.open(clock)
    await compare(store, model, key)
    await store.aclose()


def scale(model: Model, ranges: list[Range]) -> list[Range]:
    return [(model.start + start * model.step, model.start + end * model.step) for start, end in ranges]


async def write(
    store: HistoryStore,
    model: Model,
    key: SeriesKey,
    rows: list[tuple[int, str, int]],
    ranges: list[Range],
    is_young: bool,
    fence: int | None,
) -> None:
    spans = scale(model, ranges)
    times = [model.start + cell * model.step for cell, _, _ in rows]
    names = [name if key == TRADES else "" for _, name, _ in rows]
    named = list(zip(times, names, strict=True))
    prices = [float(price) for _, _, price in rows]
    if key == TRADES:
        frame = trades([(ts * 1000, name, price) for (ts, name), price in zip(named, prices, strict=True)])
    else:
        frame = bars(times).with_columns(pl.Series("volume", prices, dtype=pl.Float64))
    touched = model.cells(spans)
    if times:
        touched += range(min(times), max(times) + model.step, model.step)
    if fence is not None and model.is_stale(touched, fence):
        with pytest.raises(StaleFenceError):
            await store.write(key, frame, covered=spans, provisional=is_young, fence=fence)
        return
    written = await store.write(key, frame, covered=spans, provisional=is_young, fence=fence)
    assert written == len(set(named))
    model.rows |= dict(zip(named, prices, strict=True))
    model.cover(model.cells(spans), "young" if is_young else "rows")
    if fence is not None:
        model.fences |= dict.fromkeys(touched, fence)


async def compare(store: HistoryStore, model: Model, key: SeriesKey) -> None:
    column = "price" if key == TRADES else "volume"
    for start, end in ((0, 2**33), (model.start + 3 * model.step, model.start + 20 * model.step)):
        frame = await store.read(key, start, end)
        names = frame["id"].to_list() if key == TRADES else [""] * frame.height
        found = list(zip(frame["ts"].to_list(), names, frame[column].to_list(), strict=True))
        expected = [(*name, value) for name, value in sorted(model.rows.items()) if start <= name[0] < end]
        assert found == expected
    coverage = await store.coverage(key, now=NOW)
    for one, following in pairwise(coverage):
        assert one.end < following.start or (one.end == following.start and one.kind != following.kind)
    cells = {cell: span.kind for span in coverage for cell in range(span.start, span.end, model.step)}
    assert cells == model.kinds
