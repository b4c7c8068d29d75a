"""The close form compiled: the trades of `trader.close_form.CloseForm`, one parameter set or many."""

from collections.abc import Iterable, Iterator

import numpy as np

from qmtl.core.interval import parse_interval
from qmtl.engine.kernel import Conditions, KernelMarket, KernelRun, Whole
from qmtl.trader.close_form import CloseFormParams


def run_close_form(
    market: KernelMarket, params: CloseFormParams, conditions: Conditions, marks: Whole | None = None
) -> KernelRun:
    """Trade the close form over `market`; the wallet must carry one position of `params.quantity`.

    `marks` are the rows at whose close equity is wanted, ascending (None: every row). Of `conditions` wallet
    and fees count: the close form fills at the close, without slippage, `params.quantity` at a time.
    """
    from qmtl.engine import kernel_loop as loop
    from qmtl.trader.close_form_scan import draw_equity, scan

    terms = market.terms(conditions)
    interval_ms, times = parse_interval(params.interval), market.candles.open_ms
    is_gapless = times.size and times[-1] - times[0] == (times.size - 1) * interval_ms
    numbers = (times[:1] if is_gapless else times) // interval_ms
    rows = np.empty((times.size // 2 + 1, 3), np.int64)
    count = scan(
        market.candles.close, numbers, params.window, params.inner, params.outer, params.stop,
        params.target, rows,
    ) if numbers.size else 0  # fmt: skip
    rows = rows[:count]
    close, lots = market.candles.close, int(params.quantity / market.instrument.lot_size)
    trades = np.zeros((count, loop.TRADE_COLUMNS), np.int64)
    trades[:, : loop.LOTS] = rows
    trades[:, loop.LOTS] = lots
    entry = trades[:, loop.ENTRY] = market.count(close[rows[:, 0]])
    leave = trades[:, loop.EXIT] = np.where(rows[:, 1] < 0, 0, market.count(close[rows[:, 1]]))
    fees = [
        (2 * price * lots * terms.taker_up + terms.fee_down) // (2 * terms.fee_down) * terms.fee_step
        for price in (entry, leave)
    ]
    trades[:, loop.FEES] = fees[0] + fees[1]
    trades[:, loop.REASON] = np.where(rows[:, 1] < 0, loop.OPEN, loop.SIGNAL)
    last = np.where(rows[:, 1] < 0, close.size, rows[:, 1])
    if marks is None:
        equity = np.empty(close.size, np.int64)
        scale = 1 / float(market.price_step)
        draw_equity(close, scale, market.value, trades, fees[0], terms.wallet, equity)
    else:
        equity = _equity(market, trades, fees[0], last, marks, terms.wallet)
    return KernelRun(
        market,
        trades,
        equity,
        0,
        0,
        int((last - rows[:, 0]).sum()),
        int((entry + leave).sum()) * lots * market.value,
    )


def _equity(
    market: KernelMarket, trades: Whole, entry_fees: Whole, last: Whole, marks: Whole, wallet: int
) -> Whole:
    """Return the equity at the closes of `marks`: closed trades, and the open one at its mark."""
    held = trades[:, 2] * trades[:, 3] * market.value
    profits = held * (trades[:, 5] - trades[:, 4]) - trades[:, 6]
    settled = np.concatenate(([0], np.cumsum(profits)))
    number = np.searchsorted(last, marks, side="right")
    equity = wallet + settled[number]
    if not trades.size:
        return equity
    at = np.minimum(number, len(trades) - 1)
    is_open = (number < len(trades)) & (trades[at, 0] <= marks)
    unrealized = held[at] * (market.count(market.candles.close[marks]) - trades[at, 4]) - entry_fees[at]
    result: Whole = equity + np.where(is_open, unrealized, 0)
    return result


def run_close_forms(
    market: KernelMarket,
    sets: Iterable[CloseFormParams],
    conditions: Conditions,
    *,
    marks: Whole | None = None,
    threads: int = 2,
) -> Iterator[KernelRun]:
    """Yield the run of each parameter set, in order, `threads` at once."""
    from concurrent.futures import ThreadPoolExecutor

    if threads < 2:
        yield from (run_close_form(market, params, conditions, marks) for params in sets)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda params: run_close_form(market, params, conditions, marks), sets)
