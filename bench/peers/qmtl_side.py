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
    # The close form reads closes alone, and closes alone are what the peer is given.
    given = kernel.Candles(candles.open_ms, *[candles.close] * 4)

    def work() -> Any:
        market = kernel.KernelMarket(given, BTCUSDT)
        runs = run_close_forms(market, sets, conditions, threads=options.get("threads", 1))
        return [(run, run.profits(), run.equity) for run in runs]

    return work


def read_kernel(runs: Any) -> Outcome:
    rows = []
    for run, profits, *_ in runs:
        closed = run.trades[run.trades[:, 1] >= 0]
        step = float(run.market.price_step)
        prices = (closed[:, 4] * step, closed[:, 5] * step)
        rows.append(np.column_stack((closed[:, 0], closed[:, 1], closed[:, 2], *prices, profits)))
    return Outcome(np.concatenate(rows), len(runs))


def prepare_events(candles: Candles, options: Mapping[str, Any]) -> Any:
    from bench.engine_loop import run_and_write_out, run_engine
    from bench.recorded import closed_events
    from qmtl.core.bar import Bar

    columns = [column.tolist() for column in candles]
    bars = [Bar(int(at), o, h, low, c, 1.0) for at, o, h, low, c in zip(*columns, strict=True)]
    events = closed_events(bars)

    if options.get("written_out"):
        return lambda: (run_and_write_out(events), events)
    return lambda: (run_engine(events), events)


def read_events(found: Any) -> Outcome:
    from bench.engine_loop import trades_of

    return Outcome([tuple(trade) for trade in trades_of(*found)])


# --- the quickstart's strategy file ---------------------------------------------------------------


def bars_of(candles: Candles) -> Any:
    from qmtl.runtime.sdk.bars import Bars

    opened, high, low, close = (column.copy() for column in candles[1:])
    volume = np.ones(close.size)
    return Bars(candles.open_ms.copy(), opened, high, low, close, volume, symbol="BTCUSDT", interval="1m")


def prepare_file(candles: Candles, options: Mapping[str, Any]) -> Any:
    """Signals of the file, then the kernel: every set from scratch but for what indicators remember."""
    from bench.recorded import BTCUSDT
    from qmtl.engine import kernel
    from qmtl.runtime.sdk.memo import Memo, remembering
    from qmtl.runtime.sdk.signal_reader import check
    from qmtl.runtime.sdk.strategy import make_strategy
    from qmtl.runtime.sdk.strategy_file import load_source
    from qmtl.runtime.sdk.sweep_job import to_candles

    cls = load_source(options["file"]).cls
    bars, marks = bars_of(candles), np.array([candles.close.size - 1])
    conditions = kernel.Conditions(slippage_ticks=1, sizing=kernel.Sizing("equity", Decimal("0.1")))

    def jobs() -> Any:
        for params in options.get("sets", [{}]):
            strategy = make_strategy(cls, params)
            said = check(strategy, bars)
            columns = kernel.Columns(said.long, said.short, said.exit_long, said.exit_short)
            yield kernel.Job(columns, strategy.fraction("stop") or 0.0, strategy.fraction("target") or 0.0)

    def work() -> Any:
        market = kernel.KernelMarket(to_candles(bars), BTCUSDT)
        columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
        with remembering(Memo(columns)):
            threads = options.get("threads", 1)
            runs = kernel.run_batch(market, jobs(), conditions, marks=marks, threads=threads)
            return [(run, run.profits()) for run in runs]

    return work


def prepare_file_events(candles: Candles, options: Mapping[str, Any]) -> Any:
    from bench.recorded import BTCUSDT
    from qmtl.runtime.sdk.backtest_job import BacktestJob
    from qmtl.runtime.sdk.backtest_run import run_backtest
    from qmtl.runtime.sdk.market_history import make_history
    from qmtl.runtime.sdk.strategy import make_strategy
    from qmtl.runtime.sdk.strategy_file import load_source
    from qmtl.runtime.sdk.trade_plan import TradePlan

    history = make_history(bars_of(candles), source="bench", node_id="ohlcv:bench")
    strategy = make_strategy(load_source(options["file"]).cls)
    job = BacktestJob(
        strategy=strategy, plan=TradePlan(), histories={"BTCUSDT": history},
        instruments={"BTCUSDT": BTCUSDT}, warmup=21,
    )  # fmt: skip
    return lambda: run_backtest(job)


def read_file_events(result: Any) -> Outcome:
    rows = [(0, 0, 0, 0.0, 0.0, float(trade.pnl)) for trade in result.trades]
    return Outcome(rows)


TASKS = {
    "kernel": (prepare_kernel, read_kernel),
    "events": (prepare_events, read_events),
    "file": (prepare_file, read_kernel),
    "file_events": (prepare_file_events, read_file_events),
}

if __name__ == "__main__":
    serve("qmtl", TASKS)
