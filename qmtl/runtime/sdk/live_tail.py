"""The newest rows of a series as a live feed gives them, kept for the requests that come."""

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.fetch_plan import RECENT_CELLS
from qmtl.runtime.sdk.history import SeriesKey

if TYPE_CHECKING:
    import polars as pl

IDLE_MS = 900_000.0
"""A tail that nobody asked for so long ends with the next row."""
_KEPT_ROWS = 4 * RECENT_CELLS
Row = dict[str, Any]


class LiveTail:
    """Listens to one series of a feed and keeps its last closed bars and the forming one.

    A feed tells what closes from now on: only who listened before has a bar that REST lacks.
    """

    def __init__(self, feed: Any, key: SeriesKey, clock: Clock) -> None:
        self.closed: dict[int, Row] = {}
        self.forming: Row | None = None
        self.newest = -1
        self._feed = feed
        self._key = key
        self._clock = clock
        self._asked_ms = clock.real_ms()
        self._news = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._end)

    @property
    def is_over(self) -> bool:
        """Tell whether nothing comes any more."""
        return self._task.done()

    def ask(self) -> None:
        """Note that somebody needs it."""
        self._asked_ms = self._clock.real_ms()

    async def changed(self) -> None:
        """Wait for the next rows, or the end."""
        if not self.is_over:
            await self._news.wait()

    def raise_failure(self) -> None:
        """Raise what ended it, if something did."""
        if self.is_over and not self._task.cancelled():
            self._task.result()

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._news.set()
        if not task.cancelled():
            # Whoever asks is told; asking here keeps the loop from reporting it as unseen.
            _ = task.exception()

    async def _run(self) -> None:
        node_id, interval = self._key
        if not await self._feed.is_live_available(node_id, interval):
            return
        async with aclosing(self._feed.subscribe(node_id, interval)) as updates:
            async for _, frame in updates:
                self._take(frame)
                if self._clock.real_ms() - self._asked_ms > IDLE_MS:
                    return

    def _take(self, frame: "pl.DataFrame") -> None:
        for row in frame.iter_rows(named=True):
            ts, is_closed = row["ts"], row.pop("closed", True)
            self.newest = max(self.newest, ts)
            if is_closed:
                self.closed[ts] = row
                if self.forming is not None and self.forming["ts"] <= ts:
                    self.forming = None
            elif ts not in self.closed:
                self.forming = row
        for ts in sorted(self.closed)[:-_KEPT_ROWS]:
            del self.closed[ts]
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def aclose(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class LiveTails:
    """The tails of one feed on one event loop."""

    def __init__(self, feed: Any, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._tails: dict[SeriesKey, LiveTail] = {}

    @property
    def emits_forming(self) -> bool:
        """Tell whether the feed is configured to give the bar that is open."""
        return bool(getattr(getattr(self._feed, "config", None), "emit_building_candle", False))

    def of(self, key: SeriesKey) -> LiveTail:
        """Return the tail of a series; one that ended is begun again."""
        tail = self._tails.get(key)
        if tail is None or tail.is_over:
            tail = self._tails[key] = LiveTail(self._feed, key, self._clock)
        tail.ask()
        return tail

    async def aclose(self) -> None:
        """Stop listening to every series."""
        tails, self._tails = list(self._tails.values()), {}
        for tail in tails:
            await tail.aclose()
