"""The close form of the Bollinger rules compiled; import it where a run begins, numba is slow.

Bands are read block by block: sums first, one after the other, then roots, quotients and comparisons of the
whole block, which the processor does several at a time where each row stands for itself. A second loop
follows position, stop and target over what the first one wrote.

Every float operation is that of `core.indicator.RollingMoments` and `trader.close_form.CloseForm`, in their
order and without contraction, so that both make the same trades to the last bit.
"""

from math import sqrt

import numpy as np
import numpy.typing as npt
from numba import njit

from qmtl.core.indicator import CANCELLED
from qmtl.engine.kernel_loop import (
    DIRECTION,
    ENTRY,
    ENTRY_ROW,
    EXIT,
    EXIT_ROW,
    FEES,
    FUNDING,
    LOTS,
    OPEN,
    REASON,
    SIGNAL,
    Terms,
    fee_of,
)

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

LONG, SHORT, BACK_LONG, BACK_SHORT = 1, 2, 4, 8
"""Bits of a bar: an entry is there; a close came back from beyond the outer band."""
WAS_ABOVE, WAS_BELOW = LONG << 4, SHORT << 4
"""Bits inside a block: the close before was beyond its inner band, which forbids the entry of that side."""
BLOCK = 512
"""Rows judged together: their sums stay in the processor's first cache."""


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_anew(closes: Floats, row: int, window: int) -> tuple[float, float, float]:
    """Return anchor, sum and sum of squares of the window that ends at `row`."""
    anchor = closes[row]
    total = squares = 0.0
    for close in closes[row - window + 1 : row + 1]:
        difference = close - anchor
        total += difference
        squares += difference * difference
    return anchor, total, squares


