"""The close form here: the compiled kernel, and the event tier with real order and fill events."""

import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.peers.serving import Candles, Outcome, serve


def prepare_kernel(candles: Candles, options: Mapping[str, Any]) -> Any:
    from bench.recorded import BTCUSDT
    from qmtl.engine import kernel
    from qmtl.trader.close_form import CloseFormParams
    from qmtl.trader.close_form_kernel import run_close_forms

    conditions = kernel.Conditions(wallet=Decimal(1_000_000_000), fill="close")
    sets = [CloseFormParams(window=window) for window in options.get("windows", [20])]
    given, marks = kernel.Candles(*candles), np.array([candles.close.size - 1])

    def work() -> Any:
        market = kernel.KernelMarket(given, BTCUSDT)
        return list(run_close_forms(market, sets, conditions, marks=marks, threads=options.get("threads", 1)))

    return work


def read_kernel(runs: Any) -> Outcome:
    rows = []
    for run in runs:
        closed = run.trades[run.trades[:, 1] >= 0]
        step = float(run.market.price_step)
        prices = (closed[:, 4] * step, closed[:, 5] * step)
        rows.append(np.column_stack((closed[:, 0], closed[:, 1], closed[:, 2], *prices, run.profits())))
    return Outcome(np.concatenate(rows), len(runs))


def prepare_events(candles: Candles, options: Mapping[str, Any]) -> Any:
    from bench.engine_loop import run_engine
    from bench.recorded import closed_events
    from qmtl.core.bar import Bar

    columns = [column.tolist() for column in candles]
    bars = [Bar(int(at), o, h, low, c, 1.0) for at, o, h, low, c in zip(*columns, strict=True)]
    events = closed_events(bars)

    return lambda: (run_engine(events), events)


def read_events(found: Any) -> Outcome:
    from bench.engine_loop import trades_of

    return Outcome([tuple(trade) for trade in trades_of(*found)])


if __name__ == "__main__":
    serve("qmtl", {"kernel": (prepare_kernel, read_kernel), "events": (prepare_events, read_events)})
