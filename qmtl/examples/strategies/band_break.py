from qmtl.runtime.sdk import Bars, Param, Signals, Strategy, ta


class BandBreak(Strategy):
    """Enter on a fresh close beyond the inner band; leave at the middle, stop or target."""

    interval, decide_on = "1m", "close"
    window = Param(20, low=10, high=60, step=5)
    inner = Param(1.0, low=0.5, high=2.5, step=0.25)
    stop = Param(0.0011, role="stop")
    target = Param(0.0016, role="target")

    def signals(self, bars: Bars) -> Signals:
        middle, width = ta.mean_std(bars.close, self.window)
        upper, lower = middle + self.inner * width, middle - self.inner * width
        return Signals(
            long=ta.crosses_above(bars.close, upper),
            short=ta.crosses_below(bars.close, lower),
            exit_long=bars.close < middle,
            exit_short=bars.close > middle,
            plot={"upper": upper, "lower": lower},
        )
