"""Records of bars at which nothing was done, kept as the columns they come from until somebody looks."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import msgspec

from qmtl.core.event import AnyEvent, BarClosed, DecisionMade
from qmtl.core.reason import Reason

Numbers = Iterable[dict[str, float] | None]
"""What was compared at each bar of a stretch, in order; made whenever it is gone through."""


class QuietBars(msgspec.Struct, frozen=True):
    """The records of a stretch of one symbol: each bar, then its reason, which they share with its gate.

    `bars` and `numbers` are kept: neither may change afterwards.
    """

    bars: Sequence[BarClosed]
    reason: Reason
    gate: str
    numbers: Numbers

    def __iter__(self) -> Iterator[AnyEvent]:
        bars = self.bars
        records: list[AnyEvent] = [*bars, *bars]
        records[::2] = bars
        records[1::2] = map(
            DecisionMade,
            [bar.ts_ms for bar in bars],
            repeat(bars[0].symbol),
            [bar.open_ms for bar in bars],
            repeat(self.reason),
            repeat(self.gate),
            self.numbers,
        )
        return iter(records)
