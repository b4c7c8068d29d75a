"""A provider's surroundings whose time and faults a test decides: a store in memory, a scripted exchange."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import polars as pl

from qmtl.core.ranges import Range, clip_ranges, merge_ranges, subtract_ranges
from qmtl.engine.clock import VirtualClock
from qmtl.engine.ports import Clock
from qmtl.runtime.io.fetch_settings import check_interval, resolve_node
from qmtl.runtime.sdk.fetch_plan import runs_of
from qmtl.runtime.sdk.frame_cache import cut_frame
from qmtl.runtime.sdk.history import (
    CoverageKind,
    CoverageSpan,
    EmptySpan,
    Environment,
    FetchReport,
    SeriesKey,
)
from qmtl.runtime.sdk.history_frame import frame_schema, order_rows

NODE = "ohlcv:binance:BTC/USDT:1m"
KEY = SeriesKey(NODE, 60)
T0 = 1_706_745_600
"""2024-02-01 00:00 UTC."""
SERIES: dict[str, Any] = {"node_id": NODE, "interval": 60}


def bars(times: Iterable[int], seed: float = 0.0) -> pl.DataFrame:
    rows = [(ts, 100 + seed, 101 + seed, 99 + seed, 100.5 + seed, 1.0) for ts in times]
    return pl.DataFrame(rows, schema=frame_schema(KEY), orient="row")


def clock_at(now_s: int) -> VirtualClock:
    return VirtualClock(now_s * 1000)


class MemoryStore:
    """A HistoryStore without a disk; `delay_s` makes every answer late, `reads` and `writes` count them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.environment: Environment | None = None
        self.clock = clock
        self.delay_s = 0.0
        self.reads = self.writes = 0
        self.rows: dict[SeriesKey, pl.DataFrame] = {}
        self.spans: dict[tuple[SeriesKey, CoverageKind], list[Range]] = {}

    async def _wait(self) -> None:
        if self.clock is not None and self.delay_s:
            await self.clock.sleep(self.delay_s)

    async def read(self, key: SeriesKey, start: int, end: int) -> pl.DataFrame:
        self.reads += 1
        await self._wait()
        return cut_frame(self.rows.get(key, pl.DataFrame(schema=frame_schema(key))), start, end)

    async def write(
        self,
        key: SeriesKey,
        frame: pl.DataFrame,
        *,
        covered: Sequence[Range],
        provisional: bool = False,
        fence: int | None = None,
    ) -> int:
        self.writes += 1
        held = self.rows.get(key, pl.DataFrame(schema=frame_schema(key)))
        self.rows[key] = order_rows(key, pl.concat([held, frame]))
        self._lay(key, covered, "young" if provisional else "rows")
        return frame.height

    async def mark_empty(self, key: SeriesKey, ranges: Sequence[Range], *, permanent: bool) -> None:
        self._lay(key, ranges, "empty" if permanent else "empty_24h")

    def _lay(self, key: SeriesKey, ranges: Sequence[Range], kind: CoverageKind) -> None:
        for name in list(self.spans):
            if name[0] == key:
                self.spans[name] = subtract_ranges(self.spans[name], merge_ranges(ranges))
        self.spans[key, kind] = merge_ranges([*self.spans.get((key, kind), ()), *ranges])

    async def coverage(self, key: SeriesKey, *, now: int | None = None) -> list[CoverageSpan]:
        await self._wait()
        found = [(s, e, name[1]) for name, held in self.spans.items() if name[0] == key for s, e in held]
        return [CoverageSpan(*span) for span in sorted(found)]

    async def aclose(self) -> None:
        pass


class ScriptedFetcher:
    """An exchange that has bars at `has`; `asked` keeps the ranges it was asked for."""

    def __init__(self, has: Iterable[int], *, clock: Clock | None = None, **config: Any) -> None:
        self.has = sorted(has)
        self.clock = clock
        self.asked: list[Range] = []
        self.delay_s = 0.0
        self.error: BaseException | None = None
        self.confirms = True
        self.seed = 0.0
        given = {"exchange": "binance", "symbols": ("BTC/USDT",), "timeframe": "1m", "batch_limit": 500}
        self.config = SimpleNamespace(**{**given, "grid_offset_s": None, **config})

    def resolve(self, node_id: str, interval: int) -> None:
        named = resolve_node(node_id, "ohlcv", self.config.exchange, self.config.symbols)
        check_interval(node_id, named, interval, self.config.timeframe)

    async def fetch_report(self, start: int, end: int, *, node_id: str, interval: int) -> FetchReport:
        self.asked.append((start, end))
        if self.clock is not None and self.delay_s:
            await self.clock.sleep(self.delay_s)
        else:
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        frame = bars([ts for ts in self.has if start <= ts < end], self.seed)
        empty = subtract_ranges([(start, end)], runs_of(frame["ts"], interval))
        newest = self.has[-1] if self.has else 0
        confirmed = clip_ranges(empty, 0, newest) if self.confirms else []
        return FetchReport(frame, [EmptySpan(s, e, True) for s, e in confirmed], 1)

    async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> pl.DataFrame:
        return (await self.fetch_report(start, end, node_id=node_id, interval=interval)).frame

    def cells(self) -> list[int]:
        """Every cell asked for, as often as it was."""
        return sorted(ts for start, end in self.asked for ts in range(start, end, 60))


class ScriptedFeed:
    """A live feed that yields `updates`, (delay in seconds, rows) each, then stays silent."""

    def __init__(
        self, clock: Clock, updates: Sequence[tuple[float, pl.DataFrame]], *, emits: bool = False
    ) -> None:
        self.clock = clock
        self.updates = updates
        self.config = SimpleNamespace(emit_building_candle=emits)
        self.subscribed = 0
        self.is_open = False

    async def is_live_available(self, node_id: str, interval: int) -> bool:
        return True

    async def subscribe(self, node_id: str, interval: int) -> AsyncIterator[tuple[int, pl.DataFrame]]:
        self.subscribed += 1
        self.is_open = True
        try:
            for delay_s, frame in self.updates:
                await self.clock.sleep(delay_s)
                yield int(frame["ts"][-1]), frame
            await asyncio.Event().wait()
        finally:
            self.is_open = False

    async def unsubscribe(self, node_id: str, interval: int) -> None:
        raise AssertionError("a fetch ends its own subscription and nobody else's")


def live(times: Iterable[int], *, closed: bool = True, seed: float = 0.0) -> pl.DataFrame:
    return bars(times, seed).with_columns(closed=pl.lit(closed))


def times(frame: Any) -> list[int]:
    return [int(ts) for ts in frame["ts"]]
