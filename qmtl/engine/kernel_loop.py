"""The signals face as one compiled loop on whole numbers; import it where a run begins, numba is slow.

Prices are counted in the finest price step of the data, quantities in lots, money in the finest step that
fees, lots and prices need: every result is exact, as the event tier's decimals are. `engine.kernel` makes
these numbers and turns results back.
"""

from math import log, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

BILLION = 1_000_000_000
"""Fractions are whole numbers of 1e-18, worked in two digits of this base."""
LARGEST = 2**63 - 1
HALFWAY = 4.5e9
"""Prices are counted in fewer steps than twice this."""
STOP, TARGET, SIGNAL, REVERSAL, EXCLUDED, OPEN = 1, 2, 3, 4, 5, 0
"""Why a trade ended; OPEN: it did not."""
FIXED, NOTIONAL, SHARE, VOLATILITY = range(4)
"""What `Terms.size` means: lots, money, a share of equity, or yearly volatility as one (both in 1e-9)."""
ENTRY_ROW, EXIT_ROW, DIRECTION, LOTS, ENTRY, EXIT, FEES, FUNDING, REASON = range(9)
TRADE_COLUMNS = 9
CONFLICTS, REFUSALS, BARS_HELD, TURNOVER, TRADES, IS_OPEN, RUINED = range(7)
COUNTERS = 7


class Terms(NamedTuple):
    """One run's constants as whole numbers."""

    wallet: int
    tick: int  # price steps
    value: int  # money of one lot at one price step
    taker_up: int  # fee on one lot at one price step = up / down fee steps
    maker_up: int
    fee_down: int
    fee_step: int  # money
    slip: int  # price steps
    stop: int  # 1e-18 of the entry fill, 0: none
    target: int
    sizing: int
    size: int
    min_lots: int
    max_lots: int
    min_value: int  # money
    max_value: int  # money
    leverage: int
    ruin_long: int  # 1e-9 of the entry: so far against it a position may be liquidated
    ruin_short: int
    window: int  # closes that volatility is measured over
    bars_a_year: float
    fills_at_close: int


@njit(cache=True, nogil=True)
def find_misfits(prices: Floats, scale: float, near: float) -> tuple[int, int]:
    """Return how many prices are not within `near` of a positive whole number of steps, and the most steps.

    NaN is such a misfit.
    """
    misfits = most = 0
    for row in range(prices.size):
        exact = prices[row] * scale
        nearest = np.rint(exact)
        # Both comparisons are false for NaN.
        fits = (abs(exact - nearest) < near) & (abs(exact - HALFWAY) < HALFWAY)
        misfits += 1 - fits
        most = max(most, int(nearest))
    return misfits, most


@njit(cache=True, nogil=True)
def count_steps(prices: Floats, scale: float) -> Whole:
    """Return every price as a whole number of steps."""
    steps = np.empty(prices.size, np.int64)
    for row in range(prices.size):
        steps[row] = int(np.rint(prices[row] * scale))
    return steps


@njit(cache=True, nogil=True)
def square_returns(close: Floats) -> Floats:
    """Return the squared log return of each close, the first 0."""
    squares = np.zeros(close.size)
    for row in range(1, close.size):
        change = log(close[row] / close[row - 1])
        squares[row] = change * change
    return squares


@njit(cache=True, nogil=True)
def _portion(value: int, fraction: int) -> tuple[int, int]:
    """Return quotient and remainder of value x fraction / 1e18, both from 0 to below 4e18 and 1e18."""
    high, low = value // BILLION, value % BILLION
    tall, short = fraction // BILLION, fraction % BILLION
    middle = high * short + low * tall + low * short // BILLION
    return high * tall + middle // BILLION, middle % BILLION * BILLION + low * short % BILLION


@njit(cache=True, nogil=True)
def earn(trades: Whole, value: int, unit: float) -> Floats:
    """Return the profit of each closed trade after fees and funding, money times `unit`.

    `value` is that of `Terms`. Only the last trade may be open.
    """
    count = trades.shape[0]
    if count and trades[count - 1, EXIT_ROW] < 0:
        count -= 1
    earned = np.empty(count)
    for at in range(count):
        trade = trades[at]
        gross = trade[DIRECTION] * trade[LOTS] * (trade[EXIT] - trade[ENTRY]) * value
        earned[at] = (gross - trade[FEES] + trade[FUNDING]) * unit
    return earned


