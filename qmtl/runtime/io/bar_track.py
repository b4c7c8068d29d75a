"""The candles of one symbol in unbroken order, whatever the stream loses or repeats."""

from collections import deque
from collections.abc import Callable, Sequence

from qmtl.core.bar import Bar
from qmtl.core.event import BarClosed, PriceUpdated


class BarTrack:
    """Passes updates on to `put` while they follow each other; holds them back while a gap is filled.

    `request_fill(open_ms, stop_ms)` is called once per gap with the missing bars' range [open_ms, stop_ms);
    `fill` answers it. `last_open_ms` is the newest closed bar passed on. Repeated and late updates are
    counted in `repeats`, prices that a newer one replaced while held back in `conflated`, bars that the
    venue does not have in `holes`.
    """

    def __init__(
        self,
        symbol: str,
        interval_ms: int,
        put: Callable[[BarClosed | PriceUpdated], None],
        request_fill: Callable[[int, int], None],
        last_open_ms: int | None = None,
    ) -> None:
        self.symbol = symbol
        self.interval_ms = interval_ms
        self.last_open_ms = last_open_ms
        self.repeats = 0
        self.conflated = 0
        self.holes = 0
        self._put = put
        self._request_fill = request_fill
        self._held: deque[BarClosed | PriceUpdated] = deque()
        self.is_filling = False

    def hold(self) -> None:
        """Hold updates back until the next `fill`: history comes first."""
        self.is_filling = True

    def take(self, update: BarClosed | PriceUpdated) -> None:
        """Pass on one update of the stream, or hold it back."""
        if self.is_filling:
            self._hold(update)
        elif not self._passes(update):
            self._held.appendleft(update)

    def _passes(self, update: BarClosed | PriceUpdated) -> bool:
        last = self.last_open_ms
        if last is not None:
            expected = last + self.interval_ms
            if update.open_ms < expected:
                self.repeats += 1
                return True
            if update.open_ms > expected:
                self.is_filling = True
                self._request_fill(expected, update.open_ms)
                return False
        if isinstance(update, BarClosed):
            self.last_open_ms = update.open_ms
        self._put(update)
        return True

    def _hold(self, update: BarClosed | PriceUpdated) -> None:
        held = self._held
        newest = held[-1] if held else None
        is_newer = isinstance(newest, PriceUpdated) and isinstance(update, PriceUpdated)
        if is_newer and newest is not None and newest.open_ms == update.open_ms:
            held[-1] = update
            self.conflated += 1
            return
        held.append(update)

    def fill(self, bars: Sequence[Bar], *, stop_ms: int | None = None, is_warmup: bool = False) -> None:
        """Pass on bars of history in order, then what was held back; this may uncover the next gap.

        What lies before `stop_ms` and is not in `bars` is a hole: the venue has no such bar.
        """
        for bar in bars:
            last = self.last_open_ms
            if last is not None and bar.open_ms <= last:
                continue
            if last is not None:
                self.holes += (bar.open_ms - last) // self.interval_ms - 1
            self.last_open_ms = bar.open_ms
            closed_ms = bar.open_ms + self.interval_ms - 1
            values = (bar.open, bar.high, bar.low, bar.close, bar.volume)
            self._put(
                BarClosed(
                    closed_ms,
                    self.symbol,
                    bar.open_ms,
                    *values,
                    refilled=not is_warmup,
                    warmup=is_warmup,
                )
            )
        if stop_ms is not None:
            self._skip_to(stop_ms)
        self.is_filling = False
        while self._held and not self.is_filling:
            update = self._held.popleft()
            if not self._passes(update):
                self._held.appendleft(update)

    def _skip_to(self, open_ms: int) -> None:
        last = self.last_open_ms
        if last is not None and last + self.interval_ms < open_ms:
            self.holes += (open_ms - last) // self.interval_ms - 1
            self.last_open_ms = open_ms - self.interval_ms
