"""The close form compiled: the trades of `trader.close_form.CloseForm`, one parameter set or many."""

from collections.abc import Iterable, Iterator

import numpy as np

from qmtl.core.interval import parse_interval
from qmtl.engine.kernel import Conditions, Floats, KernelError, KernelMarket, Whole
from qmtl.engine.kernel_run import Curve, KernelRun
from qmtl.trader.close_form import CloseFormParams


def run_close_form(
    market: KernelMarket, params: CloseFormParams, conditions: Conditions, marks: Whole | None = None
) -> KernelRun:
    """Trade the close form over `market`; the wallet must carry one position of `params.quantity`.

    `marks` are the rows at whose close equity is wanted, ascending (None: every row). Of `conditions` wallet
    and fees count: the close form fills at the close, without slippage, `params.quantity` at a time.
    """
    from qmtl.engine.kernel_loop import TRADE_COLUMNS
    from qmtl.trader.close_form_scan import draw_equity, follow, read_bands

    if market.ends.size:
        raise KernelError("close form: candles were cut out of this market; run each stretch by itself")
    close, times = market.candles.close, market.candles.open_ms
    terms, scale, window = market.terms(conditions), 1 / float(market.price_step), params.window
    lots = int(params.quantity / market.instrument.lot_size)
    trades, bars, prices = np.empty((0, TRADE_COLUMNS), np.int64), 0, 0
    if close.size > window:
        codes = np.empty(close.size, np.uint8)
        interval_ms = parse_interval(params.interval)
        entries = read_bands(close, times, interval_ms, window, params.inner, params.outer, codes)
        room = np.empty((entries, TRADE_COLUMNS), np.int64)
        count, bars, prices = follow(
            close, scale, codes, window, params.stop, params.target, lots, terms, room
        )
        trades = room[:count]
    rows = np.empty(0, np.int64) if marks is None else marks

    def draw(unit: float, equity: Floats | Whole) -> None:
        draw_equity(close, scale, trades, terms, rows, unit, equity)

    curve = Curve(close.size if marks is None else marks.size, draw)
    return KernelRun(market, trades, curve, 0, 0, bars, prices * lots * market.value)


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
