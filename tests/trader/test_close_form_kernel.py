"""Contract, trader §7 item 12: the compiled close form makes the event tier's trades and equity, exactly."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bare_loop import run as run_bare
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.engine.kernel import Candles, Conditions, KernelMarket
from qmtl.trader.close_form import CloseForm, CloseFormParams
from qmtl.trader.close_form_kernel import run_close_form, run_close_forms
from qmtl.trader.close_form_scan import BLOCK
from tests.engine.two_tiers import equity_of_kernel, rows_of_kernel, run_events, walk
from tests.trader.candles import read_candles
from tests.trader.desk import BTC

CONDITIONS = Conditions(wallet=Decimal(1_000_000), fill="close")


def check_equal(candles: Candles, params: CloseFormParams, conditions: Conditions = CONDITIONS) -> int:
    trades, equity = run_events(CloseForm(params), candles, BTC, conditions)
    run = run_close_form(KernelMarket(candles, BTC), params, conditions)
    assert rows_of_kernel(run) == trades
    assert equity_of_kernel(run) == equity
    return len(trades)


@pytest.mark.recorded
def test_12_close_form_equals_the_event_tier_and_the_bare_loop_on_recorded_candles(
    recorded_file: Callable[[str], Path], count: Callable[[int, int], int]
) -> None:
    frame = read_candles(recorded_file).head(count(15_000, 70_000))
    candles = Candles(
        frame["open_ms"].to_numpy(), *(frame[n].to_numpy() for n in ("open", "high", "low", "close"))
    )
    assert check_equal(candles, CloseFormParams()) > 500
    bare = run_bare(candles.close.tolist())
    run = run_close_form(KernelMarket(candles, BTC), CloseFormParams(), CONDITIONS)
    closed = run.trades[run.trades[:, 1] >= 0]
    assert closed[:, :3].tolist() == [[t.entry_row, t.exit_row, t.direction] for t in bare]
    assert run.profits() == pytest.approx([t.profit for t in bare], abs=1e-6)


@pytest.mark.fuzz
@given(
    seed=st.integers(0, 2**32),
    window=st.integers(2, 40),
    inner=st.sampled_from([0.5, 1.0, 1.25]),
    outer=st.sampled_from([1.25, 2.0, 2.5]),
    stop=st.floats(0.0002, 0.01),
    target=st.floats(0.0002, 0.01),
    taker=st.sampled_from(["0.0004", "0.00045", "0", "-0.0001", "0.00032175"]),
    quantity=st.sampled_from(["1", "0.013", "0.25"]),
    rows=st.sampled_from([150, 150, BLOCK + 37, 2 * BLOCK + 45]),
    stills=st.integers(0, 3),
)
def test_12_close_form_equals_the_event_tier(
    seed: int, window: int, inner: float, outer: float, stop: float, target: float, taker: str, quantity: str,
    rows: int, stills: int,
) -> None:  # fmt: skip
    params = CloseFormParams(
        window=window, inner=inner, outer=outer, stop=stop, target=target, quantity=Decimal(quantity)
    )
    fees = MakerTakerFeeModel(taker=Decimal(taker))
    conditions = Conditions(wallet=Decimal(1_000_000), fees=fees, fill="close")
    candles = walk(seed, rows)
    close, draw = candles.close.copy(), np.random.default_rng(seed)
    for at in draw.integers(0, rows, stills):
        # Squares cancel where a market stands still, or leaves a jump behind.
        still = slice(at, at + draw.integers(1, 4 * window))
        close[still] = np.round(close[at] + draw.choice([0.0, 0.1, 9_000.0]), 1)
    low, high = np.minimum(candles.low, close), np.maximum(candles.high, close)
    check_equal(candles._replace(close=close, low=low, high=high), params, conditions)


def test_closes_that_stand_still_and_jump_are_summed_as_the_event_tier_sums_them() -> None:
    candles = walk(3, 400)
    close = candles.close.copy()
    close[50:150] = 60_000.1
    close[200:203] = 600_000.0
    close[300:] = np.where(np.arange(100) % 2, 60_000.1, 60_000.2)
    low, high = np.minimum(candles.low, close), np.maximum(candles.high, close)
    assert check_equal(candles._replace(close=close, low=low, high=high), CloseFormParams()) > 3


def test_many_sets_are_the_single_runs_in_order() -> None:
    market = KernelMarket(walk(1, 5_000), BTC)
    sets = [CloseFormParams(window=window) for window in range(5, 40, 5)]
    marks = np.array([0, 10, 4_999])
    together = list(run_close_forms(market, sets, CONDITIONS, marks=marks))
    for params, run in zip(sets, together, strict=True):
        alone = run_close_form(market, params, CONDITIONS)
        assert (run.trades == alone.trades).all()
        assert run.equity_money.tolist() == alone.equity_money[marks].tolist()


def test_a_market_of_closes_alone_makes_the_same_trades_and_equity() -> None:
    candles = walk(4, 2_000)
    closes = Candles(candles.open_ms, *[candles.close] * 4)
    whole, alone = (
        run_close_form(KernelMarket(one, BTC), CloseFormParams(), CONDITIONS) for one in (candles, closes)
    )
    assert (whole.trades == alone.trades).all()
    assert len(alone.trades) > 20
    assert (whole.equity_money == alone.equity_money).all()
    assert (whole.equity == alone.equity).all()


def test_too_few_candles_make_no_trade() -> None:
    for rows in (1, 20):
        run = run_close_form(KernelMarket(walk(1, rows), BTC), CloseFormParams(), CONDITIONS)
        assert run.trades.size == 0
        assert run.equity.tolist() == [1_000_000.0] * rows
