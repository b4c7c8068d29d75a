"""Looking for look-ahead: signals must stay when the bars after them, or long before them, are cut off."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmtl.core.instrument import parse_symbol
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.signal_reader import check
from qmtl.runtime.sdk.signals import COLUMNS, Signals
from qmtl.runtime.sdk.strategy import Face, Strategy
from qmtl.runtime.sdk.strategy_file import StrategySource
from qmtl.runtime.sdk.warmup import (
    dump_values,
    is_enough,
    lint_path,
    measure_warmup,
    probe_bars,
    read_record,
    write_record,
)

ROWS = 3_000
"""Bars of the market that is looked at."""
_CUTS_EACH, _CUTS_ANY = 16, 48
_NEAR = 1e-9
"""Lines may differ by rounding of longer sums; what comes from the future differs by more."""


@dataclass(frozen=True)
class Peek:
    """A column that knows the future: at `row`, cutting off everything after row `cut` changes it."""

    column: str
    row: int
    cut: int

    def describe(self) -> str:
        """Say it in one line."""
        ahead = self.cut - self.row
        seen = "the bars after it" if not ahead else f"bars more than {ahead:,} after it"
        return f"{self.column} looks ahead: row {self.row:,} changes when {seen} are cut off"


@dataclass(frozen=True)
class LintReport:
    """What was found; `needed` is the measured warm-up, `declared` the strategy's own word, or None."""

    face: Face
    decide_on: str
    peeks: tuple[Peek, ...] = ()
    needed: int | None = None
    declared: int | None = None

    @property
    def is_short(self) -> bool:
        """Tell whether the declared warm-up is less than what the signals need."""
        return self.declared is not None and self.needed is not None and self.declared < self.needed

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was found."""
        return not self.peeks and not self.is_short

    def lines(self) -> list[str]:
        """Return the report for people: one line when it is clean, one more for each finding."""
        future = f"{len(self.peeks)} found" if self.peeks else "ok"
        if self.face != "signals":
            future = past = "ok (an event strategy is given closed bars only)"
        elif self.needed is None:
            past = "not measured"
        elif self.is_short:
            past = f"declares warm-up {self.declared}, needs {self.needed}"
        else:
            past = f"ok (warm-up {self.declared or self.needed})"
        first = f"future cut: {future} · past cut: {past} · decides on: {self.decide_on}"
        return [first, *(peek.describe() for peek in self.peeks)]


def lint(strategy: Strategy, symbols: Sequence[str] = ("BTCUSDT",), market: Bars | None = None) -> LintReport:
    """Cut the future, then the past, of a seeded market (or of `market`), and compare.

    Whatever the strategy's code raises goes through; StrategyError when its signals never settle.
    """
    face = strategy.face()
    if face != "signals":
        return LintReport(face, strategy.decide_on)
    bars = _make_market(strategy, symbols) if market is None else market
    peeks = find_peeks(strategy, bars)
    if peeks:
        # Signals that know the future settle nowhere: there is no warm-up to measure.
        return LintReport(face, strategy.decide_on, peeks, declared=strategy.warmup)
    declared = strategy.warmup
    if declared is not None and declared >= 1 and is_enough(strategy, declared, symbols):
        return LintReport(face, strategy.decide_on, needed=declared, declared=declared)
    return LintReport(face, strategy.decide_on, needed=measure_warmup(strategy, symbols), declared=declared)


def keep_warmup(source: StrategySource, strategy: Strategy, warmup: int) -> None:
    """Keep what was measured beside the strategy's file, as runs do that find nothing there."""
    path = lint_path(source)
    record = read_record(path, source.sha256)
    record["warmup"][dump_values(strategy)] = warmup
    write_record(path, record)


def _make_market(strategy: Strategy, symbols: Sequence[str]) -> Bars:
    first, *others = (probe_bars(ROWS, parse_symbol(symbol), strategy.interval) for symbol in symbols)
    return first.with_others({bars.symbol: bars for bars in others}) if others else first


def find_peeks(strategy: Strategy, bars: Bars) -> tuple[Peek, ...]:
    """Return for each column that knows the future where that was seen first."""
    whole = check(strategy, bars)
    found: dict[str, Peek] = {}
    for cut in _cuts(whole, len(bars)):
        part = check(strategy, bars.slice(0, cut + 1))
        for name, row in _differences(whole, part, cut + 1):
            if name not in found:
                found[name] = Peek(name, row, cut)
    return tuple(found.values())


def _cuts(whole: Signals, count: int) -> list[int]:
    """Return rows after which the future is cut: some with each signal, some just before one, some others."""
    least = count // 3
    chosen = set(np.linspace(least, count - 2, _CUTS_ANY).astype(int).tolist())
    for name in COLUMNS:
        column = getattr(whole, name)
        for rows in (np.flatnonzero(column), np.flatnonzero(np.diff(column.astype(np.int8)))):
            late = rows[(rows >= least) & (rows < count - 1)]
            if late.size:
                chosen.update(late[np.linspace(0, late.size - 1, _CUTS_EACH).astype(int)].tolist())
    return sorted(chosen)


def _differences(whole: Signals, part: Signals, rows: int) -> list[tuple[str, int]]:
    """Return each column that differs in its first `rows` rows, and the last row in which it does."""
    found = []
    for name in COLUMNS:
        differs = np.flatnonzero(getattr(whole, name)[:rows] != getattr(part, name)[:rows])
        if differs.size:
            found.append((name, int(differs[-1])))
    for name, line in whole.plot.items():
        other = part.plot.get(name)
        if other is None:
            found.append((f"plot {name}", rows - 1))
            continue
        same = np.isclose(line[:rows], other[:rows], rtol=_NEAR, atol=0.0, equal_nan=True)
        if not same.all():
            found.append((f"plot {name}", int(np.flatnonzero(~same)[-1])))
    return found
