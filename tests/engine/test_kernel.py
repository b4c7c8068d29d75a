"""The kernel against the event tier: same trades, prices, fees and equity, to the last decimal.

Quickstart §2.2 and §2.8, trader §5: both tiers are fed the same candles and signals.
"""

from decimal import Decimal
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.interval import FUNDING_MS
from qmtl.engine.kernel import (
    Candles,
    Columns,
    Conditions,
    Funding,
    Job,
    KernelError,
    KernelMarket,
    Sizing,
    run,
    run_batch,
)
from qmtl.engine.kernel_run import KernelRun
from qmtl.runtime.sdk import Bars, Param, Signals, Strategy
from qmtl.runtime.sdk.funded_venue import FundedVenue
from qmtl.runtime.sdk.market_history import Funding as Rate
from qmtl.runtime.sdk.signal_face import SignalFace
from qmtl.runtime.sdk.signal_reader import TableReader
from qmtl.runtime.sdk.trade_plan import TradePlan
from tests.engine.two_tiers import Row, equity_of_kernel, rows_of_kernel, run_events, walk
from tests.trader.desk import BTC

COIN = Instrument(
    symbol="COINUSDT", base="COIN", quote="USDT", settle="USDT",
    tick_size=Decimal("0.00001"), lot_size=Decimal(1), min_quantity=Decimal(1),
    max_quantity=Decimal(10_000_000), market_max_quantity=Decimal(5_000_000), min_notional=Decimal(5),
)  # fmt: skip
DUST = structs.replace(
    COIN, tick_size=Decimal("1E-8"), lot_size=Decimal("0.001"), min_quantity=Decimal("0.001"),
    max_quantity=Decimal(10**11), market_max_quantity=Decimal(10**11),
)  # fmt: skip
SIZES = {
    "quantity": "quantity",
    "notional": "notional",
    "equity": "size_pct",
    "volatility": "volatility_target",
}


class Given(Strategy):
    """Says what the test wrote down."""

    stop = Param(0.0, role="stop")
    target = Param(0.0, role="target")

    def signals(self, bars: Bars) -> Signals:
        raise AssertionError("read from a table")


def draw_columns(seed: int, rows: int, share: float) -> Columns:
    draw = np.random.default_rng(seed)
    return Columns(*(draw.random(rows) < chance for chance in (share, share, 2 * share, 2 * share)))


def run_tier_1(
    candles: Candles,
    columns: Columns,
    conditions: Conditions,
    instrument: Instrument,
    stop: float,
    target: float,
    rates: dict[int, Rate] | None = None,
) -> tuple[list[Row], list[Decimal]]:
    sizing = conditions.sizing
    size: dict[str, Any] = {SIZES[sizing.kind]: sizing.value, "volatility_window": sizing.window}
    plan = TradePlan(symbols=instrument.symbol, **size)
    volume = np.ones(candles.close.size)
    bars = Bars(
        candles.open_ms.copy(), candles.open.copy(), candles.high.copy(), candles.low.copy(),
        candles.close.copy(), volume, symbol=instrument.symbol,
    )  # fmt: skip
    reader = TableReader(Signals(**columns._asdict()), bars, 1)
    face = SignalFace(Given(stop=stop, target=target), plan, {instrument.symbol: reader})
    funded = {instrument.symbol: rates or {}}
    return run_events(face, candles, instrument, conditions, lambda venue: FundedVenue(venue, funded))


def check_equal(
    candles: Candles,
    columns: Columns,
    conditions: Conditions,
    instrument: Instrument = BTC,
    *,
    stop: float = 0.0,
    target: float = 0.0,
) -> KernelRun:
    trades, equity = run_tier_1(candles, columns, conditions, instrument, stop, target)
    found = run(KernelMarket(candles, instrument), columns, conditions, stop=stop, target=target)
    assert rows_of_kernel(found) == trades
    assert equity_of_kernel(found) == equity
    return found


