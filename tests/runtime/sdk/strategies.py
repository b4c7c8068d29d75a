"""Strategies and candles that several tests use."""

import numpy as np

from qmtl.runtime.sdk import Bars, Param, Signals, Strategy, ta

BAND_BREAK = '''"""The strategy of the first ten minutes."""

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
'''


class BandBreak(Strategy):
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


def walk(count: int, seed: int = 1, start_ms: int = 1_700_006_400_000, interval: str = "1m") -> Bars:
    """A seeded market of `count` candles, prices on the tick of 0.1; it begins at a whole day."""
    random = np.random.default_rng(seed)
    close = np.round(60_000 * np.exp(np.cumsum(random.normal(0, 5e-4, count))), 1)
    opened = np.append(60_000.0, close[:-1])
    top = np.round(np.maximum(opened, close) + np.abs(random.normal(0, 10, count)), 1)
    bottom = np.round(np.minimum(opened, close) - np.abs(random.normal(0, 10, count)), 1)
    volume = random.lognormal(3, 1, count)
    step = 60_000 if interval == "1m" else 3_600_000
    opens = start_ms + np.arange(count) * step
    return Bars(opens, opened, top, bottom, close, volume, symbol="BTCUSDT", interval=interval)


class Laggard(Strategy):
    """Holds what rose less than the other over the last bars."""

    symbols = ("BTC/USDT", "ETH/USDT")
    span = Param(3)

    def signals(self, bars: Bars) -> Signals:
        other = bars.of("ETH/USDT" if bars.symbol == "BTCUSDT" else "BTC/USDT")
        lag = ta.log_returns(other.close, self.span) - ta.log_returns(bars.close, self.span)
        return Signals(long=lag > 0.0002, exit_long=lag < -0.0002, plot={"lag": lag})
