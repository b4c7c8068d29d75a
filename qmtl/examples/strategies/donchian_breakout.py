"""Follow what leaves the range of the hours before."""

from qmtl.runtime.sdk import Bars, Param, Signals, Strategy, ta


class DonchianBreakout(Strategy):
    """Enter beyond the highest or lowest of the closed hours; leave at the shorter range's other end."""

    interval, decide_on = "1m", "close"
    hours = Param(24, low=12, high=72, step=12)
    exit_hours = Param(8, low=4, high=24, step=4)
    stop = Param(0.02, role="stop")

    def signals(self, bars: Bars) -> Signals:
        """See Strategy."""
        hourly = bars.at("1h")
        upper = hourly.align(ta.highest(hourly.high, self.hours))
        lower = hourly.align(ta.lowest(hourly.low, self.hours))
        floor = hourly.align(ta.lowest(hourly.low, self.exit_hours))
        ceiling = hourly.align(ta.highest(hourly.high, self.exit_hours))
        return Signals(
            long=ta.crosses_above(bars.close, upper),
            short=ta.crosses_below(bars.close, lower),
            exit_long=bars.close < floor,
            exit_short=bars.close > ceiling,
            plot={"upper": upper, "lower": lower},
        )
