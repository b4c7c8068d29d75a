"""Orders move along the table, whatever order the news comes in."""

from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.core import event as ev
from qmtl.core.order import DONE, TRANSITIONS, OrderStatus, Role, Side
from qmtl.engine.state import FINISHED_KEPT
from tests.engine.rig import Rig, status

S = OrderStatus


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("to", list(S))
def test_a_move_happens_exactly_where_the_table_allows_it(state: S, to: S) -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    order.status = state
    allowed = to in TRANSITIONS[state]
    assert rig.engine.orders.move(order, to, rig.now + 5, "why") is allowed
    assert status(order) is (to if allowed else state)
    assert order.updated_ms == (rig.now + 5 if allowed else rig.now)


def test_an_illegal_move_is_an_error_event_and_changes_nothing() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.fill(order)
    rig.give(ev.OrderCanceled(rig.now, order.client_order_id))
    assert status(order) is S.FILLED
    assert rig.errors() == ["illegal_transition"]
    assert rig.records(ev.ErrorRecorded)[0].detail == "filled -> canceled"


def test_a_repeated_fill_is_folded_once() -> None:
    rig = Rig()
    order = rig.submit(quantity="3", limit="60000")
    for _ in range(3):
        rig.fill(order, "1", trade="same")
    assert (order.filled, rig.held, rig.strategy.fills) == (D(1), D(1), [D(1)])
    rig.fill(order, "1", trade="other")
    assert (order.filled, rig.held) == (D(2), D(2))


def test_an_ack_that_loses_the_race_against_a_fill_is_no_error() -> None:
    rig = Rig()
    order = rig.submit(quantity="2", limit="60000")
    rig.fill(order, "1")
    rig.accept(order)
    assert status(order) is S.PARTIALLY_FILLED
    rig.fill(order, "1")
    rig.accept(order)
    assert status(order) is S.FILLED
    assert order.venue_order_id == "v1"
    assert rig.errors() == []


def test_a_timeout_that_loses_the_race_against_the_stream_is_no_error() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.give(ev.OrderUnsettled(rig.now, order.client_order_id, "timeout"))
    assert status(order) is S.ACCEPTED
    assert rig.errors() == []
    assert not rig.engine.risk.blocked


def test_cancel_against_fill_both_orders_of_news() -> None:
    for is_fill_first in (True, False):
        rig = Rig()
        order = rig.submit(quantity="2", limit="60000")
        rig.accept(order)
        rig.cancel(order)
        assert status(order) is S.PENDING_CANCEL
        if is_fill_first:
            rig.fill(order, "1")
            assert status(order) is S.PENDING_CANCEL
            rig.give(ev.OrderCanceled(rig.now, order.client_order_id))
        else:
            rig.give(ev.OrderCanceled(rig.now, order.client_order_id))
            rig.fill(order, "1")
        assert status(order) is S.CANCELED
        assert (order.filled, rig.held) == (D(1), D(1))
        assert rig.errors() == []


def test_a_cancelled_order_that_turns_out_filled_is_filled() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.give(ev.OrderCanceled(rig.now, order.client_order_id))
    assert order.client_order_id in rig.engine.state.finished
    rig.fill(order)
    assert status(order) is S.FILLED
    assert rig.held == D(1)
    assert rig.errors() == []


def test_a_cancel_before_the_ack_waits_for_it() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.cancel(order)
    rig.cancel(order)
    assert rig.cancels() == []
    rig.accept(order)
    assert rig.cancels() == [order]
    assert rig.engine.state.cancel_wanted == []


def test_a_cancel_before_the_ack_is_not_lost_when_a_fill_overtakes_the_ack() -> None:
    rig = Rig()
    order = rig.submit(quantity="2", limit="60000")
    rig.cancel(order)
    rig.fill(order, "1")
    assert rig.cancels() == [order]
    assert status(order) is S.PENDING_CANCEL
    rig.accept(order)
    assert rig.cancels() == [order]