@njit(cache=True, nogil=True)
def level(entry: int, fraction: int, direction: int, tick: int) -> int:
    """Return the price `fraction` of `entry` above (1) or below (-1) it, on the next tick toward it."""
    away, _ = _portion(entry, fraction)
    if direction > 0:
        return (entry + away) // tick * tick
    return -(-(entry - away) // tick) * tick


@njit(cache=True, nogil=True)
def fee_of(price: int, lots: int, up: int, down: int, step: int) -> int:
    """Return the fee in money, rounded half away from zero to the fee step."""
    doubled = 2 * price * lots * abs(up)
    steps = (doubled + down) // (2 * down)
    return steps * step if up >= 0 else -steps * step


@njit(cache=True, nogil=True)
def taken(price: int, direction: int, terms: Terms) -> int:
    """Return what a taker trades at: slipped, and on the tick against the taker where it slips."""
    if not terms.slip:
        return price
    if direction > 0:
        return -(-(price + terms.slip) // terms.tick) * terms.tick
    return max((price - terms.slip) // terms.tick * terms.tick, terms.tick)


# What one run remembers, in an array that its steps share.
_WALLET, _HELD, _COST, _STOP, _TARGET, _ENTERS, _LEAVES = range(7)
_MEMORY = 7


@njit(cache=True, nogil=True)
def _leave(
    row: int,
    price: int,
    reason: int,
    is_maker: int,
    terms: Terms,
    memory: Whole,
    trades: Whole,
    counts: Whole,
) -> None:
    """Close the position at `price`."""
    held = memory[_HELD]
    lots = abs(held)
    up = terms.maker_up if is_maker else terms.taker_up
    fee = fee_of(price, lots, up, terms.fee_down, terms.fee_step)
    memory[_WALLET] += held * price * terms.value - memory[_COST] - fee
    memory[_HELD] = memory[_COST] = 0
    at = counts[TRADES]
    trades[at, EXIT_ROW], trades[at, EXIT], trades[at, REASON] = row, price, reason
    trades[at, FEES] += fee
    counts[TRADES] += 1
    counts[TURNOVER] += lots * price * terms.value
    counts[BARS_HELD] += row - trades[at, ENTRY_ROW]


@njit(cache=True, nogil=True)
def _enter(
    row: int, market: int, lots: int, terms: Terms, memory: Whole, trades: Whole, counts: Whole
) -> None:
    """Open `lots` (negative: short) at market price `market`, and set stop and target."""
    size, way = abs(lots), (1 if lots > 0 else -1)
    price = taken(market, way, terms)
    fee = fee_of(price, size, terms.taker_up, terms.fee_down, terms.fee_step)
    memory[_WALLET] -= fee
    memory[_HELD] = lots
    memory[_COST] = lots * price * terms.value
    stop = level(price, terms.stop, -way, terms.tick) if terms.stop else 0
    target = level(price, terms.target, way, terms.tick) if terms.target else 0
    memory[_STOP], memory[_TARGET] = max(stop, 0), max(target, 0)
    at = counts[TRADES]
    trades[at, ENTRY_ROW], trades[at, EXIT_ROW], trades[at, DIRECTION] = row, -1, way
    trades[at, LOTS], trades[at, ENTRY], trades[at, EXIT] = size, price, 0
    trades[at, FEES], trades[at, FUNDING], trades[at, REASON] = fee, 0, OPEN
    counts[TURNOVER] += size * price * terms.value
    if stop > 0 and (stop - market) * way >= 0:
        # The venue refuses a stop that would trigger at once; the position is closed instead.
        _leave(row, taken(market, -way, terms), STOP, 0, terms, memory, trades, counts)
    elif target > 0 and (market - target) * way >= 0:
        # A target less than a tick away crosses as it is placed, at its limit or better.
        price = taken(market, -way, terms)
        price = max(price, target) if way > 0 else min(price, target)
        _leave(row, price, TARGET, 0, terms, memory, trades, counts)


@njit(cache=True, nogil=True)
def _volatility(row: int, squares: Floats, terms: Terms) -> int:
    """Return the yearly deviation of the log returns that end at `row` in 1e-9, 0 without two closes."""
    first = max(1, row + 1 - terms.window)
    total = 0.0
    for at in range(first, row + 1):
        total += squares[at]
    if row < first:
        return 0
    return int(np.rint(sqrt(total / (row + 1 - first) * terms.bars_a_year) * BILLION))


@njit(cache=True, nogil=True)
def _scaled(amount: int, share: int, base: int) -> int:
    """Return amount x share / base rounded down, at most LARGEST; `share` and `base` below 1e10."""
    rest = amount % base
    if amount // base >= LARGEST // share - 1:
        return LARGEST
    if base <= LARGEST // share:
        return amount // base * share + rest * share // base
    # Above 900 % a year: the product leaves 64 bits, and a float errs by less than a unit of money.
    return amount // base * share + int(rest / base * share)


@njit(cache=True, nogil=True)
def _sized(row: int, price: int, equity: int, squares: Floats, terms: Terms) -> int:
    """Return the lots of an entry judged at `price`, 0 where they are fewer than the least."""
    lots = terms.size
    if terms.sizing != FIXED:
        budget = terms.size
        if terms.sizing != NOTIONAL:
            base = BILLION if terms.sizing == SHARE else _volatility(row, squares, terms)
            equity = max(equity, 0)
            budget = _scaled(equity, terms.size, base) if base else 0
        lots = budget // (price * terms.value)
    return lots if lots >= terms.min_lots and lots * price * terms.value >= terms.min_value else 0


@njit(cache=True, nogil=True)
def _is_taken(lots: int, price: int, wallet: int, terms: Terms) -> bool:
    """Tell whether a flat account can open `lots` at market price `price`."""
    value = abs(lots) * price * terms.value
    fits = abs(lots) <= terms.max_lots and terms.min_value <= value <= terms.max_value
    # Divided, not multiplied: a large wallet times its leverage leaves 64 bits.
    return fits and -(-value // terms.leverage) <= wallet


@njit(cache=True, nogil=True)
def _note_ruin(row: int, price: int, way: int, terms: Terms, trades: Whole, counts: Whole) -> None:
    """Remember the first bar in which price came where a position may be liquidated."""
    entry = trades[counts[TRADES], ENTRY]
    ruin = terms.ruin_long if way > 0 else terms.ruin_short
    if (entry - price) * way * BILLION >= ruin * entry and not counts[RUINED]:
        counts[RUINED] = row + 1


@njit(cache=True, nogil=True)
def _meet_open(row: int, opened: int, terms: Terms, memory: Whole, trades: Whole, counts: Whole) -> None:
    """Let the open meet what rests and what waits for it: stop, target, exit, entry."""
    held = memory[_HELD]
    if held:
        way = 1 if held > 0 else -1
        _note_ruin(row, opened, way, terms, trades, counts)
        if memory[_STOP] and (memory[_STOP] - opened) * way >= 0:
            _leave(row, taken(opened, -way, terms), STOP, 0, terms, memory, trades, counts)
        elif memory[_TARGET] and (opened - memory[_TARGET]) * way >= 0:
            _leave(row, opened, TARGET, 1, terms, memory, trades, counts)
        elif memory[_LEAVES]:
            why = REVERSAL if memory[_ENTERS] else SIGNAL
            _leave(row, taken(opened, -way, terms), why, 0, terms, memory, trades, counts)
    lots = memory[_ENTERS]
    if lots:
        # A reversal is sent, and so judged, once the exit before it has filled.
        if held and not _is_taken(lots, opened, memory[_WALLET], terms):
            counts[REFUSALS] += 1
        else:
            _enter(row, opened, lots, terms, memory, trades, counts)
    memory[_LEAVES] = memory[_ENTERS] = 0


@njit(cache=True, nogil=True)
def _meet_inside(
    row: int, high: int, low: int, terms: Terms, memory: Whole, trades: Whole, counts: Whole
) -> None:
    """Let the bar after its open meet stop and target, the stop first."""
    way = 1 if memory[_HELD] > 0 else -1
    worst, best = (low, high) if way > 0 else (high, low)
    stop, target = memory[_STOP], memory[_TARGET]
    reached = worst if not stop or (worst - stop) * way > 0 else stop
    _note_ruin(row, reached, way, terms, trades, counts)
    if stop and (stop - worst) * way >= 0:
        _leave(row, taken(stop, -way, terms), STOP, 0, terms, memory, trades, counts)
    elif target and (best - target) * way >= 0:
        _leave(row, target, TARGET, 1, terms, memory, trades, counts)


@njit(cache=True, nogil=True)
def _decide(
    row: int, price: int, wants: int, leaves: int, squares: Floats,
    terms: Terms, memory: Whole, trades: Whole, counts: Whole,
) -> None:  # fmt: skip
    """Send what the signals at a close ask for; `wants` 1 long, -1 short, 0 nothing."""
    held = memory[_HELD]
    if held and not (leaves and wants * held < 0):
        wants = 0
    lots = 0
    if wants:
        worth = memory[_WALLET] + held * price * terms.value - memory[_COST]
        lots = wants * _sized(row, price, worth, squares, terms)
        if not lots or (not held and not _is_taken(lots, price, memory[_WALLET], terms)):
            lots = 0
            counts[REFUSALS] += 1
    if not terms.fills_at_close:
        memory[_ENTERS], memory[_LEAVES] = lots, leaves
        return
    if leaves:
        why = REVERSAL if lots else SIGNAL
        _leave(row, taken(price, -1 if held > 0 else 1, terms), why, 0, terms, memory, trades, counts)
    if lots:
        if held and not _is_taken(lots, price, memory[_WALLET], terms):
            counts[REFUSALS] += 1
        else:
            _enter(row, price, lots, terms, memory, trades, counts)


@njit(cache=True, nogil=True)
def _fund(
    row: int, at: int, funding: Whole, terms: Terms, memory: Whole, trades: Whole, counts: Whole
) -> int:
    """Pay what is due before the open of `row`, longs to shorts; return the next payment."""
    while at < funding.shape[0] and funding[at, 0] <= row:
        held, whole, part = memory[_HELD], funding[at, 1], funding[at, 2]
        if held:
            more, rest = _portion(abs(held), abs(part))
            steps = abs(whole) * abs(held) + more + (1 if rest * 2 >= BILLION * BILLION else 0)
            paid = steps * terms.fee_step * (-1 if (held > 0) == (whole + part > 0) else 1)
            memory[_WALLET] += paid
            trades[counts[TRADES], FUNDING] += paid
        at += 1
    return at


@njit(cache=True, nogil=True)
def trade(
    opened: Whole, high: Whole, low: Whole, close: Whole,
    long: Flags, short: Flags, exit_long: Flags, exit_short: Flags,
    terms: Terms, squares: Floats, funding: Whole, ends: Whole, marks: Whole,
    trades: Whole, equity: Whole, counts: Whole,
) -> None:  # fmt: skip
    """Trade every row; see engine.kernel.run for the meaning.

    `squares` are the squared log returns by row, read for a volatility target only. `funding` rows are (row
    before whose open it is paid, whole, part). Every row of `ends` is left flat. `equity` takes the equity
    at the close of each row of `marks`. All three ascend. `trades` has room for every entry signal.
    """
    memory = np.zeros(_MEMORY, np.int64)
    memory[_WALLET] = terms.wallet
    rows = close.size
    next_fund, next_end, next_mark = 0, 0, 0
    fund_row = funding[0, 0] if funding.shape[0] else rows
    end_row = ends[0] if ends.size else rows
    mark_row = marks[0] if marks.size else rows
    for row in range(rows):
        if row >= fund_row:
            next_fund = _fund(row, next_fund, funding, terms, memory, trades, counts)
            fund_row = funding[next_fund, 0] if next_fund < funding.shape[0] else rows
        if memory[_HELD] or memory[_ENTERS]:
            _meet_open(row, opened[row], terms, memory, trades, counts)
            if memory[_HELD]:
                _meet_inside(row, high[row], low[row], terms, memory, trades, counts)
        held = memory[_HELD]
        wants = int(long[row]) - int(short[row])
        leaves = (held > 0 and exit_long[row]) or (held < 0 and exit_short[row])
        if wants or leaves:
            _decide(row, close[row], wants, int(leaves), squares, terms, memory, trades, counts)
        if long[row] and not wants:
            counts[CONFLICTS] += 1
        if row == end_row:
            memory[_ENTERS] = memory[_LEAVES] = 0
            if memory[_HELD]:
                way = 1 if memory[_HELD] > 0 else -1
                _leave(row, taken(close[row], -way, terms), EXCLUDED, 0, terms, memory, trades, counts)
            next_end += 1
            end_row = ends[next_end] if next_end < ends.size else rows
        if row == mark_row:
            equity[next_mark] = memory[_WALLET] + memory[_HELD] * close[row] * terms.value - memory[_COST]
            next_mark += 1
            mark_row = marks[next_mark] if next_mark < marks.size else rows
    if memory[_HELD]:
        counts[IS_OPEN] = 1
        counts[BARS_HELD] += rows - trades[counts[TRADES], ENTRY_ROW]
