"""One closed bar of the quickstart's strategy live: kept, computed on its window, checked; beside pandas.

The contract wants at most 50 µs of processor time a bar (quickstart §2.1).
"""

import pandas as pd

from bench.measure import compare, machine, write
from bench.recorded import closed_events, load_bars
from qmtl.core.event import BarClosed
from qmtl.examples.strategies.band_break import BandBreak
from qmtl.runtime.sdk.signal_reader import WindowReader

BARS = 3_000
WINDOW = 21


def run_reader(events: list[BarClosed]) -> int:
    """Push and read every bar; return how many had a signal."""
    reader = WindowReader(BandBreak(), WINDOW, 0, symbol="BTCUSDT", interval="1m")
    found = 0
    for event in events:
        reader.push(event)
        if reader.missing <= 0:
            mask, _ = reader.read()
            found += mask > 0
    return found


def run_pandas(closes: list[float]) -> int:
    """Compute the same bands on the same window by `rolling`, as such traders usually do."""
    found = 0
    for end in range(WINDOW, len(closes)):
        close = pd.Series(closes[end - WINDOW : end])
        middle, width = close.rolling(20).mean(), close.rolling(20).std()
        upper = middle + width
        found += bool((close > upper).iloc[-1] and not (close > upper).iloc[-2])
    return found


def main() -> None:
    """Measure both in turn."""
    bars, source = load_bars(BARS)
    events, closes = closed_events(bars), [bar.close for bar in bars[: BARS // 10]]
    print(machine(), source)
    figure = compare(
        "signals of the quickstart's strategy, live",
        lambda: run_reader(events),
        lambda: run_pandas(closes),
        count=BARS,
        anchor_count=len(closes),
        anchor_name="pandas rolling on the same window",
        unit="bars",
    )
    write("live_signals", [figure], {"source": source, "us_per_bar": 1e6 / figure.candidate_per_s})


if __name__ == "__main__":
    main()
