"""Our fold against the venue's statement: what is adopted, what is drift, what is neither."""

from collections.abc import Sequence
from decimal import Decimal as D

import pytest

from qmtl.core import event as ev
from qmtl.core.command import Command, SubmitOrder
from qmtl.core.limits import RiskLimits
from qmtl.core.order import Order, OrderStatus, Role, Side
from qmtl.core.reason import TradingState
from tests.engine.rig import Rig, status

S = OrderStatus


def state(
    rig: Rig,
    held: str = "0",
    *,
    orders: Sequence[ev.OrderReport] = (),
    wallet: str | None = None,
    entry: str = "60000",
) -> list[Command]:
    """Give one whole statement of the venue."""
    rig.now += 1000
    cash = rig.engine.account.wallet if wallet is None else D(wallet)
    positions = (ev.PositionReport("BTCUSDT", D(held), D(entry)),) if D(held) else ()
    return rig.give(
        ev.AccountReconciled(rig.now, tuple(orders), (ev.BalanceReport("USDT", cash),), positions)
    )


def report(key: str, **changes: object) -> ev.OrderReport:
    fields = {"status": S.ACCEPTED, "side": Side.BUY, "quantity": D(1), **changes}
    return ev.OrderReport(key, "v9", "BTCUSDT", **fields)  # type: ignore[arg-type]


def of(order: Order) -> ev.OrderReport:
    return report(order.client_order_id)


def test_the_first_start_adopts_what_is_there_and_alarms_nobody() -> None:
    rig = Rig(wallet=None, reconcile=True, stop="0.02")
    assert rig.try_submit(limit="60000") is None
    assert rig.records(ev.IntentRefused)[-1].code == "not_reconciled"
    commands = state(rig, "0.5", wallet="777")
    assert (rig.held, rig.engine.account.wallet) == (D("0.5"), D(777))
    assert rig.errors() == []
    assert rig.trading() is TradingState.ACTIVE
    assert [c.order.intent.role for c in commands if isinstance(c, SubmitOrder)] == [Role.PROTECTION]
    assert rig.try_submit(limit="60000") is not None


def test_the_first_statement_is_no_loss_of_today() -> None:
    rig = Rig(wallet=None, reconcile=True, limits=RiskLimits(max_daily_loss=D(50)))
    rig.mark(59_000.0)
    state(rig, "1", wallet="10000", entry="60000")
    rig.mark(59_000.0)
    assert rig.trading() is TradingState.ACTIVE
    rig.mark(58_950.0)
    assert rig.trading() is TradingState.REDUCING


def test_a_position_that_differs_twice_is_drift_and_is_adopted() -> None:
    rig = Rig()
    state(rig, "0.5")
    assert rig.errors() == []
    assert rig.asked_reconcile()
    assert rig.held == 0
    state(rig, "0.5")
    assert rig.errors() == ["position_drift"]
    assert rig.held == D("0.5")
    assert rig.trading() is TradingState.REDUCING
    assert "journal says 0, venue says 0.5" in rig.engine.risk.state_why


def test_a_statement_older_than_a_fill_that_overtook_it_is_no_drift() -> None:
    rig = Rig()
    rig.hold("1")
    state(rig, "0")
    state(rig, "1")
    assert rig.errors() == []
    assert rig.held == D(1)


def test_entries_wait_until_a_difference_is_decided() -> None:
    rig = Rig(reconcile=True)
    state(rig, "1")
    assert "not_reconciled" in rig.engine.risk.entry_bans
    state(rig, "1")
    assert "not_reconciled" not in rig.engine.risk.entry_bans


@pytest.mark.parametrize(("change", "is_drift"), [("0.01", False), ("-0.01", False), ("0.02", True)])
def test_the_wallet_may_differ_by_a_rounding(change: str, is_drift: bool) -> None:
    rig = Rig()
    wallet = str(D(10000) + D(change))
    state(rig, wallet=wallet)
    state(rig, wallet=wallet)
    assert rig.errors() == (["wallet_drift"] if is_drift else [])
    assert rig.engine.account.wallet == D(wallet)
    rig.engine.account.check_conservation()


def test_a_foreign_order_raises_one_alarm_and_stops_entries() -> None:
    rig = Rig()
    for _ in range(3):
        state(rig, orders=[report("web_manual_1")])
    assert rig.errors() == ["foreign_order"]
    assert rig.trading() is TradingState.REDUCING
    assert rig.cancels() == []


def test_a_foreign_fill_is_booked_once_and_stops_entries() -> None:
    rig = Rig(stop="0.02")
    fill = ev.OrderFilled(rig.now, "web_1", "t9", "BTCUSDT", Side.BUY, D(2), D(60000), D(1), "USDT")
    rig.give(fill)
    rig.give(fill)
    assert rig.held == D(2)
    assert rig.errors() == ["foreign_fill"]
    assert rig.trading() is TradingState.REDUCING
    assert len(rig.stops) == 1
    assert rig.engine.account.fees == D(1)


def test_the_order_of_a_restored_backup_is_adopted_by_its_id() -> None:
    rig = Rig()
    key = "q" + "a" * 26
    rig.give(ev.OrderFilled(rig.now, key, "t9", "BTCUSDT", Side.BUY, D("0.4"), D(60000), D(0), "USDT"))
    state(rig, "0.4", orders=[report(key, filled=D("0.4"), average_price=D(60000))])
    adopted = rig.engine.orders.find(key)
    assert adopted is not None
    assert adopted.remaining == D("0.6")
    assert rig.errors() == ["adopted_fill"]
    assert rig.held == D("0.4")
    rig.fill(adopted)
    assert status(adopted) is S.FILLED
    assert rig.trading() is TradingState.ACTIVE


