"""What a live feed brings to a fetch: the newest closed bars, and the one that is forming."""

from typing import Any

from qmtl.core.ranges import Range
from qmtl.runtime.sdk.fetch_plan import FetchWindow
from qmtl.runtime.sdk.live_tail import LiveTail


class LiveCatch:
    """Takes from a tail what a request still lacks; what came so far stays when the wait is cut off."""

    def __init__(self, window: FetchWindow, wanted: list[Range], *, wants_forming: bool) -> None:
        self._wanted = {ts for start, end in wanted for ts in range(start, end, window.key.interval)}
        self._newest_wanted = max(self._wanted, default=-1)
        self._forming = window.forming if wants_forming else None
        self.closed: dict[int, dict[str, Any]] = {}
        self.forming: dict[str, Any] | None = None

    async def run(self, tail: LiveTail) -> None:
        """Wait until nothing is lacking, the feed has gone past it, or has ended."""
        while not self._take(tail):
            if tail.is_over:
                tail.raise_failure()
                return
            await tail.changed()

    def _take(self, tail: LiveTail) -> bool:
        """Take the rows that are asked for; true when the wait is over."""
        forming = self._forming
        asked = self._wanted if forming is None else {*self._wanted, forming}
        self.closed = {ts: row for ts, row in tail.closed.items() if ts in asked}
        is_forming = tail.forming is not None and tail.forming["ts"] == forming
        self.forming = tail.forming if is_forming and forming not in self.closed else None
        has_closed = self._wanted <= self.closed.keys() or tail.newest > self._newest_wanted
        return has_closed and (forming is None or tail.newest >= forming)
