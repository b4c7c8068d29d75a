"""Whatever prices, partial fills, refusals and silent cancels come: what must hold of the trader's orders."""

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.event import AnyEvent
from qmtl.core.order import Order, OrderType, Role
from qmtl.trader.callback import Callback
from qmtl.trader.decision import DecisionParams
from tests.trader.desk import Desk, ScriptedVenue

MOVES = st.tuples(
    st.sampled_from([-400.0, -70.0, -30.0, 0.0, 30.0, 70.0, 400.0]),
    st.sampled_from([100, 900, 5_000, 31_000]),
    st.sampled_from(["0", "0.3", "0.7", "1"]),
    st.sampled_from(["none", "reject_exit", "reject_entry", "hold_cancels"]),
)


class WatchfulVenue(ScriptedVenue):
    """Checks every order at the moment it is sent, against what is held and working then."""

    desk: Desk

    def submit(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        held, intent = self.desk.held, order.intent
        working = [o for o in self.desk.engine.risk.working.values() if o is not order]
        if intent.role is Role.ENTRY:
            assert held == 0
            assert working == []
            assert not intent.reduce_only
        else:
            assert intent.reduce_only
            assert intent.quantity == abs(held) > 0
            assert (intent.side == "SELL") == (held > 0)
            assert [o for o in working if o.intent.role is Role.EXIT] == []
        return super().submit(order, ts_ms)


@pytest.mark.fuzz
@given(st.lists(MOVES, min_size=5, max_size=60))
def test_orders_are_always_what_the_position_allows(moves: list[tuple[float, int, str, str]]) -> None:
    desk = Desk(Callback(DecisionParams(has_volatility_gate=False, cooldown_s=1.0)))
    venue = WatchfulVenue()
    venue.desk, desk.venue, desk.driver._venue = desk, venue, venue
    desk.wave()
    for move, after_ms, share, fault in moves:
        venue.share = Decimal(share)
        venue.rejects = {Role.EXIT} if fault == "reject_exit" else {Role.ENTRY} if "entry" in fault else set()
        venue.holds_cancels = fault == "hold_cancels"
        desk.price(60_000.0 + move, after_ms=after_ms)
        if desk.at % 60_000 > 50_000:
            desk.bar(60_000.0 + move)
        for order in desk.engine.risk.working.values():
            age_s = (desk.at - order.created_ms) / 1000
            limit = 30 if order.intent.role is Role.ENTRY else 5
            is_recalled = order in venue.cancelled or order.intent.type is OrderType.MARKET
            # A wake-up comes with the next event at the latest.
            assert age_s <= limit or is_recalled
    # Left alone in a calm venue, no position that should be left stays.
    venue.share, venue.rejects, venue.holds_cancels = Decimal(1), set(), False
    for order in list(desk.engine.risk.working.values()):
        desk.driver._feed(venue.cancel(order, desk.at))
    for _ in range(4):
        desk.price(50_000.0 if desk.held > 0 else 70_000.0, after_ms=6_000)
    desk.price(60_000.0, after_ms=6_000)
    assert [o for o in desk.engine.risk.working.values() if o.intent.role is Role.EXIT] == []
