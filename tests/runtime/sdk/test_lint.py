"""Look-ahead is found wherever it hides, and clean strategies are left in peace."""

from typing import ClassVar

import pytest

from qmtl.runtime.sdk import Bars, Signals, Strategy, ta
from qmtl.runtime.sdk.lint import lint
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


def test_an_event_strategy_sees_closed_bars_only() -> None:
    class Events(Strategy):
        def on_bar(self, ctx: object, bar: object) -> None:
            """Do nothing."""

    report = lint(Events())
    assert report.is_clean
    assert "closed bars only" in report.lines()[0]