SIZINGS = [
    Sizing("quantity", Decimal("0.013")),
    Sizing("notional", Decimal(700)),
    Sizing("equity", Decimal("0.1")),
    Sizing("equity", Decimal(1)),
    Sizing("volatility", Decimal("0.2"), 30),
]


@pytest.mark.fuzz
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.02, 0.1, 0.4]),
    stop=st.sampled_from([0.0, 0.0011, 0.0000003, 0.004]) | st.floats(0.0001, 0.01),
    target=st.sampled_from([0.0, 0.0016, 0.0000003]) | st.floats(0.0001, 0.01),
    fill=st.sampled_from(["next_open", "close"]),
    slippage=st.sampled_from([0, 1, 30]),
    sizing=st.sampled_from(SIZINGS),
    fees=st.sampled_from([("0.0002", "0.0004"), ("-0.00005", "0.00032175"), ("0", "0")]),
    leverage=st.sampled_from([1, 1, 3]),
)
def test_both_tiers_make_the_same_trades_and_equity(
    seed: int, share: float, stop: float, target: float, fill: Any, slippage: int, sizing: Sizing,
    fees: tuple[str, str], leverage: int,
) -> None:  # fmt: skip
    conditions = Conditions(
        fees=MakerTakerFeeModel(*map(Decimal, fees)),
        slippage_ticks=slippage, sizing=sizing, leverage=leverage, fill=fill,
    )  # fmt: skip
    candles, columns = walk(seed, 80), draw_columns(seed, 80, share)
    check_equal(candles, columns, conditions, stop=stop, target=target)


@pytest.mark.fuzz
@given(
    seed=st.integers(0, 2**32),
    sizing=st.sampled_from(["notional", "equity"]),
    slippage=st.sampled_from([0, 2]),
)
def test_both_tiers_agree_on_a_market_of_small_prices(seed: int, sizing: Any, slippage: int) -> None:
    candles = walk(seed, 80, price=0.08123, tick=0.00001)
    value = Decimal(300) if sizing == "notional" else Decimal("0.37")
    conditions = Conditions(sizing=Sizing(sizing, value), slippage_ticks=slippage)
    check_equal(candles, draw_columns(seed, 80, 0.2), conditions, COIN, stop=0.003, target=0.0045)


