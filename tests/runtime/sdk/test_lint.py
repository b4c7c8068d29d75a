"""Look-ahead is found wherever it hides, and clean strategies are left in peace."""

from itertools import count
from typing import ClassVar

import numpy as np
import pytest

from qmtl.runtime.sdk import Bars, Signals, Strategy, ta
from qmtl.runtime.sdk.lint import lint
from qmtl.runtime.sdk.warmup import is_enough
from tests.runtime.sdk.planted import CLEAN, LOOKING, Rule


def make(rule: Rule) -> Strategy:
    class Planted(Strategy):
        def signals(self, bars: Bars) -> Signals:
            return rule(bars)

    return Planted()


class Short(Strategy):
    warmup: ClassVar[int | None] = 5

    def signals(self, bars: Bars) -> Signals:
        return Signals(long=bars.close > ta.sma(bars.close, 20))


def test_there_are_as_many_as_the_issue_wants() -> None:
    assert (len(LOOKING), len(CLEAN)) == (30, 10)


@pytest.mark.parametrize("name", LOOKING)
def test_look_ahead_is_caught_and_its_column_named(name: str) -> None:
    report = lint(make(LOOKING[name]))
    assert not report.is_clean
    assert report.peeks[0].column in {"long", "exit_long", "plot next"}
    assert "looks ahead: row" in report.lines()[1]


@pytest.mark.parametrize("name", CLEAN)
def test_clean_strategies_are_not_flagged(name: str) -> None:
    report = lint(make(CLEAN[name]))
    assert report.is_clean, report.lines()
    assert report.lines() == [f"future cut: ok · past cut: ok (warm-up {report.needed}) · decides on: close"]


def test_a_short_warmup_is_caught() -> None:
    report = lint(Short())
    assert (report.is_short, report.declared, report.needed) == (True, 5, 20)
    assert report.lines()[0] == "future cut: ok · past cut: declares warm-up 5, needs 20 · decides on: close"


def test_a_warmup_one_bar_short_of_a_longer_candle_is_caught() -> None:
    """Two candles of four hours and what is forming are 719 minutes, which one minute in 240 needs."""

    class Slow(Strategy):
        warmup: ClassVar[int | None] = 718

        def signals(self, bars: Bars) -> Signals:
            slow = bars.at("4h")
            mean = slow.align(ta.sma(slow.close, 2))
            with np.errstate(invalid="ignore"):
                return Signals(long=bars.close > mean, exit_long=bars.close < mean)

    assert (lint(Slow()).is_short, lint(Slow()).needed) == (True, 719)
    Slow.warmup = 719
    assert lint(Slow()).is_clean


def test_a_signal_that_the_calm_market_never_gives_is_measured_in_a_rough_one() -> None:
    """An exit 4 % below the mean of 50 bars never comes at a tenth of a percent a bar; live it does."""

    def dips(bars: Bars) -> Signals:
        with np.errstate(invalid="ignore"):
            low = bars.close < ta.sma(bars.close, 50) * 0.96
        return Signals(long=bars.close > ta.sma(bars.close, 10), exit_long=low)

    assert lint(make(dips)).needed == 50
    assert is_enough(make(dips), 50)
    assert not is_enough(make(dips), 20)


def test_look_ahead_at_large_moves_only_is_caught() -> None:
    report = lint(make(lambda bars: Signals(long=np.append(bars.close[1:], 0.0) > bars.close * 1.006)))
    assert [peek.column for peek in report.peeks] == ["long"]


def test_signals_that_draw_or_count_are_named_as_such() -> None:
    draw, asked = np.random.default_rng(1), count(1)
    for rule in (
        lambda bars: Signals(long=draw.random(len(bars)) < 0.1),
        lambda bars: Signals(long=(bars.close > bars.open) & bool(next(asked) % 3)),
    ):
        report = lint(make(rule))
        assert (report.is_clean, report.unsteady, report.peeks) == (False, ("long",), ())
        assert report.lines()[1].startswith("long changes when the same bars are asked again")


def test_what_the_first_call_keeps_for_later_ones_hides_no_look_ahead() -> None:
    class Remembers(Strategy):
        def signals(self, bars: Bars) -> Signals:
            known = self.__dict__.setdefault("kept", float(bars.close.mean()))
            return Signals(long=bars.close > known)

    assert [peek.column for peek in lint(Remembers()).peeks] == ["long"]


def test_a_strategy_that_never_entered_says_that_nothing_was_seen() -> None:
    report = lint(make(lambda bars: Signals(long=bars.close < 0)))
    assert (report.is_clean, report.is_silent) == (True, True)
    assert report.lines()[1].startswith("no entry in the market looked at")


def test_an_event_strategy_sees_closed_bars_only() -> None:
    class Events(Strategy):
        def on_bar(self, ctx: object, bar: object) -> None:
            """Do nothing."""

    report = lint(Events())
    assert report.is_clean
    assert "closed bars only" in report.lines()[0]