@pytest.mark.parametrize("key", ["q" + "a" * 25, "x" + "a" * 26, ""])
def test_other_ids_are_not_ours(key: str) -> None:
    rig = Rig()
    state(rig, orders=[report(key)])
    assert rig.errors() == ["foreign_order"]


def test_an_adopted_stop_protects_its_position() -> None:
    rig = Rig(wallet=None, reconcile=True, stop="0.02")
    key = "q" + "b" * 26
    stop = report(key, side=Side.SELL, stop_price=D(58800), close_position=True, reduce_only=True)
    state(rig, "1", orders=[stop], wallet="100")
    assert [order.client_order_id for order in rig.stops] == [key]
    assert rig.sent(Role.PROTECTION) == []
    assert not rig.engine.guard.is_waiting


def test_a_second_stop_and_one_without_position_are_cancelled() -> None:
    rig = Rig(stop="0.02")
    rig.hold()
    rig.accept(rig.stops[0])
    kept = rig.stops[0]
    fields = {"side": Side.SELL, "stop_price": D(58000), "close_position": True}
    state(rig, "1", orders=[of(kept), report("q" + "c" * 26, **fields)])
    assert [order.client_order_id for order in rig.cancels()] == ["q" + "c" * 26]


def test_a_cancel_that_never_left_is_sent_again() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.cancel(order)
    rig.commands.clear()
    state(rig, orders=[of(order)])
    assert rig.cancels() == [order]


def test_an_unsettled_order_found_open_is_settled_and_its_instrument_free() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.give(ev.OrderUnsettled(rig.now, order.client_order_id, "timeout"))
    assert rig.engine.risk.blocked
    state(rig, orders=[of(order)])
    assert status(order) is S.ACCEPTED
    assert rig.engine.risk.blocked == {}


def test_an_order_missing_at_the_venue_is_asked_for_not_guessed() -> None:
    rig = Rig(reconcile=True)
    state(rig)
    order = rig.submit(limit="60000")
    rig.accept(order)
    rig.commands.clear()
    state(rig)
    assert status(order) is S.ACCEPTED
    assert rig.asked_reconcile()
    rig.give(ev.OrderCanceled(rig.now, order.client_order_id))
    rig.commands.clear()
    state(rig)
    assert not rig.asked_reconcile()


def test_an_order_we_think_ended_and_the_venue_still_works_is_cancelled() -> None:
    rig = Rig()
    order = rig.submit(limit="60000")
    rig.give(ev.OrderRejected(rig.now, order.client_order_id, "absent"))
    rig.accept(order)
    assert rig.asked_reconcile()
    state(rig, orders=[of(order)])
    assert rig.cancels() == []
    state(rig, orders=[of(order)])
    assert rig.cancels() == [order]
    assert rig.errors() == ["illegal_transition", "order_drift"]


def account_update(rig: Rig, quantity: str) -> list[Command]:
    return rig.give(
        ev.AccountUpdated(rig.now, "ORDER", (), (ev.PositionReport("BTCUSDT", D(quantity), D(60000)),))
    )


@pytest.mark.parametrize("speed", [1.0, 60.0])
def test_an_account_message_may_overtake_its_fill_by_15_seconds(speed: float) -> None:
    rig = Rig(speed=speed)
    order = rig.submit(limit="60000")
    account_update(rig, "1")
    rig.wait(14.9)
    assert not rig.asked_reconcile()
    rig.fill(order)
    assert rig.engine.state.drifts == {}
    rig.wait(30)
    assert not rig.asked_reconcile()


@pytest.mark.parametrize("speed", [1.0, 60.0, 7.3])
def test_a_difference_that_lasts_asks_the_venue(speed: float) -> None:
    rig = Rig(speed=speed)
    account_update(rig, "1")
    assert rig.engine.needs_timer
    rig.wait(7)
    account_update(rig, "2")
    rig.wait(8.001)
    assert rig.asked_reconcile()
    assert rig.engine.state.drifts == {}


def test_a_stream_that_was_away_is_asked_for_what_it_missed() -> None:
    rig = Rig(reconcile=True)
    state(rig)
    rig.hold("1")
    known_ms = rig.engine.state.fills_ms
    rig.give(ev.FeedStateChanged(rig.now, "userData", is_fresh=False, reason="closed"))
    rig.now += 600_000
    order = rig.submit(Side.SELL, "0.1", reduce_only=True, role=Role.EXIT)
    rig.fill(order)
    # Fills while the stream is away prove nothing about those before them.
    assert rig.engine.state.fills_ms == known_ms
    rig.commands.clear()
    rig.give(ev.FeedStateChanged(rig.now, "userData", is_fresh=True))
    assert rig.asked_reconcile()


def test_fills_from_before_the_first_start_are_part_of_what_was_adopted() -> None:
    rig = Rig(wallet=None, reconcile=True)
    state(rig, "2", wallet="500")
    early = ev.OrderFilled(rig.now - 10, "web_1", "t1", "BTCUSDT", Side.BUY, D(2), D(60000), D(0), "USDT")
    rig.give(early)
    assert rig.held == D(2)
    assert rig.errors() == []
    assert rig.engine.state.adopted_ms == rig.now
