"""What the pages of an exchange prove about a range: which of it is settled, and which of it is empty.

Pure: the fetchers send the requests that it asks for and show it the answers. Times are in one unit, that of
the cells (seconds for bars, milliseconds for trades).
"""

from collections.abc import Sequence
from typing import NamedTuple

from qmtl.core.ranges import Range, clip_ranges, merge_ranges, subtract_ranges

OLD_CELLS = 2
"""A gap counts only once it is so many cells old: exchanges list their newest bars late."""
RECHECK_MS = 1_000.0
"""Two empty answers are two only when so many real milliseconds lie between them."""


class Silence(NamedTuple):
    """A range that one request found empty, and when that was (real milliseconds)."""

    start: int
    end: int
    asked_ms: float


class PageLedger:
    """The state of one fetch of [start, end), in windows of `window` units and cells of `step` from `offset`.

    An answer to a request from `since` that reaches `last` settles everything between: rows, or holes that a
    later row of the same answer proves. An empty answer proves nothing until a second one.
    """

    def __init__(self, start: int, end: int, window: int, step: int, offset: int = 0) -> None:
        self.start = start
        self.end = end
        self._window = window
        self._step = step
        self._offset = offset
        self._next = start
        self._settled: list[Range] = []
        self._silent: list[Silence] = []
        self._silent_twice: list[Range] = []

    def next_window(self) -> Range | None:
        """Return the next window, or what of it is not settled yet; None after the last one."""
        while self._next < self.end:
            window = self._next, min(self.end, self._next + self._window)
            self._next = window[1]
            left = subtract_ranges([window], self._settled)
            if left:
                return left[0][0], left[-1][1]
        return None

    def settle(self, since: int, until: int) -> None:
        """Take note that an answer held everything of [since, until)."""
        if since < until:
            self._settled = merge_ranges([*self._settled, (since, until)])

    def skip(self, at: int, stop: int) -> int:
        """Return the first unit of [at, stop) that is not settled, `stop` when all are."""
        left = subtract_ranges([(at, stop)], self._settled) if at < stop else []
        return left[0][0] if left else stop

    def fall_silent(self, start: int, end: int, asked_ms: float, *, is_second: bool) -> None:
        """Take note that a request for [start, end) was answered with nothing."""
        if is_second:
            self._silent_twice.append((start, end))
        else:
            self._silent.append(Silence(start, end, asked_ms))

    def doubts(self, old_before: int) -> list[Silence]:
        """Return what was found empty once and is worth a second request: not settled, all of it old."""
        found = []
        for silence in self._silent:
            whole: Range = (silence.start, min(silence.end, old_before))
            left = subtract_ranges(clip_ranges([whole], self.start, self.end), self._settled)
            found += [Silence(start, end, silence.asked_ms) for start, end in left]
        return found

    def empty(self, rows: Sequence[Range], old_before: int) -> tuple[list[Range], list[Range]]:
        """Return (empty for good, empty for a day) of what ended before `old_before`; `rows` has rows."""
        end = min(self.end, old_before)
        settled = clip_ranges(self._settled, self.start, end)
        silent = clip_ranges(merge_ranges(self._silent_twice), self.start, end)
        lasting = self._whole_cells(subtract_ranges(settled, rows))
        either = self._whole_cells(subtract_ranges(merge_ranges([*settled, *silent]), rows))
        return lasting, subtract_ranges(either, lasting)

    def _whole_cells(self, ranges: Sequence[Range]) -> list[Range]:
        """Return what of `ranges` are whole cells of the grid."""
        step, offset = self._step, self._offset
        cells = []
        for start, end in ranges:
            first, last = start + (offset - start) % step, end - (end - offset) % step
            if first < last:
                cells.append((first, last))
        return cells


def closed_end(now_s: int, step: int, offset: int, grace_s: int) -> int:
    """Return the end of the newest cell of the grid that is closed at `now_s`."""
    last = now_s - grace_s
    return last - (last - offset) % step


def old_end(now_s: int, step: int, offset: int) -> int:
    """Return the end of the newest cell of the grid whose emptiness counts."""
    return closed_end(now_s, step, offset, OLD_CELLS * step)
