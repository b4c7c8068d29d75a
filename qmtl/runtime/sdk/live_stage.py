"""What a live feed brings to a fetch: the newest closed bars, and the one that is forming."""

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qmtl.core.ranges import Range
from qmtl.runtime.sdk.fetch_plan import FetchWindow

if TYPE_CHECKING:
    import polars as pl


class LiveCatch:
    """Collects from a feed what a request still lacks; what came so far stays when the wait is cut off."""

    def __init__(self, window: FetchWindow, wanted: list[Range], *, wants_forming: bool) -> None:
        self._window = window
        self._wanted = {ts for start, end in wanted for ts in range(start, end, window.key.interval)}
        self._newest_wanted = max(self._wanted, default=-1)
        self._forming = window.forming if wants_forming else None
        self.closed: dict[int, dict[str, Any]] = {}
        self.forming: dict[str, Any] | None = None

    async def run(self, feed: Any) -> None:
        """Listen until nothing is lacking, or the feed has gone past it."""
        key = self._window.key
        if not await feed.is_live_available(key.node_id, key.interval):
            return
        async with aclosing(feed.subscribe(key.node_id, key.interval)) as updates:
            async for _, frame in updates:
                if self._take(frame):
                    return

    def _take(self, frame: "pl.DataFrame") -> bool:
        """Keep the rows that are asked for; true when the wait is over."""
        newest = -1
        for row in frame.iter_rows(named=True):
            ts, is_closed = row["ts"], row.pop("closed", True)
            newest = max(newest, ts)
            if ts in self._wanted and is_closed:
                self.closed[ts] = row
            elif ts == self._forming:
                if is_closed:
                    self.closed[ts], self.forming = row, None
                elif ts not in self.closed:
                    self.forming = row
        has_closed = self._wanted <= self.closed.keys() or newest > self._newest_wanted
        has_forming = self._forming is None or self.forming is not None or newest >= self._forming
        return has_closed and has_forming
