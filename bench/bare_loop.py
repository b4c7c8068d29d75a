"""The anchor of the backtest figures: the close form of the Bollinger rules as one bare Python loop.

Lists of floats in, trades out, nothing else: no orders, no events, no decimals. Run as
`python -m bench.bare_loop`; other benchmarks import `run` and `make_candles`.
"""

import random
import sys
import time
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple


class Trade(NamedTuple):
    """One round trip: rows of entry and exit, 1 long or -1 short, prices, profit after fees."""

    entry_row: int
    exit_row: int
    direction: int
    entry: float
    exit: float
    profit: float


WINDOW = 20
STOP, TARGET, FEE = 0.0011, 0.0016, 0.0004


def run(closes: Sequence[float], fee: float = FEE) -> list[Trade]:
    """Return the closed trades of one unit; `fee` is a fraction of notional a side.

    Bands and the two past closes end at row t-1; entry, stop, target and re-entry are judged and filled
    at close t. Sums of squares run over differences to the first close.
    """
    trades: list[Trade] = []
    if len(closes) <= WINDOW:
        return trades
    anchor = closes[0]
    total = squares = 0.0
    for close in closes[:WINDOW]:
        difference = close - anchor
        total += difference
        squares += difference * difference
    held = entry_row = 0
    entry = stop = target = 0.0
    above = above_before = below = below_before = False
    stop_long, target_long = 1.0 - STOP, 1.0 + TARGET
    stop_short, target_short = 1.0 + STOP, 1.0 - TARGET
    row = WINDOW
    for close, leaving in zip(closes[WINDOW:], closes, strict=False):
        # The bands of the row before, from the sums that end there.
        middle = total / WINDOW
        spread = squares - total * middle
        std = sqrt(spread / (WINDOW - 1)) if spread > 0.0 else 0.0
        upper, lower = anchor + middle + std, anchor + middle - std
        if row > WINDOW:
            above_before, below_before = above, below
        last = closes[row - 1]
        above, below = last > upper, last < lower
        if held:
            over, under = upper + std, lower - std
            if held > 0:
                is_exit = close <= stop or close >= target or (last > over >= close)
            else:
                is_exit = close >= stop or close <= target or (last < under <= close)
            if is_exit:
                profit = held * (close - entry) - fee * (entry + close)
                trades.append(Trade(entry_row, row, held, entry, close, profit))
                held = 0
        elif close > upper:
            if not (above or above_before):
                held, entry, entry_row = 1, close, row
                stop, target = entry * stop_long, entry * target_long
        elif close < lower and not (below or below_before):
            held, entry, entry_row = -1, close, row
            stop, target = entry * stop_short, entry * target_short
        new, old = close - anchor, leaving - anchor
        total += new - old
        squares += new * new - old * old
        row += 1
    return trades


def make_candles(rows: int, seed: int = 7) -> list[float]:
    """Return a seeded random walk of closes on a tick of 0.1, where recorded candles are not at hand."""
    draw = random.Random(seed)
    price, closes = 60_000.0, []
    for _ in range(rows):
        price *= 1.0 + draw.gauss(0.0, 0.0006)
        closes.append(round(price, 1))
    return closes


def measure(closes: Sequence[float], rounds: int = 3) -> float:
    """Return the best rate of `rounds` runs in candles per second."""
    best = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        run(closes)
        best = max(best, len(closes) / (time.perf_counter() - begin))
    return best


if __name__ == "__main__":
    candles = make_candles(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    trades = run(candles)
    print(f"bare Python loop: {measure(candles):,.0f} candles/s")
    print(f"{len(trades)} trades, {sum(trade.profit for trade in trades):,.2f} after fees")
