"""One class: parameters, faces, signals, condition sets, bars of other intervals and symbols."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from qmtl.runtime.sdk import (
    Bars,
    ConditionSet,
    ParameterError,
    Signals,
    SignalsError,
    Strategy,
    StrategyError,
    ta,
)
from qmtl.runtime.sdk.signals import check_signals
from qmtl.runtime.sdk.strategy import make_strategy
from tests.runtime.sdk.strategies import BandBreak, walk

HOUR = 3_600_000


def test_parameters_have_defaults_types_and_ranges() -> None:
    strategy = BandBreak(window="30")
    assert (strategy.window, strategy.inner) == (30, 1.0)
    assert list(BandBreak.params()) == ["window", "inner", "stop", "target"]
    assert BandBreak.window.values() == [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]
    assert BandBreak.inner.values()[-1] == 2.5
    assert len(BandBreak.inner.values()) == 9
    assert BandBreak.stop.values() == [0.0011]
    assert (strategy.fraction("stop"), strategy.fraction("target")) == (0.0011, 0.0016)
    assert BandBreak(stop=0).fraction("stop") is None
    assert strategy.chosen == {"window": 30, "inner": 1.0, "stop": 0.0011, "target": 0.0016}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"windw": 30},
            r"BandBreak has no parameter windw \(window, inner, stop, target\); did you mean window",
        ),
        ({"window": "abc"}, "window: expected a number, got 'abc'"),
        ({"window": 2.5}, "window: expected a whole number, got 2.5"),
        ({"window": True}, "window: expected a number, got True"),
        ({"inner": "nan"}, "inner: expected a finite number"),
        ({"stop": 1.5}, "stop: expected a fraction of the entry price"),
    ],
)
def test_wrong_parameters_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_strategy(BandBreak, given)


def test_a_class_has_one_face() -> None:
    class Both(Strategy):
        def signals(self, bars: Bars) -> Signals:
            return Signals()

        def on_bar(self, ctx: Any, bar: Any) -> None: ...

    class Nodes(Strategy):
        def setup(self) -> None: ...

    class Late(Strategy):
        def __init__(self) -> None:
            self.seen = 0

        def on_tick(self, ctx: Any, tick: Any) -> None: ...

    assert [BandBreak.face(), Nodes.face(), Late.face()] == ["signals", "nodes", "events"]
    assert make_strategy(Late).chosen == {}
    with pytest.raises(StrategyError, match=r"Both: .* found signals and events"):
        Both.face()
    with pytest.raises(StrategyError, match=r"Strategy: .* found none"):
        Strategy.face()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Signals(long=np.zeros(4, bool)), "X: column long: 4 values for 5 bars"),
        (Signals(short=np.full(5, np.nan)), "X: column short: row 0 is NaN; expected true or false"),
        (Signals(exit_long=np.ones(5, int)), "X: column exit_long: expected booleans, found int64"),
        (Signals(exit_short=np.zeros((5, 2), bool)), r"X: column exit_short: an array of shape \(5, 2\)"),
        (Signals(plot={"upper": np.zeros(3)}), "X: column plot upper: 3 values for 5 bars"),
        (Signals(plot={"upper": np.array(["a"] * 5)}), "X: column plot upper: expected numbers"),
        (None, r"X: expected Signals\(…\), got NoneType"),
    ],
)
def test_bad_signals_name_the_column(found: Any, message: str) -> None:
    with pytest.raises(SignalsError, match=message):
        check_signals(found, 5, "X")


def test_signals_take_series_and_scalars() -> None:
    found = check_signals(Signals(long=pd.Series([True] * 3), short=pl.Series([False] * 3)), 3)
    assert found.long.tolist() == [True] * 3
    assert found.exit_long.tolist() == [False] * 3


def test_05_conditions_are_and_inside_a_call_or_across() -> None:
    """trader.md §5: ConditionSet returns Signals, with any lag."""
    bars = walk(300)
    a, b, c, d = bars.close, bars.open, bars.high, ta.sma(bars.high, 5)
    rules = ConditionSet().long(a > b, ta.shift(c, 1) < d).long(a > d).short(a < b).clear(c < d)
    assert isinstance(rules, Signals)
    found = check_signals(rules, len(bars))
    more = check_signals(rules.clear(a > b, c > d), len(bars))
    assert (more.exit_short == ((c < d) | ((a > b) & (c > d)))).all()
    assert (found.long == (((a > b) & (ta.shift(c, 1) < d)) | (a > d))).all()
    assert (found.short == (a < b)).all()
    assert (found.exit_long == (c < d)).all()
    assert (found.exit_short == found.exit_long).all()
    series = pd.Series(a)
    lagged = check_signals(ConditionSet().long(series.shift(1) < series), len(bars))
    assert (lagged.long == (ta.shift(a, 1) < a)).all()
    with pytest.raises(SignalsError, match=r"long: condition 2: expected booleans"):
        ConditionSet().long(a > b, a)
    with pytest.raises(SignalsError, match="299 values, 300 before"):
        ConditionSet().short(a > b, (a > b)[1:])
    with pytest.raises(SignalsError, match="at least one"):
        ConditionSet().clear()


def test_02_6_other_intervals_show_closed_candles_only() -> None:
    """quickstart §2.6: bars.at("1h") is closed only."""
    bars = walk(60 * 10 + 30)
    hourly = bars.at("1h")
    assert len(hourly) == 10
    assert hourly.open_ms.tolist() == [bars.open_ms[0] + hour * HOUR for hour in range(10)]
    assert hourly.high[3] == bars.high[180:240].max()
    assert hourly.open[3] == bars.open[180]
    assert hourly.close[3] == bars.close[239]
    back = hourly.align(hourly.close)
    assert np.isnan(back[:59]).all()
    assert back[59] == hourly.close[0]
    assert back[118] == hourly.close[0]
    assert back[-1] == hourly.close[-1]
    assert not hourly.align(hourly.close > 0)[:59].any()
    cut = bars.slice(45, 200)
    assert cut.at("1h").open_ms.tolist() == [bars.open_ms[60], bars.open_ms[120]]
    with pytest.raises(StrategyError, match="expected a multiple of 1h"):
        hourly.at("1m")
    with pytest.raises(StrategyError, match="align: 3 values for 10 candles of 1h"):
        hourly.align(np.zeros(3))
    with pytest.raises(StrategyError, match="only bars made by"):
        bars.align(bars.close)


def test_a_forming_candle_is_not_closed() -> None:
    bars = walk(60)
    columns = [bars.open, bars.high, bars.low, bars.close, bars.volume]
    forming = Bars(bars.open_ms, *columns, is_forming=True)
    assert len(bars.at("1h")) == 1
    assert len(forming.at("1h")) == 0
    assert np.isnan(forming.at("1h").align(forming.at("1h").close)).all()


def test_02_6_other_symbols_come_aligned() -> None:
    """quickstart §2.6: bars.of("ETH/USDT")."""
    bars, other = walk(20), walk(20, seed=2)
    keep = np.array([number for number in range(3, 20) if number != 10])
    names = ("open", "high", "low", "close", "volume")
    thin = Bars(other.open_ms[keep], *(getattr(other, name)[keep] for name in names), symbol="ETHUSDT")
    found = bars.with_others({"ETHUSDT": thin}).of("ETH/USDT")
    assert np.isnan(found.close[:3]).all()
    assert found.close[10] == other.close[9]
    assert found.close[11:].tolist() == other.close[11:].tolist()
    with pytest.raises(StrategyError, match=r"bars\.of\('SOLUSDT'\): .*\(none\)"):
        bars.of("SOLUSDT")
    assert bars.of("BTC/USDT:USDT") is bars


def test_columns_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        walk(3).close[0] = 1.0
