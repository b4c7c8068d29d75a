"""Records of bars at which nothing was done, kept as the columns they come from until somebody looks."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

from qmtl.core.event import AnyEvent, BarClosed, DecisionMade
from qmtl.core.reason import Reason

Numbers = Iterable[dict[str, float] | None]
"""What was compared at each bar of a stretch, in order; made whenever it is gone through."""


class QuietBars:
    """The records of a stretch: each bar, then its reason. They share one, and who gave it."""

    __slots__ = ("_bars", "_gate", "_numbers", "reason")

    def __init__(self, bars: Sequence[BarClosed], reason: Reason, gate: str, numbers: Numbers) -> None:
        """Keep `bars` of one symbol and `numbers`: neither may change afterwards."""
        self._bars = bars
        self.reason = reason
        self._gate = gate
        self._numbers = numbers

    @property
    def bars(self) -> int:
        """How many bars there are; records are twice as many."""
        return len(self._bars)

    def __iter__(self) -> Iterator[AnyEvent]:
        bars = self._bars
        records: list[AnyEvent] = [*bars, *bars]
        records[::2] = bars
        records[1::2] = map(
            DecisionMade,
            [bar.ts_ms for bar in bars],
            repeat(bars[0].symbol),
            [bar.open_ms for bar in bars],
            repeat(self.reason),
            repeat(self._gate),
            self._numbers,
        )
        return iter(records)