# Inlined: as a call its five arrays cost as much as the additions.
@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _slide(
    now: Floats, leaving: Floats, anchor: float, total: float, squares: float, ahead: float,
    anchors: Floats, totals: Floats, sums: Floats,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Write anchor, sum and squares of each window that takes in the next of `now` for one `leaving`.

    Returns the last sum and squares, and those of `now` around `ahead`: two chains of additions at once
    take the time of one.
    """
    total_ahead = squares_ahead = 0.0
    for at in range(now.size):
        close = now[at]
        new, old = close - anchor, leaving[at] - anchor
        difference = new - old
        total += difference
        squares += difference * (new + old)
        anchors[at], totals[at], sums[at] = anchor, total, squares
        difference = close - ahead
        total_ahead += difference
        squares_ahead += difference * difference
    return total, squares, total_ahead, squares_ahead


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_with_care(
    closes: Floats, times: Rows, interval_ms: int, window: int, begin: int, end: int,
    anchor: float, total: float, squares: float, anchors: Floats, totals: Floats, sums: Floats,
) -> tuple[float, float, float]:  # fmt: skip
    """Write the sums of a block in which some cancel: those are summed anew. Returns the last ones."""
    for row in range(begin, end):
        new, old = closes[row] - anchor, closes[row - window] - anchor
        difference = new - old
        total += difference
        squares += difference * (new + old)
        spread = squares - total * (total / window)
        is_flat = new == 0.0 and old == 0.0 and total == 0.0 and squares == 0.0
        is_kept = spread > (squares + old * old) * CANCELLED or is_flat
        if not is_kept or times[row] // interval_ms % window == 0:
            anchor, total, squares = _sum_anew(closes, row, window)
        anchors[row - begin], totals[row - begin], sums[row - begin] = anchor, total, squares
    return anchor, total, squares


@njit(cache=True, nogil=True, error_model="numpy")
def _find_multiple(times: Rows, interval_ms: int, window: int, row: int, on_multiple: int) -> tuple[int, int]:
    """Return the first row after `row` at or past the next multiple of `window`, and 1 if it is on it.

    `on_multiple` says the same of `row`. Past the last row there is none.
    """
    ahead = row + window
    # Most often no bar is missing, and no division is needed.
    if on_multiple and ahead < times.size and times[ahead] - times[row] == window * interval_ms:
        return ahead, 1
    due = (times[row] // interval_ms // window + 1) * window
    row += 1
    while row < times.size and times[row] < due * interval_ms:
        row += 1
    return row, int(row < times.size and times[row] // interval_ms % window == 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _find_moments(
    leaving: Floats, anchors: Floats, totals: Floats, sums: Floats, window: int,
    means: Floats, deviations: Floats,
) -> bool:  # fmt: skip
    """Write mean and deviation of each window; tell whether the squares of one have cancelled."""
    freedom, doubtful = window - 1, 0
    for at in range(leaving.size):
        middle = totals[at] / window
        spread = sums[at] - totals[at] * middle
        means[at] = anchors[at] + middle
        deviations[at] = sqrt(spread / freedom) if spread > 0.0 else 0.0
        old = leaving[at] - anchors[at]
        doubtful += not spread > (sums[at] + old * old) * CANCELLED
    return doubtful > 0


@njit(cache=True, nogil=True, error_model="numpy")
def _judge(
    now: Floats, before: Floats, means: Floats, deviations: Floats, inner: float, outer: float, bits: Codes
) -> None:
    """Write how each close and the one before stand to the bands of the bar before."""
    for at in range(now.size):
        close, last = now[at], before[at]
        mean, near, far = means[at], inner * deviations[at], outer * deviations[at]
        upper, lower = mean + near, mean - near
        over, under = mean + far, mean - far
        code = LONG * (close > upper)
        code |= SHORT * (close < lower)
        code |= BACK_LONG * ((last > over) & (over >= close))
        code |= BACK_SHORT * ((last < under) & (under <= close))
        code |= WAS_ABOVE * (last > upper)
        code |= WAS_BELOW * (last < lower)
        bits[at] = code


@njit(cache=True, nogil=True, error_model="numpy")
def _allow(bits: Codes, bits_before: Codes, codes: Codes) -> int:
    """Write codes without the entries that either of the two closes before forbids; return how many stay."""
    entries = 0
    for at in range(bits.size):
        code = bits[at] & ~((bits[at] | bits_before[at]) >> 4)
        codes[at] = code
        entries += (code & (LONG | SHORT)) != 0
    return entries


@njit(cache=True, nogil=True, error_model="numpy")
def read_bands(
    closes: Floats, times: Rows, interval_ms: int, window: int, inner: float, outer: float, codes: Codes
) -> int:
    """Write what the bands of the bar before allow at each close from row `window` on.

    `times` are those of the opens, ascending. Returns how many rows allow an entry.
    """
    anchors, totals, sums = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    # Each block begins with what the one before knew last: a row is judged by the bands of the row before.
    means, deviations, bits = np.empty(BLOCK + 1), np.empty(BLOCK + 1), np.zeros(BLOCK + 1, np.uint8)
    anchor, total, squares = _sum_anew(closes, window - 1, window)
    anchors[0], totals[0], sums[0] = anchor, total, squares
    _find_moments(closes[:1], anchors, totals, sums, window, means, deviations)
    multiple, on_multiple = _find_multiple(times, interval_ms, window, window - 1, 0)
    entries, slid, total_ahead, squares_ahead = 0, 0, 0.0, 0.0
    for begin in range(window, closes.size, BLOCK):
        end = min(begin + BLOCK, closes.size)
        count, row, first = end - begin, begin, (anchor, total, squares)
        while row < end:
            if row == multiple:
                if on_multiple:
                    anchor, total, squares = closes[row], total_ahead, squares_ahead
                    if slid != window - 1:
                        anchor, total, squares = _sum_anew(closes, row, window)
                    at = row - begin
                    anchors[at], totals[at], sums[at] = anchor, total, squares
                    row += 1
                multiple, on_multiple = _find_multiple(times, interval_ms, window, multiple, on_multiple)
            until, at = min(multiple, end), row - begin
            total, squares, total_ahead, squares_ahead = _slide(
                closes[row:until], closes[row - window : until - window], anchor, total, squares,
                closes[min(multiple, closes.size - 1)], anchors[at:], totals[at:], sums[at:],
            )  # fmt: skip
            row, slid = until, until - row
        leaving = closes[begin - window : end - window]
        if _find_moments(leaving, anchors, totals, sums, window, means[1:], deviations[1:]):
            anchor, total, squares = _sum_with_care(
                closes, times, interval_ms, window, begin, end, *first, anchors, totals, sums
            )
            _find_moments(leaving, anchors, totals, sums, window, means[1:], deviations[1:])
        _judge(closes[begin:end], closes[begin - 1 : end - 1], means, deviations, inner, outer, bits[1:])
        entries += _allow(bits[1 : count + 1], bits, codes[begin:end])
        means[0], deviations[0], bits[0] = means[count], deviations[count], bits[count]
    return entries


@njit(cache=True, nogil=True, error_model="numpy")
def follow(
    closes: Floats, scale: float, codes: Codes, first: int, stop: float, target: float, lots: int,
    terms: Terms, trades: Rows,
) -> tuple[int, int, int]:  # fmt: skip
    """Write the trades as kernel rows; return how many, the bars they held, and the sum of their prices.

    `stop` and `target` are fractions of the entry, `scale` is price steps a unit. A position still open at
    the end is the last trade, with exit row -1.
    """
    count = bars = prices = 0
    row, rows = first, closes.size
    while True:
        while row < rows and not codes[row] & (LONG | SHORT):
            row += 1
        if row >= rows:
            return count, bars, prices
        held, back = (1, BACK_LONG) if codes[row] & LONG else (-1, BACK_SHORT)
        begin, entry = row, closes[row]
        one, other = entry * (1.0 - held * stop), entry * (1.0 + held * target)
        # Stop and target are the ends of the calm range, whichever way the position points.
        floor, ceiling = min(one, other), max(one, other)
        row += 1
        while row < rows and not (codes[row] & back or closes[row] <= floor or closes[row] >= ceiling):
            row += 1
        price = int(np.rint(entry * scale))
        fees = fee_of(price, lots, terms.taker_up, terms.fee_down, terms.fee_step)
        trade = trades[count]
        trade[ENTRY_ROW], trade[DIRECTION], trade[LOTS], trade[ENTRY] = begin, held, lots, price
        trade[FUNDING] = 0
        bars += row - begin
        prices += price
        count += 1
        if row >= rows:
            trade[EXIT_ROW], trade[EXIT], trade[FEES], trade[REASON] = -1, 0, fees, OPEN
            return count, bars, prices
        price = int(np.rint(closes[row] * scale))
        fees += fee_of(price, lots, terms.taker_up, terms.fee_down, terms.fee_step)
        trade[EXIT_ROW], trade[EXIT], trade[FEES], trade[REASON] = row, price, fees, SIGNAL
        prices += price
        row += 1


@njit(cache=True, nogil=True, error_model="numpy")
def draw_equity(
    closes: Floats,
    scale: float,
    trades: Rows,
    terms: Terms,
    marks: Rows,
    unit: float,
    equity: Floats | Rows,
) -> None:
    """Write the equity at the closes of `marks`, or of every row where `equity` has no `marks`.

    It is money of the kernel times `unit`; `trades` are kernel rows, `marks` row numbers, both ascending.
    """
    cash, held, fee, at, is_open = terms.wallet, 0, 0, 0, False
    never = closes.size
    due = trades[0, ENTRY_ROW] if trades.shape[0] else never
    for number in range(equity.size):
        row = marks[number] if marks.size else number
        while row >= due:
            trade = trades[at]
            value = trade[DIRECTION] * trade[LOTS] * terms.value
            if is_open:
                cash += value * trade[EXIT] - (trade[FEES] - fee)
                held = 0
                at += 1
                due = trades[at, ENTRY_ROW] if at < trades.shape[0] else never
            else:
                fee = fee_of(trade[ENTRY], trade[LOTS], terms.taker_up, terms.fee_down, terms.fee_step)
                cash -= value * trade[ENTRY] + fee
                held = value
                due = trade[EXIT_ROW] if trade[EXIT_ROW] >= 0 else never
            is_open = not is_open
        equity[number] = (cash + held * int(np.rint(closes[row] * scale))) * unit
