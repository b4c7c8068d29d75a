"""The close form of the Bollinger rules compiled; import it where a run begins, numba is slow.

One loop reads from the bands what each bar would allow, without a branch that prices decide: roots and
quotients then overlap. A second loop follows position, stop and target over what the first one wrote.

Every float operation is that of `core.indicator.RollingMoments` and `trader.close_form.CloseForm`, in their
order and without contraction, so that both make the same trades to the last bit.
"""

from math import sqrt

import numpy as np
import numpy.typing as npt
from numba import njit

from qmtl.core.indicator import CANCELLED

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

LONG, SHORT, BACK_LONG, BACK_SHORT = 1, 2, 4, 8
"""Bits of a bar: an entry is there; a close came back from beyond the outer band."""


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_anew(closes: Floats, row: int, window: int) -> tuple[float, float, float, float, float]:
    """Return anchor, sum, sum of squares, mean and deviation of the window that ends at `row`."""
    anchor = closes[row]
    total = squares = 0.0
    for at in range(row - window + 1, row + 1):
        difference = closes[at] - anchor
        total += difference
        squares += difference * difference
    mean = total / window
    spread = squares - total * mean
    std = sqrt(spread / (window - 1)) if spread > 0.0 else 0.0
    return anchor, total, squares, anchor + mean, std


@njit(cache=True, nogil=True, error_model="numpy")
def read_bands(closes: Floats, numbers: Rows, window: int, inner: float, outer: float, codes: Codes) -> None:
    """Write what the bands of the bar before allow at each close from row `window` on.

    `numbers` are bar numbers since the epoch, or the first alone where no bar is missing.
    """
    is_gapless = numbers.size == 1
    freedom = window - 1
    anchor, total, squares, mean, std = _sum_anew(closes, freedom, window)
    phase = (numbers[0] + freedom) % window
    last = closes[freedom]
    was_above = was_below = False
    for row in range(window, closes.size):
        close = closes[row]
        near, far = inner * std, outer * std
        upper, lower = mean + near, mean - near
        over, under = mean + far, mean - far
        above, below = last > upper, last < lower
        code = LONG * ((close > upper) & (not (above | was_above)))
        code |= SHORT * ((close < lower) & (not (below | was_below)))
        code |= BACK_LONG * ((last > over) & (over >= close))
        code |= BACK_SHORT * ((last < under) & (under <= close))
        codes[row] = code
        was_above, was_below, last = above, below, close
        phase = (phase + 1 if phase < freedom else 0) if is_gapless else numbers[row] % window
        if not phase:
            anchor, total, squares, mean, std = _sum_anew(closes, row, window)
            continue
        new, old = close - anchor, closes[row - window] - anchor
        difference = new - old
        total += difference
        squares += difference * (new + old)
        middle = total / window
        spread = squares - total * middle
        if spread > (squares + old * old) * CANCELLED:
            mean = anchor + middle
            std = sqrt(spread / freedom)
        elif new != 0.0 or old != 0.0 or total != 0.0 or squares != 0.0:
            anchor, total, squares, mean, std = _sum_anew(closes, row, window)
        else:
            mean, std = anchor, 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def follow(closes: Floats, codes: Codes, first: int, stop: float, target: float, trades: Rows) -> int:
    """Write (entry row, exit row, direction) of each trade into `trades`; return how many there are.

    `stop` and `target` are fractions of the entry. A position still open at the end is the last trade, with
    exit row -1.
    """
    count = held = entry_row = 0
    floor = ceiling = 0.0
    back = 0
    for row in range(first, closes.size):
        code = codes[row]
        if held:
            close = closes[row]
            # Stop and target are the ends of the calm range, whichever way the position points.
            if code & back or close <= floor or close >= ceiling:
                trades[count, 0], trades[count, 1], trades[count, 2] = entry_row, row, held
                count += 1
                held = 0
        elif code & (LONG | SHORT):
            held, back = (1, BACK_LONG) if code & LONG else (-1, BACK_SHORT)
            entry_row, entry = row, closes[row]
            one, other = entry * (1.0 - held * stop), entry * (1.0 + held * target)
            floor, ceiling = min(one, other), max(one, other)
    if held:
        trades[count, 0], trades[count, 1], trades[count, 2] = entry_row, -1, held
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def draw_equity(
    closes: Floats, scale: float, value: int, trades: Rows, entry_fees: Rows, wallet: int, equity: Rows
) -> None:
    """Write the equity at every close, money of the kernel; `trades` are kernel rows in order."""
    row = 0
    for at in range(trades.shape[0]):
        begin, exit_row = trades[at, 0], trades[at, 1]
        end = exit_row if exit_row >= 0 else closes.size
        held = trades[at, 2] * trades[at, 3] * value
        base = wallet - entry_fees[at] - held * trades[at, 4]
        equity[row:begin] = wallet
        for number in range(begin, end):
            equity[number] = base + held * int(np.rint(closes[number] * scale))
        wallet += held * (trades[at, 5] - trades[at, 4]) - trades[at, 6]
        row = end
    equity[row:] = wallet


def scan(
    closes: Floats, numbers: Rows, window: int, inner: float, outer: float,
    stop: float, target: float, trades: Rows,
) -> int:  # fmt: skip
    """Return how many trades were written into `trades`; see `read_bands` and `follow`."""
    if closes.size <= window:
        return 0
    codes = np.empty(closes.size, np.uint8)
    read_bands(closes, numbers, window, inner, outer, codes)
    return int(follow(closes, codes, window, stop, target, trades))
