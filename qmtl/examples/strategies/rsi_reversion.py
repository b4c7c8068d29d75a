"""Buy weakness that ends, sell strength that ends."""

from qmtl.runtime.sdk import Bars, Param, Signals, Strategy, ta


class RsiReversion(Strategy):
    """Enter where the index comes back out of its extreme; leave in the middle, by stop or target."""

    interval, decide_on = "1m", "close"
    span = Param(30, low=14, high=60, step=8)
    low = Param(25.0, low=15.0, high=35.0, step=5.0)
    high = Param(75.0, low=65.0, high=85.0, step=5.0)
    stop = Param(0.006, role="stop")
    target = Param(0.006, role="target")

    def signals(self, bars: Bars) -> Signals:
        """See Strategy."""
        index = ta.rsi(bars.close, self.span)
        return Signals(
            long=ta.crosses_above(index, self.low),
            short=ta.crosses_below(index, self.high),
            exit_long=index > 50,
            exit_short=index < 50,
            plot={"index": index},
        )
