"""One worker of a sweep: signals of a set over the whole history once, then the kernel on every split."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qmtl.core.instrument import Instrument
from qmtl.engine.crew import Evaluate, Plain
from qmtl.engine.kernel import Columns, Conditions, KernelMarket, run
from qmtl.engine.kernel_run import KernelRun
from qmtl.engine.splits import Split
from qmtl.engine.statistics import Period, max_drawdown, period_ends, returns_of, sharpe, total_return
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.memo import Memo, remembering
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.signal_reader import check
from qmtl.runtime.sdk.signals import Signals
from qmtl.runtime.sdk.strategy import Strategy, make_strategy
from qmtl.runtime.sdk.strategy_file import find_fault, load_kept
from qmtl.runtime.sdk.sweep_job import read_columns, to_candles
from qmtl.runtime.sdk.warmup import is_enough, measure_warmup

KEPT = 8
"""So many signal columns are kept for sets that differ in what `signals` does not read."""


def open_worker(config: Plain) -> Evaluate:
    """Open the columns and the strategy that `SweepJob.write` wrote down."""
    return SweepWorker(config).evaluate


class SweepWorker:
    """Evaluates parameter sets; what it raises names the strategy's file and line."""

    def __init__(self, config: Plain) -> None:
        folder, symbols = Path(config["folder"]), list(config["symbols"])
        markets = {one: read_columns(folder / one, one, config["interval"]) for one in symbols}
        bars, funding = markets[symbols[0]]
        self._stretches = _cut({one: market[0] for one, market in markets.items()}, config["stretches"])
        self._starts = [0, *np.cumsum(config["stretches"][symbols[0]]).tolist()]
        self._symbols = symbols
        instrument = msgspec.convert(config["instrument"], Instrument, strict=False)
        ends = [start - 1 for start in self._starts[1:-1]]
        self._market = KernelMarket(to_candles(bars), instrument, funding, ends, bars.interval_ms)
        self._gaps = _count_gaps(bars, ends)
        self._conditions = msgspec.convert(config["conditions"], Conditions, strict=False)
        self._splits = [Split(*split) for split in config["splits"]]
        self._period = Period(*config["period"])
        self._source = load_kept(config["strategy"], config["sha256"], None)
        self._class = _tracked(self._source.cls)
        self._fixed = dict(config["fixed"])
        names = ("open", "high", "low", "close", "volume")
        self._memo = Memo(getattr(part, name) for part in self._stretches for name in names)
        self._columns: OrderedDict[tuple[tuple[str, Any], ...], Columns] = OrderedDict()

    def evaluate(self, params: Plain) -> dict[str, Any]:
        """Return the figures of every training and test of one set, and its test returns end to end."""
        try:
            strategy = make_strategy(self._class, {**self._fixed, **params})
            columns = self._find_columns(strategy)
        except Exception as error:  # whatever the author's code raises fails this set
            raise StrategyError(find_fault(error, self._source.path, self._source.label)) from error
        stop, target = strategy.fraction("stop") or 0.0, strategy.fraction("target") or 0.0
        train, test, returns = [], [], []
        for split in self._splits:
            train.append(self._measure(columns, stop, target, split.train)[0])
            figures, earned = self._measure(columns, stop, target, split.test)
            test.append(figures)
            returns += earned.tolist()
        return {"train": train, "test": test, "returns": returns}

    def _measure(
        self, columns: Columns, stop: float, target: float, rows: slice
    ) -> tuple[dict[str, Any], Any]:
        times = self._market.candles.open_ms[rows]
        marks = period_ends(times, self._period)
        done = run(self._market, columns, self._conditions, stop=stop, target=target, rows=rows, marks=marks)
        returns = returns_of(done.equity, float(self._conditions.wallet))
        figures = {**_figures(done), "over_holes": self._count_over_holes(done, rows)}
        return {**figures, "periods": len(returns), **_ratios(returns, self._period.per_year)}, returns

    def _count_over_holes(self, done: KernelRun, rows: slice) -> int:
        """Return during how many trades candles are missing."""
        gaps = self._gaps[rows]
        entry, leave = done.trades[:, 0], done.trades[:, 1]
        return int(np.count_nonzero(gaps[np.where(leave < 0, len(gaps) - 1, leave)] > gaps[entry]))

    def _find_columns(self, strategy: Strategy) -> Columns:
        """Return the signals of a set, those of an earlier one where everything they read is the same."""
        for read, known in self._columns.items():
            if all(getattr(strategy, name) == value for name, value in read):
                self._columns.move_to_end(read)
                return known
        with reads_of(strategy) as read_names:
            declared = strategy.warmup
            said = [self._read_signals(strategy, part) for part in self._stretches]
        columns = Columns(*(np.concatenate([getattr(one, name) for one in said]) for name in Columns._fields))
        warmup = self._find_warmup(strategy, columns) if declared is None else declared
        for start, end in pairwise(self._starts):
            for column in columns:
                column[start : min(end, start + max(0, warmup - 1))] = False
        self._columns[tuple((name, getattr(strategy, name)) for name in sorted(read_names))] = columns
        if len(self._columns) > KEPT:
            self._columns.popitem(last=False)
        return columns

    def _find_warmup(self, strategy: Strategy, columns: Columns) -> int:
        """Return a number of bars before which no signal may count, exact where a signal stands before."""
        entries = columns.long | columns.short
        parts = [entries[start:end] for start, end in pairwise(self._starts)]
        firsts = [int(np.argmax(part)) for part in parts if part.any()]
        if not firsts or is_enough(strategy, min(firsts) + 1, self._symbols):
            return min(firsts, default=0) + 1
        return measure_warmup(strategy, self._symbols)

    def _read_signals(self, strategy: Strategy, bars: Bars) -> Signals:
        try:
            with remembering(self._memo):
                return check(strategy, bars)
        except ValueError as error:
            # A strategy that writes into an indicator's array needs one of its own.
            if "read-only" not in str(error):
                raise
        return check(strategy, bars)


