"""What a live stream's rows become: bars that close once, trades that come once. No I/O, no clock."""

from collections import deque
from collections.abc import Iterable, Sequence

from qmtl.runtime.io.history_rows import TradeRow
from qmtl.runtime.sdk.history import CLOSE_GRACE_S

BarRow = tuple[int, float, float, float, float, float]
"""ts in seconds, open, high, low, close, volume."""


class LiveBars:
    """One series of bars of `step` seconds on its way from forming to closed.

    Everything before `settled` was given, or is known not to exist; None until the first bar closes.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._shown: BarRow | None = None
        self.settled: int | None = None
        self.forming: BarRow | None = None

    def take(self, row: BarRow) -> tuple[BarRow | None, bool]:
        """Take a row of the stream; return the bar it closed, and whether there is a hole before it.

        A row behind a hole is not taken: fill [settled, its ts) and bring it again.
        """
        ts = row[0]
        if self.settled is not None and ts < self.settled:
            return None, False
        closed = None
        if self.forming is not None and ts > self.forming[0]:
            closed = self._close()
        if self.forming is None and self.settled is not None and ts > self.settled:
            return closed, True
        if self.forming is None or ts == self.forming[0]:
            self.forming = row
        return closed, False

    def tick(self, now_s: float) -> BarRow | None:
        """Return the bar that time closed."""
        if self.forming is not None and now_s >= self.closes_s(self.forming[0]):
            return self._close()
        return None

    def closes_s(self, ts: int) -> int:
        """Return when the bar of `ts` is closed by the clock."""
        return ts + self._step + CLOSE_GRACE_S

    def interrupt(self) -> None:
        """Take note that rows were missed: the forming bar is no longer what it was."""
        if self.forming is not None:
            self.settled = self.forming[0]
            self.forming = None

    def fill(self, rows: Iterable[BarRow], until: int | None) -> list[BarRow]:
        """Take closed bars from elsewhere; return those not given yet, ascending.

        With `until` nothing else exists before it.
        """
        given = []
        for row in rows:
            if self.settled is None or row[0] >= self.settled:
                given.append(row)
                self.settled = row[0] + self._step
        if until is not None:
            self.settled = max(until, self.settled or until)
        if self.forming is not None and self.settled is not None and self.forming[0] < self.settled:
            self.forming = None
        return given

    def show_forming(self) -> BarRow | None:
        """Return the forming bar if it changed since it was last returned."""
        if self.forming is None or self.forming == self._shown:
            return None
        self._shown = self.forming
        return self.forming

    def _close(self) -> BarRow:
        row = self.forming
        if row is None:
            raise AssertionError("no bar is forming")
        self.settled = row[0] + self._step
        self.forming = None
        return row


class LiveTrades:
    """Trades of one series, each once by its id; `memory` bounds how many ids are remembered.

    `collapses_nameless` takes trades that have no id and share a millisecond for one.
    """

    def __init__(self, memory: int, *, collapses_nameless: bool = False, dedupes: bool = True) -> None:
        self._memory = memory
        self._collapses_nameless = collapses_nameless
        self._dedupes = dedupes
        self._seen: set[str] = set()
        self._order: deque[str] = deque()
        self.last_ms: int | None = None

    def take(self, rows: Sequence[TradeRow]) -> list[TradeRow]:
        """Return the rows that were not given yet."""
        new = []
        for row in rows:
            name = self._name(row)
            if name in self._seen:
                if self._dedupes:
                    continue
            else:
                self._remember(name)
            new.append(row)
            if self.last_ms is None or row[1] > self.last_ms:
                self.last_ms = row[1]
        return new

    def is_new(self, rows: Iterable[TradeRow]) -> bool:
        """Tell whether any of `rows` was not given yet."""
        return any(self._name(row) not in self._seen for row in rows)

    def _name(self, row: TradeRow) -> str:
        if self._collapses_nameless and row[2].startswith("~"):
            return f"~{row[1]}"
        return row[2]

    def _remember(self, name: str) -> None:
        self._seen.add(name)
        self._order.append(name)
        if len(self._order) > self._memory:
            self._seen.discard(self._order.popleft())
