"""Bands and volatility on recorded candles: equal to pandas, and the two faces equal to each other."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from qmtl.core.bar import Bar
from qmtl.core.event import PriceUpdated
from qmtl.trader.conditional import BBConditional, RVConditional
from tests.trader.candles import FULL, MINUTE_MS, THIN, closed_bars, read_candles

pytestmark = pytest.mark.recorded


def incremental(conditional: Any, frame: pl.DataFrame) -> dict[str, Any]:
    rows = [conditional.update(bar) for bar in closed_bars(frame)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_bands_equal_pandas_on_70k_candles(recorded_file: Any) -> None:
    frame = read_candles(recorded_file)
    assert len(frame) > 70_000
    closes = pd.Series(frame["close"].to_numpy())
    mean, std = closes.rolling(20).mean(), closes.rolling(20).std()
    bb = BBConditional()
    measured = bb.measure(frame)
    assert np.isnan(measured["mean"][:19]).all()
    bands = {"mean": mean, "upperInter": mean + std, "upperBand": mean + 2 * std, "lowerBand": mean - 2 * std}
    for name, expected in bands.items():
        np.testing.assert_allclose(measured[name][19:], expected.to_numpy()[19:], rtol=1e-9, atol=0)
    # pandas' own running std has drifted by 1.7e-7 of itself here; each window alone has not.
    windows = np.lib.stride_tricks.sliding_window_view(closes.to_numpy(), 20)
    np.testing.assert_allclose(measured["std"][19:], windows.std(axis=1, ddof=1), rtol=1e-9, atol=0)
    np.testing.assert_allclose(measured["std"][19:], std.to_numpy()[19:], rtol=1e-6, atol=0)
    levels = []
    for bar in closed_bars(frame):
        bb.fold(bar.open_ms, bar.close)
        levels.append(bb.levels)
    table = np.array(levels)[19:]
    for column, name in enumerate(("upperInter", "upperBand", "lowerInter", "lowerBand"), 1):
        np.testing.assert_array_equal(table[:, column], measured[name][19:])


def test_volatility_equals_pandas_on_70k_candles(recorded_file: Any) -> None:
    frame = read_candles(recorded_file)
    returns = pd.Series(np.log(frame["close"].to_numpy())).diff()
    expected = np.sqrt((returns**2).rolling(10).sum())
    measured = RVConditional().measure(frame)
    np.testing.assert_allclose(measured["currentRV"][10:], expected.to_numpy()[10:], rtol=1e-9, atol=1e-12)
    before = expected.shift(1).rolling(20)
    np.testing.assert_allclose(measured["maxRV"][30:], before.max().to_numpy()[30:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measured["minRV"][30:], before.min().to_numpy()[30:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [FULL, THIN])
@pytest.mark.parametrize("make", [BBConditional, RVConditional, lambda: BBConditional(7, 0.5, 2.5)])
def test_both_faces_give_the_same_on_every_row(recorded_file: Any, make: Any, name: str) -> None:
    frame = read_candles(recorded_file, name)
    one_by_one, at_once = incremental(make(), frame), make().evaluate(frame)
    assert set(one_by_one) == set(at_once)
    for key, values in at_once.items():
        np.testing.assert_array_equal(one_by_one[key].astype(values.dtype), values, err_msg=key)


def test_booleans_equal_pandas_outside_rounding(recorded_file: Any) -> None:
    frame = read_candles(recorded_file)
    closes = pd.Series(frame["close"].to_numpy())
    upper = closes.rolling(20).mean() + closes.rolling(20).std()
    decided = BBConditional().evaluate(frame)
    far = ((closes - upper.shift(1)).abs() > 1e-6).to_numpy()
    np.testing.assert_array_equal(
        decided["CURRclose_gt_upperInter"][far], (closes > upper.shift(1)).to_numpy()[far]
    )
    above = (closes > upper).to_numpy()
    past = decided["PASTcloses_gt_upperInter_5t"]
    assert [list(past[row]) for row in range(100, 200)] == [
        list(above[row - 5 : row]) for row in range(100, 200)
    ]
    assert decided["CURRclose_gt_upperInter"].sum() > 1_000


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
def test_the_published_excerpt_gives_the_same_values(recorded_file: Any) -> None:
    """The expressions of the published conditional module, on our arrays."""
    self = BBConditional()
    candles = closed_bars(read_candles(recorded_file).head(400))
    for candle in candles:
        seen = self.update(candle.close)
        if self.is_full and len(self.closes) == 5:
            assert list(self.closes[-5:] > self.upperInter[-5:]) == list(seen["PASTcloses_gt_upperInter_5t"])
            assert list(self.closes[-5:] > self.upperBand[-5:]) == list(seen["PASTcloses_gt_upperBand_5t"])
            assert list(self.closes[-5:] < self.lowerInter[-5:]) == list(seen["PASTcloses_lt_lowerInter_5t"])
            assert list(self.closes[-5:] < self.lowerBand[-5:]) == list(seen["PASTcloses_lt_lowerBand_5t"])
            assert (self.rt_close > self.upperInter[-1]) == seen["CURRclose_gt_upperInter"]
            assert (self.rt_close > self.upperBand[-1]) == seen["CURRclose_gt_upperBand"]
            assert (self.rt_close < self.lowerInter[-1]) == seen["CURRclose_lt_lowerInter"]
            assert (self.rt_close < self.lowerBand[-1]) == seen["CURRclose_lt_lowerBand"]
        self.update(candle)
    assert any(seen.values())


def test_nothing_is_true_and_nothing_is_nan_before_the_window_is_full(recorded_file: Any) -> None:
    frame = read_candles(recorded_file).head(60)
    bb, rv = incremental(BBConditional(), frame), incremental(RVConditional(), frame)
    for name, values in bb.items():
        # Row 20 is the first that is compared with a full window of closed candles.
        assert not values[:20].any(), name
    for name, values in rv.items():
        assert not np.isnan(values).any(), name
        assert not values[:31].any(), name
        assert values[31:].all(), name
    assert bb["CURRclose_gt_upperInter"][20:].any()


def test_a_closing_update_is_decided_before_it_is_folded() -> None:
    bb = BBConditional(4)
    for row, close in enumerate((10.0, 11.0, 10.0, 11.0)):
        bb.update(Bar(row * MINUTE_MS, close, close, close, close, 1.0))
    upper = bb.levels[1]
    assert bb.update(Bar(4 * MINUTE_MS, 12.0, 12.0, 12.0, 12.0, 1.0))["CURRclose_gt_upperInter"]
    assert bb.levels[1] > upper
    assert bb.past["PASTcloses_gt_upperInter_5t"][-1]


def test_a_forming_candle_is_compared_and_not_folded() -> None:
    bb, rv = BBConditional(4), RVConditional(2, 2)
    for row, close in enumerate((10.0, 11.0, 10.0, 11.0, 10.5)):
        for conditional in (bb, rv):
            conditional.update(Bar(row * MINUTE_MS, close, close, close, close, 1.0))
    before = (bb.dump()["moments"], rv.dump())
    update = PriceUpdated(0, "BTCUSDT", 5 * MINUTE_MS, 99.0, 99.0, 99.0, 99.0, 1.0)
    assert bb.update(update)["CURRclose_gt_upperBand"]
    assert rv.update(update) == rv.update(99.0)
    assert (bb.dump()["moments"], rv.dump()) == before


def test_saved_state_continues_exactly(recorded_file: Any) -> None:
    bars = closed_bars(read_candles(recorded_file).head(900))
    kept: tuple[Any, Any] = (BBConditional(), RVConditional())
    for number, bar in enumerate(bars):
        if number % 50 == 7:
            moved: tuple[Any, Any] = (BBConditional(), RVConditional())
            for old, new in zip(kept, moved, strict=True):
                new.load(json.loads(json.dumps(old.dump())))
                assert new.dump() == old.dump()
            kept = moved
        for conditional in kept:
            conditional.update(bar)
    fresh = (BBConditional(), RVConditional())
    for bar in bars:
        for whole in fresh:
            whole.update(bar)
    assert [c.dump() for c in kept] == [c.dump() for c in fresh]


def test_frames_of_pandas_polars_and_mappings_are_read_alike() -> None:
    times = [n * MINUTE_MS for n in range(40)]
    closes = [100 + math.sin(n) for n in range(40)]
    data = {"startTime": times, "close": closes}
    results = [BBConditional(5).evaluate(frame) for frame in (data, pd.DataFrame(data), pl.DataFrame(data))]
    for name, values in results[0].items():
        for other in results[1:]:
            np.testing.assert_array_equal(values, other[name])
    with pytest.raises(ValueError, match=r"columns close and open_ms \(or startTime\), got close"):
        BBConditional().evaluate({"close": closes})


@pytest.mark.parametrize("rows", [0, 1, 5, 11, 20])
def test_short_frames_are_all_false(rows: int) -> None:
    data = {"open_ms": [n * MINUTE_MS for n in range(rows)], "close": [100.0 + n for n in range(rows)]}
    for values in {**BBConditional().evaluate(data), **RVConditional().evaluate(data)}.values():
        assert len(values) == rows
        assert not values.any()


def test_bands_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 0 < inner <= outer, got 3\.0 and 2\.0"):
        BBConditional(20, 3.0, 2.0)
