"""Our fold of the account against the venue's own statement of it."""

from decimal import Decimal
from typing import TYPE_CHECKING

from qmtl.core.command import CancelOrder, RequestReconcile
from qmtl.core.event import (
    AccountReconciled,
    AccountUpdated,
    OrderFilled,
    PositionReport,
)
from qmtl.core.money import ZERO
from qmtl.core.order import UNSETTLED, PositionSide
from qmtl.core.order_payload import CLIENT_ORDER_PREFIX
from qmtl.core.reason import TradingState
from qmtl.engine.state import FINISHED_KEPT

if TYPE_CHECKING:
    from qmtl.engine.engine import Engine

DRIFT_S = 15.0
"""Account messages overtake fills; a difference that lasts longer is drift."""

ROUNDING = Decimal("0.01")
"""The venue rounds each realised profit; a wallet difference up to here is that and is adopted."""

_ID_LENGTH = 27


class Reconciliation:
    """Compares, adopts the venue's truth, and names every difference the journal cannot explain."""

    def __init__(self, engine: "Engine") -> None:
        """Reconcile `engine`'s state."""
        self._engine = engine
        self._state = engine.state
        self._risk = engine.risk
        self._account = engine.account

    def on_account(self, event: AccountUpdated) -> None:
        """Remember where the venue's positions differ from ours; `on_timer` judges after DRIFT_S."""
        for report in event.positions:
            key = _key(report)
            held = self._account.positions.get(key)
            ours = held.quantity if held is not None else ZERO
            if ours == report.quantity:
                self._state.drifts.pop(key, None)
            elif key in self._state.drifts:
                self._state.drifts[key] = (report.quantity, self._state.drifts[key][1])
            else:
                self._state.drifts[key] = (report.quantity, self._risk.now_ms)
                self._engine.context.wake_in(DRIFT_S)

    def forget_settled_drifts(self) -> None:
        """Drop differences that a fill has just explained."""
        for key, (quantity, _) in list(self._state.drifts.items()):
            held = self._account.positions.get(key)
            if (held.quantity if held is not None else ZERO) == quantity:
                del self._state.drifts[key]

    def on_timer(self) -> None:
        """Ask the venue for everything when a difference has lasted."""
        for key, (quantity, since_ms) in list(self._state.drifts.items()):
            if (self._risk.now_ms - since_ms) / self._risk.speed / 1000 >= DRIFT_S:
                del self._state.drifts[key]
                self._engine.command(RequestReconcile(f"{key}: venue says {quantity}"))

    def on_foreign_fill(self, fill: OrderFilled) -> None:
        """A fill of an order this journal never wrote: book it, for it is real, and stop entering."""
        key = f"{fill.symbol}:{fill.trade_id}"
        trades = self._state.foreign_trades
        if key in trades or fill.ts_ms <= self._state.adopted_ms:
            return
        trades[key] = fill.ts_ms
        if len(trades) > FINISHED_KEPT:
            del trades[next(iter(trades))]
        position = self._account.position(fill.symbol, fill.position_side)
        fee = fill.fee if fill.fee_asset == self._account.asset else ZERO
        self._account.fill(position, fill.side, fill.quantity, fill.price, fee, fill.ts_ms)
        self._account.check_conservation()
        what = (
            f"{fill.side} {fill.quantity} {fill.symbol} @ {fill.price} by {fill.client_order_id or 'no id'}"
        )
        if self._state.drifts:
            self.forget_settled_drifts()
        if _is_own(fill.client_order_id):
            # Written by this account's journal before a backup was restored, or forgotten since.
            self._engine.error("adopted_fill", what, fill.client_order_id)
        else:
            self._engine.error("foreign_fill", what, fill.client_order_id)
            self._reduce(f"a fill not ours: {what}")
        self._engine.guard.on_position(position)

    def on_reconciled(self, event: AccountReconciled) -> None:
        """Take the venue's whole truth; the first one of an empty journal is simply the start.

        A statement can be older than a fill or an answer that overtook it, so a difference counts when the
        next statement still has it.
        """
        state = self._state
        is_first = not state.has_account
        state.has_account = True
        state.drifts.clear()
        before, state.suspects = state.suspects, {}
        self._compare_positions(event, before, is_first=is_first)
        self._compare_wallet(event, before, is_first=is_first)
        missing = self._compare_orders(event, before)
        self._account.check_conservation()
        if is_first:
            state.adopted_ms = event.ts_ms
            self._engine.guard.on_first_account()
        if missing or state.suspects:
            what = ", ".join([*(f"order {key} is not at the venue" for key in missing), *state.suspects])
            self._engine.command(RequestReconcile(what))
        if missing or any(not key.startswith("order ") for key in state.suspects):
            return
        state.fills_ms = max(state.fills_ms, event.ts_ms)
        self._risk.entry_bans.pop("not_reconciled", None)
        self._engine.guard.adopt_stops()

    def _is_confirmed(self, before: dict[str, str], key: str, difference: str) -> bool:
        """Tell whether the last statement showed the same difference; remember it for the next."""
        if before.get(key) == difference:
            return True
        self._state.suspects[key] = difference
        return False

    def _compare_positions(self, event: AccountReconciled, before: dict[str, str], *, is_first: bool) -> None:
        stated = {_key(report): report for report in event.positions}
        for key, held in list(self._account.positions.items()):
            if held.quantity and key not in stated:
                stated[key] = PositionReport(held.symbol, ZERO, ZERO, held.side)
        for key, report in stated.items():
            position = self._account.position(report.symbol, report.side)
            if position.quantity == report.quantity:
                continue
            what = f"{key}: journal says {position.quantity}, venue says {report.quantity}"
            if not is_first and not self._is_confirmed(before, f"position {key}", what):
                continue
            cost = report.quantity * report.entry_price
            self._account.flow += position.cost - cost
            position.quantity, position.cost = report.quantity, cost
            position.opened_ms = event.ts_ms if report.quantity else 0
            if is_first:
                continue
            self._engine.error("position_drift", what)
            self._reduce(f"position drift: {what}")

    def _compare_wallet(self, event: AccountReconciled, before: dict[str, str], *, is_first: bool) -> None:
        for balance in event.balances:
            if balance.asset != self._account.asset:
                continue
            difference = balance.wallet - self._account.wallet
            if not difference:
                continue
            is_drift = not is_first and abs(difference) > ROUNDING
            what = f"wallet: journal and venue differ by {difference} {balance.asset}"
            if is_drift and not self._is_confirmed(before, f"wallet {balance.asset}", what):
                continue
            self._account.transfer(difference)
            self._engine.guard.on_transfer(difference)
            if is_drift:
                self._engine.error("wallet_drift", what)
                self._reduce(what)

    def _compare_orders(self, event: AccountReconciled, before: dict[str, str]) -> list[str]:
        stated = {report.client_order_id: report for report in event.orders}
        orders = self._engine.orders
        for key, report in stated.items():
            known = orders.find(key)
            if known is not None and not known.is_done:
                self._engine.desk.on_stated_open(known, report.venue_order_id)
            elif known is not None:
                what = f"order {key} is {known.status} here and open at the venue"
                if self._is_confirmed(before, f"order {key}", what):
                    self._engine.error("order_drift", what, key)
                    self._engine.command(CancelOrder(known))
            elif _is_own(key):
                orders.adopt(report, event.ts_ms)
            elif key not in self._state.foreign_orders:
                self._state.foreign_orders.append(key)
                what = f"{report.side} {report.quantity} {report.symbol} {key or report.venue_order_id}"
                self._engine.error("foreign_order", what, key)
                self._reduce(f"an open order not ours: {what}")
        return [
            order.client_order_id
            for order in orders.open()
            if order.client_order_id not in stated and order.status not in UNSETTLED
        ]

    def _reduce(self, why: str) -> None:
        if self._risk.state is TradingState.ACTIVE:
            self._engine.set_state(TradingState.REDUCING, "engine", why)


def _is_own(client_order_id: str) -> bool:
    return client_order_id.startswith(CLIENT_ORDER_PREFIX) and len(client_order_id) == _ID_LENGTH


def _key(report: PositionReport) -> str:
    return report.symbol if report.side is PositionSide.BOTH else f"{report.symbol}:{report.side}"
