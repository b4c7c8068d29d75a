"""The one gate: every code, with its boundary."""

from decimal import Decimal as D
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.core.event import IntentRefused
from qmtl.core.limits import RiskLimits
from qmtl.core.order import OrderIntent, OrderType, PositionSide, Role, Side, TimeInForce
from qmtl.core.reason import RefusalCode, TradingState
from qmtl.engine.risk import Approved, Refused, assess, is_reducing
from tests.engine.rig import Rig, intent

BUY, SELL = Side.BUY, Side.SELL
NONE = RiskLimits()


def code(rig: Rig, order: OrderIntent, **limits: Any) -> RefusalCode | None:
    verdict = assess(order, rig.engine.risk, RiskLimits(**limits))
    return verdict.code if isinstance(verdict, Refused) else None


def exit_of(quantity: str = "1", side: Side = SELL) -> OrderIntent:
    return intent(side, quantity, reduce_only=True, role=Role.EXIT)


STOP = intent(
    SELL, type=OrderType.STOP_MARKET, stop_price=D(58000), close_position=True, role=Role.PROTECTION
)
FLATTEN = intent(SELL, reduce_only=True, role=Role.FLATTEN)


def test_states_pass_exactly_what_they_name() -> None:
    rig = Rig()
    rig.hold()
    risk = rig.engine.risk
    table = {
        TradingState.ACTIVE: [None, None, None, None],
        TradingState.REDUCING: [RefusalCode.REDUCING, None, None, None],
        TradingState.HALTED: [RefusalCode.HALTED, RefusalCode.HALTED, None, None],
    }
    for state, expected in table.items():
        risk.state = state
        assert [code(rig, order) for order in (intent(), exit_of(), STOP, FLATTEN)] == expected


@pytest.mark.parametrize("role", [Role.PROTECTION, Role.FLATTEN])
@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_an_opening_order_gets_through_under_no_role(role: Role, state: TradingState) -> None:
    rig = Rig()
    rig.engine.risk.state = state
    assert code(rig, intent(role=role)) is RefusalCode.REDUCING


@pytest.mark.parametrize("state", list(TradingState))
def test_cancels_always_pass(state: TradingState) -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.engine.risk.state = state
    rig.engine.risk.blocked["BTCUSDT"] = "unsettled"
    rig.engine.risk.entry_bans["clock_offset"] = "off"
    rig.cancel(order)
    assert rig.cancels() == [order]


@pytest.mark.parametrize(
    ("ban", "expected"),
    [
        ("stale_feed:kline_1m", RefusalCode.STALE_FEED),
        ("clock_offset", RefusalCode.CLOCK_OFFSET),
        ("not_reconciled", RefusalCode.NOT_RECONCILED),
        ("reducing", RefusalCode.REDUCING),
    ],
)
def test_bans_hold_entries_back_and_nothing_else(ban: str, expected: RefusalCode) -> None:
    rig = Rig()
    rig.hold()
    rig.engine.risk.entry_bans[ban] = "why"
    assert [code(rig, order) for order in (intent(), exit_of(), STOP, FLATTEN)] == [
        expected,
        None,
        None,
        None,
    ]


def test_a_blocked_instrument_passes_only_emergencies() -> None:
    rig = Rig()
    rig.hold()
    rig.engine.risk.blocked["BTCUSDT"] = "unsettled"
    expected = [RefusalCode.INSTRUMENT_BLOCKED, RefusalCode.INSTRUMENT_BLOCKED, None, None]
    assert [code(rig, order) for order in (intent(), exit_of(), STOP, FLATTEN)] == expected


