"""Looking for look-ahead: signals must stay when the bars after them, or long before them, are cut off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.signal_reader import check
from qmtl.runtime.sdk.signals import COLUMNS, Signals
from qmtl.runtime.sdk.strategy import Face, Strategy, make_strategy
from qmtl.runtime.sdk.strategy_file import StrategySource
from qmtl.runtime.sdk.warmup import (
    dump_values,
    is_enough,
    is_heard,
    lint_path,
    measure_warmup,
    probe_market,
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
    """What was found; `needed` is the measured warm-up, `declared` the strategy's own word, or None.

    `unsteady` are columns that the same bars give otherwise another time; `is_silent`: no entry was seen.
    """

    face: Face
    decide_on: str
    peeks: tuple[Peek, ...] = ()
    needed: int | None = None
    declared: int | None = None
    unsteady: tuple[str, ...] = ()
    is_silent: bool = False

    @property
    def is_short(self) -> bool:
        """Tell whether the declared warm-up is less than what the signals need."""
        return self.declared is not None and self.needed is not None and self.declared < self.needed

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was found."""
        return not self.peeks and not self.unsteady and not self.is_short

    def lines(self) -> list[str]:
        """Return the report for people: one line when it is clean, one more for each finding."""
        future = f"{len(self.peeks)} found" if self.peeks else "not measured" if self.unsteady else "ok"
        if self.face != "signals":
            future = past = "ok (an event strategy is given closed bars only)"
        elif self.needed is None:
            past = "not measured"
        elif self.is_short:
            past = f"declares warm-up {self.declared}, needs {self.needed}"
        else:
            past = f"ok (warm-up {self.declared or self.needed})"
        first = f"future cut: {future} · past cut: {past} · decides on: {self.decide_on}"
        why = "signals must not draw, read a clock or remember"
        found = [f"{name} changes when the same bars are asked again: {why}" for name in self.unsteady]
        if self.is_silent:
            found.append("no entry in the market looked at: --data takes candles in which it trades")
        return [first, *(peek.describe() for peek in self.peeks), *found]


def lint(strategy: Strategy, symbols: Sequence[str] = ("BTCUSDT",), market: Bars | None = None) -> LintReport:
    """Cut the future, then the past, of a seeded market (or of `market`), and compare.

    Whatever the strategy's code raises goes through; StrategyError when its signals never settle.
    """
    face = strategy.face()
    if face != "signals":
        return LintReport(face, strategy.decide_on)
    declared, is_silent = strategy.warmup, True
    markets = [market] if market is not None else _probes(strategy, symbols)
    for bars in markets:
        whole, unsteady = _ask_again(strategy, bars)
        peeks = () if unsteady else find_peeks(strategy, bars)
        if peeks or unsteady:
            # Signals that know the future or change settle nowhere: there is no warm-up to measure.
            return LintReport(face, strategy.decide_on, peeks, declared=declared, unsteady=unsteady)
        is_silent = is_silent and not (whole.long | whole.short).any()
        if is_heard(whole):
            break
    if declared is not None and declared >= 1 and is_enough(strategy, declared, symbols, is_thorough=True):
        needed = declared
    else:
        needed = measure_warmup(strategy, symbols)
    return LintReport(face, strategy.decide_on, needed=needed, declared=declared, is_silent=is_silent)


def keep_warmup(source: StrategySource, strategy: Strategy, warmup: int) -> None:
    """Keep what was measured beside the strategy's file, as runs do that find nothing there."""
    path = lint_path(source)
    record = read_record(path, source.sha256)
    record["warmup"][dump_values(strategy)] = warmup
    write_record(path, record)


def _probes(strategy: Strategy, symbols: Sequence[str]) -> Iterator[Bars]:
    for is_rough in (False, True):
        yield probe_market(ROWS, symbols, strategy.interval, is_rough=is_rough)


def _fresh(strategy: Strategy) -> Strategy:
    """Return another with the same parameters, which remembers nothing."""
    return make_strategy(type(strategy), strategy.chosen)


def _ask_again(strategy: Strategy, bars: Bars) -> tuple[Signals, tuple[str, ...]]:
    """Return the signals, and the columns that are others when the same object was asked for less between."""
    asked = _fresh(strategy)
    whole = check(asked, bars)
    check(asked, bars.slice(0, len(bars) // 2))
    return whole, tuple(name for name, _ in _differences(whole, check(asked, bars), len(bars)))


def find_peeks(strategy: Strategy, bars: Bars) -> tuple[Peek, ...]:
    """Return for each column that knows the future where that was seen first."""
    whole = check(_fresh(strategy), bars)
    found: dict[str, Peek] = {}
    for cut in _cuts(whole, len(bars)):
        part = check(_fresh(strategy), bars.slice(0, cut + 1))
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
