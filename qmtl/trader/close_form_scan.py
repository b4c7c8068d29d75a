"""The close form of the Bollinger rules as one compiled loop; import it where a run begins, numba is slow.

Every float operation is that of `core.indicator.RollingMoments` and `trader.close_form.CloseForm`, in their
order and without contraction, so that both make the same trades to the last bit.
"""

from math import inf, sqrt

import numpy as np
import numpy.typing as npt
from numba import njit

from qmtl.core.indicator import CANCELLED

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


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
def scan(  # noqa: PLR0912 - one flat loop
    closes: Floats, numbers: Rows, window: int, inner: float, outer: float,
    stop_share: float, target_share: float, trades: Rows,
) -> int:  # fmt: skip
    """Write (entry row, exit row, direction) of each trade into `trades`; return how many there are.

    `numbers` are bar numbers since the epoch, or the first alone where no bar is missing. A position still
    open at the end is the last trade with exit row -1.
    """
    rows = closes.size
    if rows <= window:
        return 0
    is_gapless = numbers.size == 1
    freedom = window - 1
    anchor, total, squares, mean, std = _sum_anew(closes, freedom, window)
    phase = (numbers[0] + freedom) % window
    last, before = closes[freedom], closes[freedom - 1]
    upper_before, lower_before = inf, -inf
    held = count = entry_row = 0
    floor = ceiling = 0.0
    for row in range(window, rows):
        close = closes[row]
        near = inner * std
        upper, lower = mean + near, mean - near
        if held:
            if not (floor < close < ceiling and lower <= last <= upper):
                far = outer * std
                is_back = last > mean + far >= close if held > 0 else last < mean - far <= close
                # Stop and target are the ends of the calm range, whichever way the position points.
                if is_back or close <= floor or close >= ceiling:
                    trades[count, 0], trades[count, 1], trades[count, 2] = entry_row, row, held
                    count += 1
                    held = 0
        else:
            if close > upper:
                if not (last > upper or before > upper_before):
                    held = 1
            elif close < lower and not (last < lower or before < lower_before):
                held = -1
            if held:
                entry_row = row
                stop = close * (1.0 - held * stop_share)
                target = close * (1.0 + held * target_share)
                floor, ceiling = min(stop, target), max(stop, target)
        upper_before, lower_before = upper, lower
        before, last = last, close
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
    if held:
        trades[count, 0], trades[count, 1], trades[count, 2] = entry_row, -1, held
        count += 1
    return count