BELOW, INVALID = RefusalCode.BELOW_MINIMUM, RefusalCode.INVALID_ORDER


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (intent(quantity="0.001"), None),
        (intent(quantity="0.0009"), BELOW),
        (intent(quantity="0"), BELOW),
        (intent(quantity="-1"), BELOW),
        (intent(quantity="NaN"), INVALID),
        (intent(quantity="Infinity"), INVALID),
        (intent(quantity="1E+40"), INVALID),
        (intent(quantity="1.0005"), INVALID),
        (intent(quantity="120"), None),
        (intent(quantity="120.001"), INVALID),
        (intent(quantity="1000", limit="60000"), None),
        (intent(quantity="1000.001", limit="60000"), INVALID),
        (intent(quantity="0.001", limit="5000"), None),
        (intent(quantity="0.001", limit="4999.9"), BELOW),
        (intent(limit="60000.1"), None),
        (intent(limit="60000.05"), INVALID),
        (intent(limit="0"), INVALID),
        (intent(limit="-1"), INVALID),
        (intent(limit="NaN"), INVALID),
        (intent(limit="1E+40"), INVALID),
        (intent(type=OrderType.LIMIT), INVALID),
        (intent(type=OrderType.STOP, limit_price=D(60000)), INVALID),
        (intent(type=OrderType.STOP_MARKET), INVALID),
        (intent(type=OrderType.TAKE_PROFIT_MARKET, stop_price=D("0.05")), INVALID),
        (intent(symbol="ETHUSDT"), INVALID),
    ],
)
def test_numbers_of_the_instrument(order: OrderIntent, expected: RefusalCode | None) -> None:
    assert code(Rig(), order) is expected


def test_reducing_orders_are_exempt_from_the_minimum_notional() -> None:
    rig = Rig()
    rig.hold()
    assert code(rig, intent(SELL, "0.001", limit="4999.9", reduce_only=True, role=Role.EXIT)) is None


def test_order_notional_boundary() -> None:
    rig = Rig()
    limit = {"max_order_notional": D(60000)}
    assert code(rig, intent(limit="60000"), **limit) is None
    assert code(rig, intent(limit="60000.1"), **limit) is RefusalCode.MAX_ORDER_NOTIONAL
    assert code(rig, intent(quantity="1"), **limit) is None
    assert code(rig, intent(quantity="1.001"), **limit) is RefusalCode.MAX_ORDER_NOTIONAL


def test_price_band_boundary() -> None:
    rig = Rig()
    band = {"price_band": D("0.01")}
    for price, expected in (
        ("60600", None),
        ("60600.1", RefusalCode.PRICE_BAND),
        ("59400", None),
        ("59399.9", RefusalCode.PRICE_BAND),
    ):
        assert code(rig, intent(limit=price), **band) is expected
    assert code(rig, intent(), **band) is None


def test_without_a_mark_the_own_price_counts_and_without_both_openings_wait() -> None:
    rig = Rig(mark=None)
    for name in ("max_order_notional", "max_position", "price_band"):
        assert code(rig, intent(), **{name: D(10)}) is RefusalCode.NO_MARK
        assert code(rig, exit_of(), **{name: D(10)}) is None
    assert code(rig, intent(limit="60000"), max_order_notional=D(60000)) is None
    assert code(rig, intent(limit="60000"), max_order_notional=D(59999)) is RefusalCode.MAX_ORDER_NOTIONAL
    assert code(rig, intent()) is None


def test_position_limit_counts_what_rests_on_the_same_side_only() -> None:
    rig = Rig()
    limit = {"max_position": D(180_000)}
    rig.hold("1")
    rig.submit(BUY, "1", limit="60000")
    assert code(rig, intent(BUY, "1", limit="60000"), **limit) is None
    assert code(rig, intent(BUY, "1.001", limit="60000"), **limit) is RefusalCode.MAX_POSITION
    # A short that rests far away may never fill: it makes no room for longs.
    rig.submit(SELL, "5", limit="90000")
    assert code(rig, intent(BUY, "1.001", limit="60000"), **limit) is RefusalCode.MAX_POSITION
    assert code(rig, intent(SELL, "3", limit="60000"), max_position=D(420_000)) is None