def test_a_refused_cancel_is_wished_for_until_the_venue_tells_more() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.cancel(order)
    rig.commands.clear()
    rig.give(ev.CancelRejected(rig.now, order.client_order_id, "timeout"))
    assert status(order) is S.ACCEPTED
    assert rig.strategy.told[-1] == S.ACCEPTED
    assert rig.asked_reconcile()
    report = ev.OrderReport(order.client_order_id, "v1", "BTCUSDT", S.ACCEPTED, Side.BUY, D(1))
    wallet = ev.BalanceReport("USDT", rig.engine.account.wallet)
    rig.give(ev.AccountReconciled(rig.now, (report,), (wallet,)))
    assert rig.cancels() == [order]
    assert status(order) is S.PENDING_CANCEL


def test_the_wish_to_cancel_ends_with_the_order() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.cancel(order)
    rig.give(ev.OrderRejected(rig.now, order.client_order_id, "-2019"))
    assert rig.engine.state.cancel_wanted == []
    assert rig.cancels() == []


def test_unknown_blocks_the_instrument_until_every_order_of_it_is_settled() -> None:
    rig = Rig()
    first, second = rig.submit(limit="60000"), rig.submit(limit="60000")
    for order in (first, second):
        rig.give(ev.OrderUnsettled(rig.now, order.client_order_id, "timeout"))
    assert rig.asked_reconcile()
    assert rig.try_submit(limit="60000") is None
    assert rig.records(ev.IntentRefused)[-1].code == "instrument_blocked"
    rig.give(ev.OrderRejected(rig.now, first.client_order_id, "absent"))
    assert rig.try_submit(limit="60000") is None
    rig.fill(second)
    assert rig.try_submit(limit="60000") is not None


def test_fees_in_another_asset_are_not_counted_as_the_settle_currency() -> None:
    rig = Rig()
    order = rig.submit(quantity="2", limit="60000")
    rig.fill(order, "1", fee="0.01", asset="BNB")
    rig.fill(order, "1", fee="3", asset="USDT")
    assert order.fee == D(3)
    assert rig.engine.account.fees == D(3)


def test_ended_orders_are_forgotten_only_when_old() -> None:
    rig = Rig()
    for _ in range(600):
        order = rig.submit(limit="60000")
        rig.give(ev.OrderRejected(rig.now, order.client_order_id, "no"))
    assert len(rig.engine.state.finished) == 600
    rig.now += 121_000
    order = rig.submit(limit="60000")
    rig.give(ev.OrderRejected(rig.now, order.client_order_id, "no"))
    assert len(rig.engine.state.finished) == 601 - FINISHED_KEPT


news = st.lists(st.sampled_from(["ack", "f1", "f2", "f2", "cancel", "canceled", "refused"]), max_size=12)


@settings(max_examples=400)
@given(news)
def test_any_order_of_news_keeps_filled_and_position_equal(steps: list[str]) -> None:
    rig = Rig()
    order = rig.submit(quantity="2", limit="60000")
    key = order.client_order_id
    for step in steps:
        if step == "ack":
            rig.accept(order)
        elif step in {"f1", "f2"}:
            rig.fill(order, "1", trade=step)
        elif step == "cancel":
            rig.cancel(order)
        elif step == "canceled":
            rig.give(ev.OrderCanceled(rig.now, key))
        else:
            rig.give(ev.CancelRejected(rig.now, key, "no"))
        assert order.filled == rig.held == len(set(order.trade_ids))
        assert (key in rig.engine.risk.working) == (order.status not in DONE)
        assert (key in rig.engine.state.finished) == (order.status in DONE)
    assert (order.status is S.FILLED) == (order.filled == 2)
    if "cancel" in steps and order.status not in DONE:
        is_wanted = key in rig.engine.state.cancel_wanted
        assert order in rig.cancels() or is_wanted


def test_protection_is_kept_apart_from_working_orders() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    assert [order.intent.role for order in rig.stops] == [Role.PROTECTION]
    assert not rig.engine.risk.working
    assert rig.engine.context.orders == ()
