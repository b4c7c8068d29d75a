"""Follow the MACD: long above its signal line, short below."""

from qmtl.runtime.sdk import Bars, Param, Signals, Strategy, ta


class MacdCross(Strategy):
    """Enter where the line crosses its signal, on the side of a slower trend; leave at the next cross."""

    interval, decide_on = "1m", "close"
    fast = Param(60, low=30, high=120, step=30)
    slow = Param(130, low=80, high=260, step=60)
    smooth = Param(45, low=15, high=90, step=15)
    stop = Param(0.01, role="stop")

    def signals(self, bars: Bars) -> Signals:
        """See Strategy."""
        line, average, _ = ta.macd(bars.close, self.fast, self.slow, self.smooth)
        up, down = ta.crosses_above(line, average), ta.crosses_below(line, average)
        return Signals(
            long=up & (line < 0),
            short=down & (line > 0),
            exit_long=down,
            exit_short=up,
            plot={"line": line, "average": average},
        )