def test_position_limit_of_each_hedge_side() -> None:
    rig = Rig()
    rig.fill(rig.submit(BUY, "2", position_side=PositionSide.LONG))
    rig.fill(rig.submit(SELL, "2", position_side=PositionSide.SHORT))
    more = intent(BUY, "1", position_side=PositionSide.LONG)
    assert code(rig, more, max_position=D(180_000)) is None
    assert code(rig, more, max_position=D(179_999)) is RefusalCode.MAX_POSITION


def test_open_orders_boundary() -> None:
    rig = Rig()
    rig.submit(limit="60000")
    assert code(rig, intent(), max_open_orders=2) is None
    assert code(rig, intent(), max_open_orders=1) is RefusalCode.MAX_OPEN_ORDERS
    rig.engine.account.position("BTCUSDT").quantity = D(1)
    assert code(rig, exit_of(), max_open_orders=1) is None


@pytest.mark.parametrize("speed", [1.0, 60.0])
def test_orders_per_minute_counts_real_minutes(speed: float) -> None:
    rig = Rig(limits=RiskLimits(orders_per_minute=2), speed=speed)
    assert rig.try_submit() is not None
    rig.wait(30)
    assert rig.try_submit() is not None
    assert rig.try_submit() is None
    assert rig.records(IntentRefused)[-1].code == ("orders_per_minute")
    rig.wait(29.9)
    assert rig.try_submit() is None
    rig.wait(0.1)
    assert rig.try_submit() is not None


def test_two_plain_sells_of_one_long_are_not_both_reducing() -> None:
    rig = Rig()
    rig.hold("1")
    first = intent(SELL, "1", limit="61000", role=Role.EXIT)
    rig.engine.risk.state = TradingState.REDUCING
    assert code(rig, first) is None
    rig.submit(SELL, "1", limit="61000", role=Role.EXIT)
    assert code(rig, first) is RefusalCode.REDUCING
    assert code(rig, exit_of("1")) is None


def test_a_market_exit_is_not_held_back_by_the_resting_stop_beside_it() -> None:
    rig = Rig()
    rig.hold("1")
    rig.submit(SELL, "1", type=OrderType.STOP_MARKET, stop_price=D(59000), reduce_only=True, role=Role.STOP)
    rig.engine.risk.state = TradingState.REDUCING
    assert code(rig, intent(SELL, "1", role=Role.EXIT)) is None


def test_halt_cancels_whatever_could_open_and_leaves_what_cannot() -> None:
    rig = Rig()
    rig.hold("1")
    entry = rig.submit(BUY, limit="50000")
    plain = rig.submit(SELL, limit="70000", role=Role.TARGET)
    sure = rig.submit(SELL, limit="71000", role=Role.TARGET, reduce_only=True)
    for order in (entry, plain, sure):
        rig.accept(order)
    rig.engine.set_state(TradingState.HALTED, "me", "storm")
    rig._collect()
    assert rig.cancels() == [entry, plain]


quantities = st.integers(1, 3000).map(lambda n: D(n) / 1000)


@settings(max_examples=500)
@given(
    st.integers(-3000, 3000).map(lambda n: D(n) / 1000),
    st.sampled_from(list(Side)),
    quantities,
    st.booleans(),
    st.sampled_from([TimeInForce.GTC, None]),
)
def test_what_passes_while_reducing_never_grows_the_position(
    held: D, side: Side, quantity: D, reduce_only: bool, tif: TimeInForce | None
) -> None:
    rig = Rig()
    rig.engine.account.position("BTCUSDT").quantity = held
    order = intent(side, str(quantity), reduce_only=reduce_only, time_in_force=tif)
    rig.engine.risk.state = TradingState.REDUCING
    passed = isinstance(assess(order, rig.engine.risk, NONE), Approved)
    after = held + (quantity if side is BUY else -quantity)
    if passed and not reduce_only:
        assert abs(after) < abs(held)
        assert after == 0 or (after > 0) == (held > 0)
    assert passed == is_reducing(order, rig.engine.account)
