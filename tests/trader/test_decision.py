"""Every rule of the decision, at its boundary and on both sides."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.order import OrderType, Role, Side, TimeInForce
from qmtl.trader.conditional import Levels
from qmtl.trader.decision import Decision, DecisionParams, quiet_range

CALM = {"currentRV": 0.002, "minRV": 0.001, "maxRV": 0.003}
ENTRY = Decimal(60_000)


def bands(**changed: Any) -> dict[str, Any]:
    """No close and no price beyond any band, but for what is said otherwise."""
    result: dict[str, Any] = {}
    for name in ("gt_upperInter", "gt_upperBand", "lt_lowerInter", "lt_lowerBand"):
        result[f"PASTcloses_{name}_5t"] = (False,) * 5
        result[f"CURRclose_{name}"] = False
    return {**result, **CALM, **changed}


LONG_SIGNAL = bands(CURRclose_gt_upperInter=True)
SHORT_SIGNAL = bands(CURRclose_lt_lowerInter=True)


def held(amount: str, **changed: Any) -> dict[str, Any]:
    return {**bands(**changed), "positionAmt": Decimal(amount), "entryPrice": ENTRY}


def test_flat_goes_long_above_and_short_below() -> None:
    (buy,) = Decision().trade(60_000.0, **LONG_SIGNAL)
    assert (buy.side, buy.quantity, buy.type) == (Side.BUY, Decimal("0.01"), OrderType.LIMIT)
    assert (buy.limit_price, buy.time_in_force) == (Decimal("60006.0"), TimeInForce.GTC)
    assert (buy.reduce_only, buy.role) == (False, Role.ENTRY)
    (sell,) = Decision().trade(60_000.0, **SHORT_SIGNAL)
    assert (sell.side, sell.limit_price, sell.reduce_only) == (Side.SELL, Decimal("59994.0"), False)


@pytest.mark.parametrize("past", [(True, False), (False, True), (True, True)])
def test_a_close_already_beyond_is_no_fresh_break(past: tuple[bool, bool]) -> None:
    beyond = (False, False, False, *past)
    long = bands(CURRclose_gt_upperInter=True, PASTcloses_gt_upperInter_5t=beyond)
    short = bands(CURRclose_lt_lowerInter=True, PASTcloses_lt_lowerInter_5t=beyond)
    assert Decision().trade(60_000.0, **long) == Decision().trade(60_000.0, **short) == ()


def test_closes_before_the_last_two_do_not_matter() -> None:
    old = bands(CURRclose_gt_upperInter=True, PASTcloses_gt_upperInter_5t=(True, True, True, False, False))
    assert len(Decision().trade(60_000.0, **old)) == 1


@pytest.mark.parametrize(
    ("amount", "price", "why"),
    [
        ("0.01", 59_934.0, "stop"),  # 60,000 × 0.9989
        ("0.01", 59_934.1, ""),
        ("0.01", 60_096.0, "target"),  # 60,000 × 1.0016
        ("0.01", 60_095.9, ""),
        ("-0.01", 60_066.0, "stop"),  # 60,000 × 1.0011
        ("-0.01", 60_065.9, ""),
        ("-0.01", 59_904.0, "target"),  # 60,000 × 0.9984
        ("-0.01", 59_904.1, ""),
    ],
)
def test_stop_and_target_at_their_price_and_one_tick_before(amount: str, price: float, why: str) -> None:
    orders = Decision().trade(price, **held(amount))
    assert [order.why for order in orders] == ([why] if why else [])


@pytest.mark.parametrize(
    ("amount", "past", "beyond"),
    [
        ("0.01", "PASTcloses_gt_upperBand_5t", "CURRclose_gt_upperBand"),
        ("-0.01", "PASTcloses_lt_lowerBand_5t", "CURRclose_lt_lowerBand"),
    ],
)
def test_re_entry_needs_the_last_close_beyond_and_the_price_within(
    amount: str, past: str, beyond: str
) -> None:
    last, older = (False, False, False, False, True), (False, False, False, True, False)
    (order,) = Decision().trade(60_000.0, **held(amount, **{past: last}))
    assert order.why == "re-entry"
    assert Decision().trade(60_000.0, **held(amount, **{past: last, beyond: True})) == ()
    assert Decision().trade(60_000.0, **held(amount, **{past: older})) == ()


def test_exits_are_reduce_only_and_exactly_the_open_quantity() -> None:
    (sell,) = Decision().trade(59_000.0, **held("0.0137"))
    assert (sell.side, sell.quantity, sell.reduce_only, sell.role) == (
        Side.SELL,
        Decimal("0.0137"),
        True,
        Role.EXIT,
    )
    (buy,) = Decision().trade(61_000.0, **held("-0.0137"))
    assert (buy.side, buy.quantity, buy.reduce_only) == (Side.BUY, Decimal("0.0137"), True)
    market = Decision().leave(59_000.0, Decimal("0.0137"), "stop", is_urgent=True)
    assert (market.type, market.limit_price, market.reduce_only) == (OrderType.MARKET, None, True)


def test_a_closing_sell_never_opens_a_short() -> None:
    """Whatever the signal says, in a position the only order is its exit."""
    signal = {**held("0.01"), "CURRclose_lt_lowerInter": True}
    assert Decision().trade(60_000.0, **signal) == ()
    (order,) = Decision().trade(59_000.0, **signal)
    assert order.reduce_only
    assert order.quantity == Decimal("0.01")


@pytest.mark.parametrize(
    ("gate", "changed"),
    [
        ("open_order", {"hasOpenOrder": True}),
        ("cooldown", {"sinceTrade_s": 299.999}),
        ("", {"sinceTrade_s": 300.0}),
        ("", {"sinceTrade_s": None}),
        ("volatility", {"currentRV": 0.0031}),
        ("volatility", {"currentRV": 0.0009}),
        ("", {"currentRV": 0.003}),
        ("", {"currentRV": 0.001}),
        ("volatility", {"currentRV": False, "minRV": False, "maxRV": False}),
    ],
)
def test_gates_hold_entries_back_and_exits_never(gate: str, changed: dict[str, Any]) -> None:
    decision = Decision()
    assert decision.find_gate({**LONG_SIGNAL, **changed}) == gate
    assert bool(decision.trade(60_000.0, **{**LONG_SIGNAL, **changed})) == (not gate)
    assert len(decision.trade(59_000.0, **{**held("0.01"), **changed})) == 1


def test_the_volatility_gate_can_be_off() -> None:
    wild = {**LONG_SIGNAL, "currentRV": 1.0}
    assert len(Decision(DecisionParams(has_volatility_gate=False)).trade(60_000.0, **wild)) == 1


@pytest.mark.parametrize(
    ("side", "price", "tick", "expected"),
    [
        ("BUY", 60_000.0, "0.1", "60006.0"),
        ("BUY", 60_003.3, "0.1", "60009.3"),  # 60,009.30033 down to the passive tick
        ("SELL", 60_003.3, "0.1", "59997.3"),  # 59,997.29967 up to the passive tick
        ("BUY", 23_848.0, "0.10", "23850.3"),  # 23,850.3848
        ("SELL", 23_848.0, "0.10", "23845.7"),  # 23,845.6152
        ("BUY", 0.5, "0.001", "0.5"),  # the offset is under a tick: the price itself still crosses
        ("SELL", 0.5, "0.001", "0.5"),
        ("BUY", 0.5005, "0.001", "0.501"),  # rounding down would no longer cross
        ("SELL", 0.5005, "0.001", "0.5"),
        ("SELL", 0.0001, "0.001", "0.001"),  # never a price of zero
    ],
)
def test_limit_prices_go_through_the_market_on_the_passive_tick(
    side: str, price: float, tick: str, expected: str
) -> None:
    decision = Decision(DecisionParams(tick_size=Decimal(tick)))
    assert decision.trade_limit(side, price, 1).limit_price == Decimal(expected)


@given(
    st.decimals("0.01", "200000", places=4),
    st.sampled_from(["0.1", "0.01", "0.5", "1"]),
    st.sampled_from(["BUY", "SELL"]),
)
def test_limit_prices_cross_and_lie_on_the_tick(price: Decimal, tick: str, side: str) -> None:
    decision = Decision(DecisionParams(tick_size=Decimal(tick)))
    limit = decision.trade_limit(side, price, 1).limit_price
    assert limit is not None
    assert limit % Decimal(tick) == 0
    if side == "BUY":
        assert limit >= price
        assert limit <= max(price * Decimal("1.0001"), price + Decimal(tick))
    elif limit > Decimal(tick):
        assert limit <= price
        assert limit >= min(price * Decimal("0.9999"), price - Decimal(tick))


def test_order_type_is_a_parameter() -> None:
    ioc = Decision(DecisionParams(order_type="IOC")).trade_limit("BUY", 60_000.0, 0.01)
    assert (ioc.type, ioc.time_in_force, ioc.quantity) == (OrderType.LIMIT, TimeInForce.IOC, Decimal("0.01"))
    market = Decision(DecisionParams(order_type="MARKET")).trade_limit("BUY", 60_000.0, 0.01)
    assert (market.type, market.limit_price, market.time_in_force) == (OrderType.MARKET, None, None)


def test_amount_and_parameters_are_used() -> None:
    params = DecisionParams(symbol="ETHUSDT", quantity=Decimal(2), stop=Decimal("0.1"), cooldown_s=1)
    decision = Decision(params)
    assert decision.trade(3_000.0, **LONG_SIGNAL)[0].quantity == 2
    (order,) = decision.trade(3_000.0, **LONG_SIGNAL, amount=Decimal("0.5"), sinceTrade_s=1.0)
    assert (order.symbol, order.quantity) == ("ETHUSDT", Decimal("0.5"))
    assert decision.trade(59_000.0, **held("0.01")) == ()
    with pytest.raises(ValueError, match="amount: expected more than 0, got 0"):
        decision.trade_limit("BUY", 3_000.0, 0)


@given(
    st.floats(59_000.0, 61_000.0),
    st.floats(0.1, 300.0),
    st.sampled_from(["0", "0.01", "-0.01"]),
    st.tuples(st.floats(-1.2, 1.2), st.floats(-1.2, 1.2)),
    st.floats(-1.2, 1.2),
)
def test_between_the_bounds_of_the_quiet_range_nothing_is_traded(
    middle: float, width: float, amount: str, closes: tuple[float, float], where: float
) -> None:
    """The bounds come from the same rules; this is what lets the trader skip them at most updates."""

    def levels_of(at: float) -> Levels:
        close = round(middle + at * 3 * width, 1)
        return (close, middle + width, middle + 2 * width, middle - width, middle - 2 * width)

    decision, position = Decision(), Decimal(amount)
    last, before = levels_of(closes[0]), levels_of(closes[1])
    past = {}
    for band, column, sign in (
        ("gt_upperInter", 1, 1),
        ("gt_upperBand", 2, 1),
        ("lt_lowerInter", 3, -1),
        ("lt_lowerBand", 4, -1),
    ):
        beyond = tuple(row[0] * sign > row[column] * sign for row in (before, last))
        past[f"PASTcloses_{band}_5t"] = (False, False, False, *beyond)
    stop, target = decision.bounds(position, ENTRY)
    direction = (position > 0) - (position < 0)
    low, high = quiet_range(direction, (float(stop), float(target)), last, before)
    for price in (round(middle + where * 3 * width, 1), low, high, *last[1:]):
        conditions = {
            **past,
            **CALM,
            "CURRclose_gt_upperInter": price > last[1],
            "CURRclose_gt_upperBand": price > last[2],
            "CURRclose_lt_lowerInter": price < last[3],
            "CURRclose_lt_lowerBand": price < last[4],
        }
        if 0 < price < 1e9 and low < price < high:
            assert decision.trade(price, **conditions, positionAmt=position, entryPrice=ENTRY) == ()
