"""The signals face over one symbol whose signals are known for a whole history."""

from collections.abc import Sequence

from qmtl.core.event import AnyEvent, BarClosed
from qmtl.engine.strategy import Context
from qmtl.runtime.sdk.signal_face import SignalFace
from qmtl.runtime.sdk.signal_reader import TableReader, TableRows, measure_distance
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.runtime.sdk.trade_plan import TradePlan


class ForeseenFace(SignalFace):
    """Decides as SignalFace does, and tells how far ahead its table asks for nothing; see Foresight."""

    def __init__(self, strategy: Strategy, plan: TradePlan, symbol: str, reader: TableReader) -> None:
        super().__init__(strategy, plan, {symbol: reader})
        self._symbol = symbol
        self._table = reader

    @property
    def is_prepared(self) -> bool:
        """A table there always is."""
        return True

    def foresee(self, ctx: Context, events: Sequence[AnyEvent], at: int) -> Sequence[BarClosed]:
        """Return the bars up to the next signal, while what rests at the venue is what should."""
        held, market = ctx.position(self._symbol).quantity, self._markets[self._symbol]
        is_settled = not market.leaving and market.reversal is None
        if not (self.is_warm and is_settled and len(ctx.orders) == (self._resting if held else 0)):
            return ()
        times = self._table.quiet_times((held > 0) - (held < 0))
        stretch = events[at : at + len(times)]
        bars = [
            event
            for event in stretch
            if type(event) is BarClosed and event.symbol == self._symbol
            if not (event.refilled or event.warmup)
        ]
        # Anything else among them, or another history: bar by bar tells what is wrong.
        is_known = len(bars) == len(stretch) and [bar.open_ms for bar in bars] == times[: len(bars)]
        return bars if is_known else ()

    def pass_quiet(self, bars: Sequence[BarClosed]) -> TableRows:
        """Step over bars without a signal; return the rows that say what was compared."""
        rows = self._table.skip(len(bars))
        _, numbers = self._table.read()
        self._numbers = measure_distance(numbers)
        return rows
