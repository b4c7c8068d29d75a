"""Conservation to the last decimal, whatever trades, pays and moves."""

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_UP, localcontext
from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.core.account import Account, ConservationError
from qmtl.core.order import PositionSide, Side

BOTH, LONG, SHORT = PositionSide.BOTH, PositionSide.LONG, PositionSide.SHORT


def amounts(low: int, high: int, places: int) -> st.SearchStrategy[D]:
    return st.integers(low, high).map(lambda n: D(n).scaleb(-places))


fills = st.tuples(
    st.just("fill"),
    st.sampled_from(["BTCUSDT", "SHIBUSDT"]),
    st.sampled_from(list(Side)),
    amounts(1, 10**7, 3),
    amounts(1, 10**10, 5),
    amounts(-(10**8), 10**8, 8),
)
moves = st.tuples(st.sampled_from(["funding", "transfer"]), amounts(-(10**12), 10**12, 8))
steps = st.lists(st.one_of(fills, fills, moves), min_size=1, max_size=40)


def apply(account: Account, step: tuple, sides: tuple[PositionSide, ...]) -> None:  # type: ignore[type-arg]
    if step[0] == "fill":
        _, symbol, side, quantity, price, fee = step
        position = account.position(symbol, sides[int(quantity * 1000) % len(sides)])
        if position.side is not BOTH:
            # Hedge mode never crosses zero: a closing fill is no larger than what is held.
            closing = (position.side is LONG) != (side is Side.BUY)
            quantity = min(quantity, abs(position.quantity)) if closing else quantity
            if not quantity:
                return
        account.fill(position, side, quantity, price, fee, 1)
    elif step[0] == "funding":
        account.pay_funding(step[1])
    else:
        account.transfer(step[1])


@settings(max_examples=500)
@given(steps)
@pytest.mark.parametrize("sides", [(BOTH,), (LONG, SHORT)], ids=["one-way", "hedge"])
def test_wallet_is_cash_flow_plus_open_cost(sides: tuple[PositionSide, ...], steps: list) -> None:  # type: ignore[type-arg]
    account = Account()
    for step in steps:
        apply(account, step, sides)
        account.check_conservation()
    moved = account.realized - account.fees + account.funding + account.transfers
    assert account.wallet == moved
    for position in account.positions.values():
        assert (position.quantity > 0) or position.side is not LONG or position.is_flat
        if position.is_flat:
            assert position.cost == 0


@settings(max_examples=300)
@given(steps)
def test_closing_everything_leaves_wallet_equal_to_cash(steps: list) -> None:  # type: ignore[type-arg]
    account = Account()
    for step in steps:
        apply(account, step, (BOTH,))
    for position in list(account.positions.values()):
        if position.quantity:
            side = Side.SELL if position.quantity > 0 else Side.BUY
            account.fill(position, side, abs(position.quantity), D("1.23456"), D(0), 2)
    assert account.wallet == account.flow
    assert account.equity() == account.wallet


def test_a_flip_realises_the_old_and_opens_the_rest_at_the_new_price() -> None:
    account = Account()
    position = account.position("BTCUSDT")
    account.fill(position, Side.BUY, D(2), D(100), D("0.1"), 5)
    assert account.fill(position, Side.SELL, D(5), D(110), D("0.2"), 9) == D(20)
    assert (position.quantity, position.entry_price, position.opened_ms) == (D(-3), D(110), 9)
    assert account.wallet == D("19.7")
    account.check_conservation()


def test_a_partial_close_keeps_the_entry_of_the_rest() -> None:
    account = Account()
    position = account.position("BTCUSDT")
    account.fill(position, Side.BUY, D(3), D("100.1"), D(0), 5)
    assert account.fill(position, Side.SELL, D(1), D("101.1"), D(0), 9) == D(1)
    assert (position.quantity, position.entry_price, position.opened_ms) == (D(2), D("100.1"), 5)


def test_money_from_nowhere_is_noticed() -> None:
    account = Account()
    account.fill(account.position("BTCUSDT"), Side.BUY, D(1), D(100), D(0), 1)
    account.position("BTCUSDT").cost += D("0.000000000001")
    with pytest.raises(ConservationError, match="is not cash flow"):
        account.check_conservation()


def test_hedge_sides_are_two_positions_and_one_net() -> None:
    account = Account()
    account.fill(account.position("BTCUSDT", LONG), Side.BUY, D(2), D(100), D(0), 1)
    account.fill(account.position("BTCUSDT", SHORT), Side.SELL, D(5), D(100), D(0), 1)
    account.marks["BTCUSDT"] = 90.0
    assert account.net_quantity("BTCUSDT") == D(-3)
    assert account.unrealized() == D(30)
    assert account.equity() == D(30)


@pytest.mark.parametrize("rounding", [ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_UP])
def test_a_librarys_rounding_does_not_change_what_is_booked(rounding: str) -> None:
    """A replay runs in another process than the trader did; ccxt sets its thread's rounding."""
    with localcontext(rounding=rounding):
        account = Account()
        position = account.position("BTCUSDT", PositionSide.BOTH)
        account.fill(position, Side.BUY, D(4), D("0.000000000001"), D(0), 1)
        account.fill(position, Side.BUY, D(4), D("0.00000000000025"), D(0), 2)
        account.fill(position, Side.SELL, D(4), D(1), D(0), 3)
        assert (position.quantity, position.cost) == (D(4), D("0.000000000003"))
