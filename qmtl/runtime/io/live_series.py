"""Live bars and live trades: what each does with a stream's rows, and how it asks for what was missed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qmtl.runtime.io.bar_fetcher import BarFetcher
from qmtl.runtime.io.history_rows import frame_live_bars, frame_trades, list_trades, parse_bar
from qmtl.runtime.io.live_rows import BarRow, LiveBars, LiveTrades
from qmtl.runtime.io.live_subscription import LiveSubscription
from qmtl.runtime.io.page_ledger import closed_end
from qmtl.runtime.io.trade_fetcher import TradeFetcher
from qmtl.runtime.sdk.history import CLOSE_GRACE_S, FetchReport, RetryableFetchError

if TYPE_CHECKING:
    import polars as pl

Watch = Callable[[], Awaitable[Sequence[Any]]]
_HOLE_TRIES = 3
_VERIFY_TRIES = 3
_PEEK_ROWS = 5


class BarSubscription(LiveSubscription):
    """Bars of one series; see LiveSubscription for the rest of the arguments.

    `verify_closed` reads each bar that the stream closed once more by REST and gives one that differs again.
    """

    def __init__(
        self,
        *arguments: Any,
        watch: Watch,
        fetcher: BarFetcher,
        node_id: str,
        step: int,
        emit_forming: bool,
        verify_closed: bool,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._watch_rows = watch
        self._fetcher = fetcher
        self._node_id = node_id
        self._step = step
        self._offset = fetcher.offset(step)
        self._emit_forming = emit_forming
        self._verify_closed = verify_closed
        self._bars = LiveBars(step)
        self._hole_end: int | None = None
        self._hole_tries = 0
        self._unverified: dict[int, BarRow] = {}
        self._verify_tries = 0
        self._is_touched = False

    async def _watch(self) -> Sequence[Any]:
        return await self._watch_rows()

    def _interrupt(self) -> None:
        self._bars.interrupt()
        self._hole_end = None

    def _take(self) -> "list[tuple[int, pl.DataFrame]]":
        given: list[tuple[Any, ...]] = []
        while self._buffer:
            row = parse_bar(self._buffer[0])
            closed, has_hole = self._bars.take(row)
            given += self._closed(closed)
            if has_hole:
                self._hole_end, self._hole_tries = row[0], 0
                self._fill_at_ms = self._clock.real_ms() + 1000 * max(0.0, self._left_s(row[0]))
                break
            self._buffer.popleft()
            self._is_touched = True
        given += self._shown()
        return _pack(given)

    def _closed(self, row: BarRow | None) -> list[tuple[Any, ...]]:
        if row is None:
            return []
        if self._verify_closed:
            self._unverified[row[0]] = row
        return [(*row, True)]

    def _shown(self) -> list[tuple[Any, ...]]:
        row = self._bars.show_forming() if self._emit_forming else None
        return [] if row is None else [(*row, False)]

    # --- time -----------------------------------------------------------------------------------------

    def _left_s(self, end_s: int) -> float:
        """Return the real seconds until everything that ended at `end_s` is closed."""
        clock = self._clock
        return ((end_s + CLOSE_GRACE_S) * 1000 - clock.now_ms()) / 1000 / clock.speed

    def _due_s(self) -> float | None:
        ends = []
        if self._bars.forming is not None:
            ends.append(self._bars.forming[0] + self._step)
        if self._unverified and not self._is_broken:
            ends.append(next(iter(self._unverified)) + self._step + self._verify_tries)
        return min(self._left_s(end) for end in ends) if ends else None

    async def _on_time(self) -> "list[tuple[int, pl.DataFrame]]":
        found: list[tuple[Any, ...]] = []
        if self._fill_at_ms is None:
            found += self._closed(self._bars.tick(self._clock.now_ms() / 1000))
        if self._unverified and not self._is_broken:
            first = next(iter(self._unverified))
            if self._left_s(first + self._step + self._verify_tries) <= 0:
                found = [*await self._verify(), *found]
        return _pack(found)

    async def _verify(self) -> list[tuple[Any, ...]]:
        """Return the bars that REST knows otherwise than the stream."""
        closed = [ts for ts in self._unverified if self._left_s(ts + self._step) <= 0]
        try:
            rows = await self._read(closed[0], closed[-1] + self._step)
        except RetryableFetchError:
            rows = None
        if rows is None or closed[0] not in {row[0] for row in rows.frame.rows()}:
            self._verify_tries += 1
            if self._verify_tries < _VERIFY_TRIES:
                return []
        self._verify_tries = 0
        known = {row[0]: row for row in rows.frame.rows()} if rows is not None else {}
        differing = [
            known[ts] for ts in closed if known.get(ts, self._unverified[ts]) != self._unverified[ts]
        ]
        for ts in closed:
            del self._unverified[ts]
        return [(*row, True) for row in differing]

    # --- what was missed ------------------------------------------------------------------------------

    async def _read(self, start: int, end: int) -> FetchReport:
        return await self._fetcher.fetch_report(start, end, node_id=self._node_id, interval=self._step)

    async def _fill(self) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        bars, hole_end = self._bars, self._hole_end
        if bars.settled is None:
            return
        now_s = self._clock.now_ms() // 1000
        end = closed_end(now_s, self._step, self._offset, CLOSE_GRACE_S) if hole_end is None else hole_end
        if end <= bars.settled:
            return
        start = bars.settled
        report = await self._read(start, end)
        self._hole_tries += 1
        cells = (end - start) // self._step
        empty = sum(span.end - span.start for span in report.confirmed_empty) // self._step
        is_whole = report.frame.height + empty >= cells
        if self._hole_end != hole_end:
            hole_end = None
        if hole_end is not None and not is_whole and self._hole_tries < _HOLE_TRIES:
            # The newest bars may not be listed yet.
            self._fill_at_ms = self._clock.real_ms() + 1000
            return
        given = bars.fill(report.frame.rows(), hole_end)
        for item in _pack([(*row, True) for row in given]):
            yield item

    async def _is_behind(self) -> bool:
        bars, step = self._bars, self._step
        now_s = self._clock.now_ms() // 1000
        known = bars.forming
        since = known[0] if known else bars.settled
        if since is None:
            since = now_s - (now_s - self._offset) % step
        rows = await self._fetcher.peek(since, _PEEK_ROWS, node_id=self._node_id, interval=step)
        # A bar in which nothing was traded is listed by some exchanges and streamed by none.
        newer = [row for row in rows if row != known and row[5] > 0]
        if not self._is_touched and newer:
            # Nothing came yet and nothing was known: this is what the next silence is compared with.
            bars.take(newer[-1])
            self._is_touched = True
        return bool(newer)


class TradeSubscription(LiveSubscription):
    """Trades of one series; see LiveSubscription for the rest of the arguments."""

    def __init__(
        self,
        *arguments: Any,
        watch: Watch,
        fetcher: TradeFetcher,
        node_id: str,
        collapses_nameless: bool,
        dedupes: bool,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._watch_rows = watch
        self._fetcher = fetcher
        self._node_id = node_id
        memory = 10 * (self._buffer.maxlen or 1)
        self._trades = LiveTrades(memory, collapses_nameless=collapses_nameless, dedupes=dedupes)
        self._equals: dict[str, int] = {}
        self._equals_ms = 0
        self._began_ms = self._clock.now_ms()

    async def _watch(self) -> Sequence[Any]:
        return await self._watch_rows()

    def _interrupt(self) -> None:
        # A new stream counts equals of a millisecond anew.
        self._equals = {}

    def _take(self) -> "list[tuple[int, pl.DataFrame]]":
        trades = list(self._buffer)
        self._buffer.clear()
        first_ms = trades[0].get("timestamp")
        if first_ms != self._equals_ms:
            self._equals = {}
        self._equals_ms = trades[-1].get("timestamp")
        rows = self._trades.take(list_trades(trades, self._equals))
        return [(rows[-1][0], frame_trades(rows))] if rows else []

    async def _fill(self) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        since_ms = self._began_ms if self._trades.last_ms is None else self._trades.last_ms
        pages = self._fetcher.follow(since_ms, self._clock.now_ms() + 1, node_id=self._node_id)
        async with aclosing(pages) as frames:
            async for frame in frames:
                rows = self._trades.take(frame.rows())
                if rows:
                    yield rows[-1][0], frame_trades(rows)
                await asyncio.sleep(0)

    async def _is_behind(self) -> bool:
        since_ms = self._began_ms if self._trades.last_ms is None else self._trades.last_ms
        pages = self._fetcher.follow(since_ms, self._clock.now_ms() + 1, node_id=self._node_id)
        async with aclosing(pages) as frames:
            async for frame in frames:
                if self._trades.is_new(frame.rows()):
                    return True
        return False


def _pack(rows: Sequence[tuple[Any, ...]]) -> "list[tuple[int, pl.DataFrame]]":
    """Return rows as one item; a bar that comes again goes before it, in one of its own."""
    if not rows:
        return []
    items, held = [], [rows[0]]
    for row in rows[1:]:
        if row[0] <= held[-1][0]:
            items.append(held)
            held = []
        held.append(row)
    items.append(held)
    return [(item[-1][0], frame_live_bars(item)) for item in items]