# --- funding --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), fill=st.sampled_from(["next_open", "close"]), has_marks=st.booleans())
def test_both_tiers_pay_the_same_funding(seed: int, fill: Any, has_marks: bool) -> None:
    draw = np.random.default_rng(seed)
    candles, columns = walk(seed, 120), draw_columns(seed, 120, 0.1)
    candles = candles._replace(open_ms=candles.open_ms[0] + np.cumsum(draw.integers(1, 90, 120)) * 60_000)
    slots = np.unique(candles.open_ms // FUNDING_MS)
    slots = np.arange(slots[0] - 1, slots[-1] + 2)
    slots = slots[draw.random(slots.size) < 0.9]
    marks = [round(60_000 + x, 8) if has_marks else None for x in draw.normal(0, 300, slots.size)]
    paid = [
        Rate(int(slot) * FUNDING_MS, round(rate, 8), mark)
        for slot, rate, mark in zip(slots, draw.normal(0, 1e-4, slots.size).tolist(), marks, strict=True)
    ]
    conditions = Conditions(fill=fill, sizing=Sizing("equity", Decimal("0.9")))
    rates = {one.ts_ms // FUNDING_MS: one for one in paid}
    trades, equity = run_tier_1(candles, columns, conditions, BTC, 0.004, 0.006, rates)
    columns_of_rates = (
        np.array([one.ts_ms for one in paid], np.int64),
        np.array([one.rate for one in paid]),
        np.array([np.nan if one.mark is None else one.mark for one in paid]),
    )
    market = KernelMarket(candles, BTC, Funding(*columns_of_rates))
    found = run(market, columns, conditions, stop=0.004, target=0.006)
    assert rows_of_kernel(found) == trades
    assert equity_of_kernel(found) == equity
    # What trades earned less what they paid is what the wallet gained.
    if not found.trades.size or found.trades[-1, 1] >= 0:
        assert found.profits().sum() == pytest.approx(float(equity[-1] - conditions.wallet), abs=1e-6)


# --- by hand --------------------------------------------------------------------------------------


def bars_of(*rows: tuple[float, float, float, float]) -> Candles:
    opened, high, low, close = np.array(rows, np.float64).T.copy()
    return Candles(np.arange(len(rows)) * 60_000, opened, high, low, close)


def at(rows: int, **marked: list[int]) -> Columns:
    columns = {name: np.zeros(rows, bool) for name in Columns._fields}
    for name, where in marked.items():
        columns[name][where] = True
    return Columns(**columns)


ONE = Conditions(fees=MakerTakerFeeModel(Decimal("0.0002"), Decimal("0.0004")), wallet=Decimal(100_000))


def test_stop_first_gap_at_the_open_reversal_and_conflict() -> None:
    candles = bars_of(
        (100.0, 101.0, 99.0, 100.0),  # long
        (100.0, 101.2, 99.0, 100.0),  # filled at 100; 99.5 and 101 are both inside: the stop; long again
        (102.0, 102.1, 101.9, 102.0),  # filled at 102
        (105.0, 106.0, 104.0, 105.0),  # gap through the target 103.0: at the open; short
        (104.0, 104.1, 103.9, 104.0),  # short at 104; exit and long: reverses
        (103.5, 103.6, 103.4, 103.5),  # short closed and long opened at 103.5; long and short: neither
        (103.7, 103.8, 103.6, 103.7),
    )
    columns = at(7, long=[0, 1, 4, 5], short=[3, 5], exit_short=[4])
    small = Instrument(
        "X",
        "X",
        "USDT",
        "USDT",
        Decimal("0.1"),
        Decimal(1),
        Decimal(1),
        Decimal(9_999),
        Decimal(9_999),
        Decimal(5),
    )
    found = check_equal(candles, columns, ONE, small, stop=0.005, target=0.01)
    assert [trade[:3] + trade[4:6] + trade[8:] for trade in found.trades.tolist()] == [
        [1, 1, 1, 1000, 995, 1],
        [2, 3, 1, 1020, 1050, 2],
        [4, 5, -1, 1040, 1035, 4],
        [5, -1, 1, 1035, 0, 0],
    ]
    assert found.conflicts == 1
    assert found.bars_held == 0 + 1 + 1 + 2
    assert found.trades[0, 6] * found.market.money_step == Decimal("0.04") + Decimal("0.0398")
    assert found.trades[1, 6] * found.market.money_step == Decimal("0.0408") + Decimal("0.021")


def test_an_entry_that_the_wallet_cannot_carry_is_refused_and_counted() -> None:
    candles = walk(1, 50)
    conditions = Conditions(wallet=Decimal(1_000), sizing=Sizing("quantity", Decimal(1)))
    found = check_equal(candles, at(50, long=[3, 20]), conditions)
    assert (len(found.trades), found.refusals) == (0, 2)
    assert set(found.equity.tolist()) == {1_000.0}


def test_part_of_the_rows_is_as_if_there_were_no_others() -> None:
    candles, columns = walk(5, 400), draw_columns(5, 400, 0.1)
    market, cut = KernelMarket(candles, BTC), slice(120, 300)
    part = Candles(
        candles.open_ms[cut], candles.open[cut], candles.high[cut], candles.low[cut], candles.close[cut]
    )
    alone = KernelMarket(part, BTC)
    mine = run(market, columns, ONE, stop=0.002, target=0.003, rows=cut)
    theirs = run(alone, Columns(*(column[cut] for column in columns)), ONE, stop=0.002, target=0.003)
    assert len(mine.trades) > 10
    assert (mine.trades == theirs.trades).all()
    assert (mine.equity_money == theirs.equity_money).all()


def test_a_batch_is_the_single_runs_in_order() -> None:
    market = KernelMarket(walk(2, 3_000), BTC)
    jobs = [Job(draw_columns(seed, 3_000, 0.05), 0.001 * seed, 0.002) for seed in range(6)]
    marks = np.array([100, 2_999])
    for job, found in zip(jobs, run_batch(market, jobs, ONE, marks=marks), strict=True):
        alone = run(market, job.columns, ONE, stop=job.stop, target=job.target)
        assert (found.trades == alone.trades).all()
        assert found.equity_money.tolist() == alone.equity_money[marks].tolist()


def test_prices_between_ticks_stay_exact() -> None:
    candles = walk(3, 120, tick=0.001)
    found = check_equal(candles, draw_columns(3, 120, 0.1), Conditions(slippage_ticks=1), stop=0.002)
    assert found.market.price_step == Decimal("0.001")


def test_what_the_kernel_cannot_do_exactly_is_told_by_name() -> None:
    candles, columns = walk(1, 30), at(30)
    market, numbers = KernelMarket(candles, BTC), cast("Any", np.zeros(30))
    for bad, words in (
        (
            lambda: run(market, columns._replace(long=np.zeros(29, bool)), ONE),
            "long: expected 30 booleans, got bool",
        ),
        (
            lambda: run(market, columns._replace(short=numbers), ONE),
            "short: expected 30 booleans, got float64",
        ),
        (lambda: run(market, columns, ONE, stop=1.0), "stop: expected a fraction"),
        (lambda: run(market, columns, Conditions(sizing=Sizing("notional", Decimal(0)))), "size: notional 0"),
        (lambda: run(market, columns, Conditions(leverage=200)), "leverage: 200 is more than BTCUSDT allows"),
        (lambda: KernelMarket(candles._replace(low=candles.low[:9]), BTC), "columns of different length"),
        (lambda: KernelMarket(candles._replace(low=candles.low * np.nan), BTC), "a price is nan"),
        (
            lambda: KernelMarket(candles._replace(high=candles.high * np.pi), BTC),
            "round them to the tick 0.1",
        ),
    ):
        with pytest.raises(KernelError, match=words):
            bad()


def test_a_position_that_may_be_liquidated_is_the_event_tiers() -> None:
    candles = bars_of(*[(100.0, 100.1, 99.9, 100.0)] * 3, (95.0, 95.1, 80.0, 90.0))
    conditions = Conditions(wallet=Decimal(1_000), leverage=10, sizing=Sizing("equity", Decimal(5)))
    with pytest.raises(KernelError, match=r"liquidated in the bar of 1970-01-01T00:03"):
        run(KernelMarket(candles, BTC), at(4, long=[0]), conditions)
    run(KernelMarket(candles, BTC), at(4, long=[0]), conditions, stop=0.05)


def test_a_gap_to_where_a_position_is_liquidated_is_the_event_tiers() -> None:
    """The stop and the exit fill at the open; the venue looks at the margin before either."""
    candles = bars_of(*[(100.0, 100.1, 99.9, 100.0)] * 3, (89.0, 90.0, 88.9, 89.5))
    conditions = Conditions(wallet=Decimal(1_000), leverage=10, sizing=Sizing("equity", Decimal(5)))
    for columns, stop in ((at(4, long=[0]), 0.02), (at(4, long=[0], exit_long=[2]), 0.0)):
        with pytest.raises(KernelError, match=r"liquidated in the bar of 1970-01-01T00:03"):
            run(KernelMarket(candles, BTC), columns, conditions, stop=stop)


def test_where_a_position_is_liquidated_goes_by_its_own_size() -> None:
    """The venue's ladder asks large positions for more, and a small one of a large wallet for no more."""
    candles = bars_of(
        *[(60_000.0, 60_001.0, 59_999.0, 60_000.0)] * 3, (60_000.0, 60_000.0, 59_556.0, 59_600.0)
    )
    market, columns = KernelMarket(candles, BTC), at(4, long=[0])
    large = Conditions(wallet=Decimal(50_000), leverage=75, sizing=Sizing("notional", Decimal(2_900_000)))
    with pytest.raises(KernelError, match=r"liquidated in the bar of 1970-01-01T00:03"):
        run(market, columns, large)
    small = Conditions(wallet=Decimal(30_000_000), leverage=20, sizing=Sizing("notional", Decimal(10_000)))
    check_equal(candles, columns, small)


def test_steps_of_money_so_fine_that_the_ladder_leaves_64_bits() -> None:
    candles = walk(5, 80, step=0.004, price=1.2e-5, tick=1e-8)
    conditions = Conditions(sizing=Sizing("equity", Decimal("0.1")), slippage_ticks=1)
    assert len(check_equal(candles, draw_columns(5, 80, 0.2), conditions, DUST, stop=0.01).trades) > 5


def test_funding_of_more_lots_than_nine_billion_is_exact() -> None:
    candles = walk(6, 60, step=0.004, price=1.2e-5, tick=1e-8)
    candles = candles._replace(
        open_ms=candles.open_ms[0] // FUNDING_MS * FUNDING_MS + np.arange(60) * 900_000
    )
    slots = np.unique(candles.open_ms // FUNDING_MS)
    rates = np.array([0.000123456789] * slots.size)
    conditions = Conditions(wallet=Decimal(10**6), sizing=Sizing("equity", Decimal("0.5")))
    paid = {int(slot): Rate(int(slot) * FUNDING_MS, rates[0]) for slot in slots}
    trades, equity = run_tier_1(candles, at(60, long=[0]), conditions, DUST, 0.0, 0.0, paid)
    market = KernelMarket(candles, DUST, Funding(slots * FUNDING_MS, rates, rates * np.nan))
    found = run(market, at(60, long=[0]), conditions)
    assert trades[0].quantity / DUST.lot_size > 9 * 10**9
    assert (rows_of_kernel(found), equity_of_kernel(found)) == (trades, equity)


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(wallet=Decimal(5) * 10**9, leverage=20, sizing=Sizing("quantity", Decimal("0.1"))),
        Conditions(sizing=Sizing("quantity", Decimal(10) ** 16)),
        Conditions(sizing=Sizing("notional", Decimal(10) ** 11)),
    ],
)
def test_large_money_and_sizes_stay_exact(conditions: Conditions) -> None:
    check_equal(walk(4, 60), draw_columns(4, 60, 0.2), conditions)


def test_money_and_sizes_that_leave_what_is_exact_are_told_by_name() -> None:
    market, columns = KernelMarket(walk(1, 30), BTC), at(30)
    for conditions, words in (
        (Conditions(wallet=Decimal(10) ** 11), "wallet: 100000000000 in steps of 1E-8 exceeds 64 bits"),
        (Conditions(sizing=Sizing("equity", Decimal("0.3333333333"))), "has more than nine decimals"),
        (Conditions(sizing=Sizing("volatility", Decimal("1E-10"))), "has more than nine decimals"),
    ):
        with pytest.raises(KernelError, match=words):
            run(market, columns, conditions)


def test_volatility_is_measured_by_the_interval_and_not_by_the_holes() -> None:
    """Candles of which every other is missing are still one-minute candles."""
    candles = walk(7, 80)
    candles = candles._replace(open_ms=candles.open_ms[0] + np.arange(80) * 120_000)
    columns, conditions = draw_columns(7, 80, 0.1), Conditions(sizing=SIZINGS[-1])
    trades, equity = run_tier_1(candles, columns, conditions, BTC, 0.0, 0.0)
    found = run(KernelMarket(candles, BTC, interval_ms=60_000), columns, conditions)
    assert len(trades) > 3
    assert (rows_of_kernel(found), equity_of_kernel(found)) == (trades, equity)