def _cut(markets: dict[str, Bars], lengths: dict[str, list[int]]) -> list[Bars]:
    """Return each stretch of the first market, which knows the same stretch of the others."""
    cut = []
    edges = {one: [0, *np.cumsum(lengths[one]).tolist()] for one in markets}
    first, *others = markets
    for at in range(len(lengths[first])):
        parts = {one: bars.slice(edges[one][at], edges[one][at + 1]) for one, bars in markets.items()}
        bars = parts[first]
        cut.append(bars.with_others({one: parts[one] for one in others}) if others else bars)
    return cut


def _count_gaps(bars: Bars, ends: list[int]) -> Any:
    """Return for each row how many times candles were missing up to it; a cut is no hole."""
    is_after_gap = np.diff(bars.open_ms, prepend=bars.open_ms[:1] - bars.interval_ms) != bars.interval_ms
    is_after_gap[[end + 1 for end in ends]] = False
    return np.cumsum(is_after_gap)


def _figures(done: KernelRun) -> dict[str, Any]:
    step = float(done.market.money_step)
    closed = done.trades[done.trades[:, 1] >= 0]
    return {
        "trades": len(closed),
        "net": float(done.profits().sum()),
        "fees": float(done.trades[:, 6].sum()) * step,
        "funding": float(done.trades[:, 7].sum()) * step,
    }


def _ratios(returns: Any, per_year: float) -> dict[str, float]:
    return {
        "sharpe": sharpe(returns, per_year),
        "total_return": total_return(returns),
        "max_drawdown": max_drawdown(returns),
    }


# --- which parameters signals reads ---------------------------------------------------------------


def _tracked(cls: type[Strategy]) -> type[Strategy]:
    """Return a class like `cls` whose instances tell which parameters are read while they are watched."""
    names = frozenset(cls.params())

    def read(self: Any, name: str) -> Any:
        space = object.__getattribute__(self, "__dict__")
        watched = space.get("_watched")
        if watched is not None:
            if name in names:
                watched.add(name)
            elif name == "__dict__" or name in space:
                # All of them at once, or what the strategy may have made of any of them.
                watched.update(names)
        return super(made, self).__getattribute__(name)

    made: type[Strategy] = type(
        cls.__name__, (cls,), {"__getattribute__": read, "__module__": cls.__module__}
    )
    return made


@contextmanager
def reads_of(strategy: Strategy) -> Iterator[set[str]]:
    """Watch which parameters of a tracked strategy are read inside the block."""
    read: set[str] = set()
    space = strategy.__dict__
    space["_watched"] = read
    try:
        yield read
    finally:
        del space["_watched"]
